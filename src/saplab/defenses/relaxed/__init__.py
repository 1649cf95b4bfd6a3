"""The backward rule ``relaxed``: smooth stand-ins of saturated and stepwise functions, on the way back alone."""

from saplab.defenses.relaxed.mode import relaxing

__all__ = ["relaxing"]
