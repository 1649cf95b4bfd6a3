"""What the help of shared options says: every choice that the code takes."""

import re
from typing import get_args

import pytest

from saplab.attacks.batteries import BATTERIES, Whose
from saplab.attacks.gradient import Average
from saplab.attacks.losses import LossName
from saplab.attacks.norms import NORMS
from saplab.cli import options
from saplab.defenses.drawing import GRADIENT_RULES
from saplab.system.precision import PRECISIONS

CHOICES = {
    "Attack": (*BATTERIES, "noise", "fgsm", "iterative", "pgd", "apgd", "square", "arc"),
    "Adversary": get_args(Whose),
    "Average": get_args(Average),
    "Backward": GRADIENT_RULES,
    "Loss": get_args(LossName),
    "NormOption": tuple(NORMS),
    "Precision": PRECISIONS,
}


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_named(name: str) -> None:
    option = get_args(getattr(options, name))[1]
    words = set(re.findall(r"[\w-]+", option.help))
    assert set(CHOICES[name]) <= words
