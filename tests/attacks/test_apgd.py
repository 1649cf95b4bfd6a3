"""APGD: the paper's checkpoints and rules step by step, worst cases, and what is different where passes differ."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saplab
from saplab import APGD, MonteCarlo
from saplab.attacks import LINF, Problem
from saplab.attacks.apgd import checkpoints
from saplab.attacks.losses import LOSSES
from saplab.defenses import undefended


def reference(net: nn.Module, image: Tensor, label: Tensor, start: Tensor, eps: float, steps: int, loss: str) -> Tensor:
    """Algorithm 1 of Croce & Hein 2020 for one image, in its own words and with scalars, without any batch."""

    def f_and_slope(x: Tensor) -> tuple[float, Tensor]:
        x = x.clone().requires_grad_()
        value = LOSSES[loss](net(x[None]), label[None])[0]
        return float(value.detach()), torch.autograd.grad(value, x)[0]

    w, eta, alpha = [0, *checkpoints(steps)], 2 * eps, 0.75
    f, slope = f_and_slope(start)
    x, f_of, rose = [start], [f], []
    best, f_max, best_slope = start, f, slope
    f_max_at, eta_at = {0: f}, {0: eta}
    for k in range(steps):
        z = LINF.project(x[k] + eta * slope.sign(), image, eps)
        new = z if k == 0 else LINF.project(x[k] + alpha * (z - x[k]) + (1 - alpha) * (x[k] - x[k - 1]), image, eps)
        f, slope = f_and_slope(new)
        rose.append(f > f_of[k])
        x.append(new)
        f_of.append(f)
        if f > f_max:
            best, f_max, best_slope = new, f, slope
        if k + 1 in w:
            j = w.index(k + 1)
            condition1 = sum(rose[w[j - 1] : w[j]]) < 0.75 * (w[j] - w[j - 1])
            condition2 = eta_at[w[j - 1]] == eta and f_max_at[w[j - 1]] == f_max
            f_max_at[w[j]], eta_at[w[j]] = f_max, eta
            if condition1 or condition2:
                eta, x[-1], f_of[-1], slope = eta / 2, best, f_max, best_slope
    return best


@pytest.mark.parametrize("loss", ["cross-entropy", "dlr"])
@pytest.mark.parametrize("steps", [7, 40])
def test_it_is_algorithm_1(steps: int, loss: Any, net: nn.Module, images: Tensor, labels: Tensor) -> None:
    attack = APGD(MonteCarlo(loss=loss), steps, stop_when_lost=False)
    found = attack(net, images, labels, eps=0.15)
    starts = Problem.of(net, images, labels).random_start(0.15, 0)
    for x, image, label, start in zip(found, images, labels, starts, strict=True):
        torch.testing.assert_close(x, reference(net, image, label, start, 0.15, steps, loss), atol=1e-5, rtol=0)


def test_checkpoints_are_the_papers() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize("targets", [0, 1])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin", "dlr"])
def test_worst_case_of_a_linear_network_is_reached(loss: Any, targets: int, images: Tensor) -> None:
    """Logits -w·x and w·x, and two far below that let DLR have its classes: the worst case is x ± eps·sign(w)."""
    weight = torch.randn(12, generator=torch.Generator().manual_seed(3))

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = ((x.flatten(1) - 0.5) @ weight)[:, None]
            return torch.cat((-z, z, torch.full((len(x), 2), -50.0)), 1)

    labels = Linear()(images).argmax(1)
    sign = torch.where(labels == 0, 1.0, -1.0)[:, None, None, None] * weight.sign().view(3, 2, 2)
    attack = APGD(MonteCarlo(loss=loss), steps=20, targets=targets, stop_when_lost=False)
    torch.testing.assert_close(attack(Linear(), images, labels, eps=0.3), (images + 0.3 * sign).clamp(0, 1))


def test_the_best_point_of_a_random_network_is_looked_at_again(
    sap: nn.Module, images: Tensor, labels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh samples decide over the best point at each checkpoint; without that, lucky draws keep it for good."""
    seen: list[int] = []
    original = MonteCarlo.estimate

    def asked(self: MonteCarlo, problem: Problem, block: int = 0) -> Any:
        seen.append(block)
        return original(self, problem, block)

    monkeypatch.setattr(MonteCarlo, "estimate", asked)
    attack = APGD(MonteCarlo(2), steps=10, stop_when_lost=False)
    attack(sap, images, labels, eps=0.05)
    assert len(seen) == len(set(seen)) == 1 + 10 + len(checkpoints(10))
    seen.clear()
    attack(saplab.defend(undefended(sap), saplab.DeterministicWeightPruning(90)), images, labels, 0.05)
    assert len(seen) == 1 + 10


def test_bad_settings_are_refused() -> None:
    for settings, message in (
        ({"steps": 0}, "`steps` must be >= 1"),
        ({"rho": 1.5}, r"`rho` must be within \[0, 1\]"),
        ({"restarts": 0}, "`restarts` must be >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            APGD(**settings)  # type: ignore[arg-type]
