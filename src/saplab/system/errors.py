"""Errors that are neither a mistake of the user's nor a bug."""


class EvaluationError(RuntimeError):
    """Some cells of an evaluation could not be computed; the others are kept."""
