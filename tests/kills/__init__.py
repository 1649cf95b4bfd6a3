"""Kills of the command line at random moments: run by hand as ``python -m kills``, in short by the suite."""
