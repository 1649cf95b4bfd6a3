"""How the command line names an entry of one's own, whose network is in ``tiny.py``."""

OWN = ("--model", "tiny:plain", "--defense", "gaussian-noise:0.1", "--name", "mine")
