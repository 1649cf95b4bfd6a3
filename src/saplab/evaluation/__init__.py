"""From stored predictions to rows, a verdict and a report."""
