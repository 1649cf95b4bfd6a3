"""One evaluation: from a request through its cells to rows, a verdict and a report."""
