"""The adversary's losses, by hand."""

import pytest
import torch
import torch.nn.functional as F

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
