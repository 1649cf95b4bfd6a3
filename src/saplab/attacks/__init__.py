"""What an adversary may do: the ball and cube it moves in, Monte Carlo gradients, and attacks."""

from saplab.attacks.ball import eps_of
from saplab.attacks.gradient import MonteCarlo
from saplab.attacks.one_step import FGSM, RandomNoise

__all__ = ["FGSM", "MonteCarlo", "RandomNoise", "eps_of"]
