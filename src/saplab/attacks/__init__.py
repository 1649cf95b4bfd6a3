"""What an adversary may do: the room it moves in, Monte Carlo gradients, attacks and batteries of them."""

from saplab.attacks.apgd import APGD
from saplab.attacks.arc import ARC
from saplab.attacks.base import Attack, Craft, GradientAttack
from saplab.attacks.batteries import (
    BATTERIES,
    Attacker,
    Traits,
    attackers_of,
    parse_attackers,
    parse_radii,
    parse_strengths,
    radii_of,
    require_steps,
)
from saplab.attacks.estimate import Estimate, Score
from saplab.attacks.fgsm import FGSM, RandomNoise
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.lost import Watch
from saplab.attacks.norms import Bounds, NormName
from saplab.attacks.pgd import PGD, Iterative
from saplab.attacks.problem import Problem
from saplab.attacks.square import Square
from saplab.attacks.threat import LINF, ThreatModel, eps_of, strength_of

__all__ = [
    "APGD", "ARC", "BATTERIES", "FGSM", "LINF", "PGD", "Attack", "Attacker", "Bounds", "Cost", "Craft", "Estimate",
    "GradientAttack", "Iterative", "MonteCarlo", "NormName", "Problem", "RandomNoise", "Score", "Square",
    "ThreatModel", "Traits", "Watch", "attackers_of", "eps_of", "parse_attackers", "parse_radii", "parse_strengths",
    "radii_of", "require_steps", "strength_of",
]  # fmt: skip
