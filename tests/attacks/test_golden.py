"""What attacks in the maximum norm have found since before there were other norms, to the bit."""

import hashlib
from typing import Any

import pytest
from torch import Tensor, nn

from saplab import APGD, FGSM, PGD, Iterative, MonteCarlo, RandomNoise, Square

ATTACKS = {
    "noise": RandomNoise(),
    "fgsm": FGSM(MonteCarlo(4)),
    "iterative": Iterative(16.0, MonteCarlo(2)),
    "pgd": PGD(MonteCarlo(2), steps=4),
    "pgd, momentum": PGD(MonteCarlo(2, loss="margin"), steps=3, restarts=2, momentum=1.0),
    "pgd, targets": PGD(MonteCarlo(2), steps=3, targets=2),
    "apgd": APGD(MonteCarlo(2), steps=10, restarts=2),
    "apgd, targets": APGD(MonteCarlo(2, loss="dlr"), steps=5, targets=2),
    "square": Square(queries=20, passes=2),
}
GOLDEN = {
    "noise": "e36e0da7a7a9718f",
    "fgsm": "8ce54dc3ca751710",
    "iterative": "af9a2051ffb457a8",
    "pgd": "56a55d824b95df9c",
    "pgd, momentum": "fb42892843d17d58",
    "pgd, targets": "fc4d4a261b08fa1d",
    "apgd": "7bd3b7bdb4e51306",
    "apgd, targets": "0290bf9e9b6eafbd",
    "square": "16d8974b4579f512",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_images_are_the_same_bits(name: str, sap: nn.Module, images: Tensor, labels: Tensor) -> None:
    attack: Any = ATTACKS[name]
    digest = hashlib.sha256()
    for points in attack.curve(sap, images, labels, (0.05, 0.25), 3):
        digest.update(points.numpy().tobytes())
    assert digest.hexdigest()[:16] == GOLDEN[name]
