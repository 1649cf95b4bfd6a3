"""The adversary's losses, by hand."""

import pytest
import torch
import torch.nn.functional as F

from saplab.attacks import APGD, FGSM, PGD, MonteCarlo, RandomNoise, Square
from saplab.attacks.losses import (
    cross_entropy,
    dlr,
    margin,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)


def test_losses_by_hand() -> None:
    z, y = torch.tensor([[3.0, 1.0, 0.0, -1.0], [0.0, 2.0, 5.0, 1.0]]), torch.tensor([0, 1])
    torch.testing.assert_close(margin(z, y), torch.tensor([-2.0, 3.0]))
    torch.testing.assert_close(dlr(z, y), torch.tensor([-2 / 3, 3 / 4]))
    torch.testing.assert_close(cross_entropy(z, y), F.cross_entropy(z, y, reduction="none"))
    with pytest.raises(ValueError, match="at least 3 classes"):
        dlr(z[:, :2], y)


def test_targeted_losses_by_hand() -> None:
    z, y, t = torch.tensor([[3.0, 1.0, 0.0, -1.0]]), torch.tensor([0]), torch.tensor([2])
    torch.testing.assert_close(targeted_margin(z, y, t), torch.tensor([-3.0]))
    torch.testing.assert_close(targeted_dlr(z, y, t), torch.tensor([-3 / (3 - (0 - 1) / 2)]))
    torch.testing.assert_close(targeted_cross_entropy(z, y, t), z.log_softmax(1)[:, 2])
    with pytest.raises(ValueError, match="at least 4 classes"):
        targeted_dlr(z[:, :3], y, t)


def test_attacks_know_how_many_classes_they_need():
    dlr = MonteCarlo(loss="dlr")
    with pytest.raises(ValueError, match="the DLR loss needs at least 3 classes, got 2"):
        PGD(dlr).check_classes(2)
    PGD(dlr).check_classes(3)
    with pytest.raises(ValueError, match="the targeted DLR loss needs at least 4 classes, got 3"):
        APGD(dlr, targets=1).check_classes(3)
    with pytest.raises(ValueError, match="`targets` must be below the number of classes, 4, got 4"):
        APGD(dlr, targets=4).check_classes(4)
    APGD(dlr, targets=-3).check_classes(4)
    for attack in (RandomNoise(), FGSM(), Square()):
        attack.check_classes(2)
