"""What an adversary may do: the ball and cube it moves in, Monte Carlo gradients, and attacks."""

from saplab.attacks.apgd import APGD
from saplab.attacks.attack import Attack, Cost
from saplab.attacks.ball import eps_of
from saplab.attacks.black_box import Square
from saplab.attacks.estimate import Estimate, Score, lost
from saplab.attacks.gradient import MonteCarlo
from saplab.attacks.iterative import PGD, Iterative
from saplab.attacks.one_step import FGSM, RandomNoise

__all__ = [
    "APGD",
    "FGSM",
    "PGD",
    "Attack",
    "Cost",
    "Estimate",
    "Iterative",
    "MonteCarlo",
    "RandomNoise",
    "Score",
    "Square",
    "eps_of",
    "lost",
]
