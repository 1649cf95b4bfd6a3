"""PGD and APGD in L2 on undefended networks, by saplab and by other libraries: the second table of `peers.py`."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import saplab
from saplab.metrics import Interval, mean_interval, paired_difference

NETWORKS = ("preact-resnet20-dense", "preact-resnet20-fast")
L2PGD, APGD_CE = "Foolbox L2PGD", "pyautoattack APGD-CE"
MODULES = {L2PGD: "foolbox", APGD_CE: "pyautoattack"}


@dataclass(frozen=True)
class Plain:
    """An undefended network, images (N, C, H, W) with labels (N,), the radius in L2 and the steps of each attack."""

    net: nn.Module
    images: Tensor
    labels: Tensor
    eps: float
    steps: int

    @property
    def share(self) -> float:
        """The length of a step as a share of the radius, for attacks that do not choose it themselves."""
        return 2.5 / self.steps


def pgd(task: Plain, seed: int) -> Tensor:
    """Run saplab's PGD."""
    attack = saplab.PGD(steps=task.steps, relative_step=task.share)
    found: Tensor = attack(task.net, task.images, task.labels, eps=task.eps, seed=seed, norm="l2")
    return found


def apgd(task: Plain, seed: int) -> Tensor:
    """Run saplab's APGD on cross-entropy."""
    attack = saplab.APGD(steps=task.steps)
    found: Tensor = attack(task.net, task.images, task.labels, eps=task.eps, seed=seed, norm="l2")
    return found


def foolbox_pgd(task: Plain, seed: int) -> Tensor:
    """Run Foolbox's L2PGD."""
    import foolbox

    torch.manual_seed(seed)
    model = foolbox.PyTorchModel(task.net, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.L2PGD(rel_stepsize=task.share, steps=task.steps)
    found: Tensor = attack(model, task.images, task.labels, epsilons=task.eps)[1]
    return found


def pyautoattack_apgd(task: Plain, seed: int) -> Tensor:
    """Run the first attack of AutoAttack's standard version in L2."""
    from pyautoattack.autopgd_base import APGDAttack

    attack = APGDAttack(task.net, n_iter=task.steps, norm="L2", eps=task.eps, seed=seed, loss="ce", device="cpu")
    found: Tensor = attack.perturb(task.images, task.labels)
    return found


ATTACKS: Mapping[str, Callable[[Plain, int], Tensor]] = {
    "saplab PGD": pgd,
    L2PGD: foolbox_pgd,
    "saplab APGD": apgd,
    APGD_CE: pyautoattack_apgd,
}
PAIRS = (("saplab PGD", L2PGD), ("saplab APGD", APGD_CE))


def print_l2(task: Plain, name: str, attacks: Mapping[str, Callable[[Plain, int], Tensor]]) -> dict[str, Any]:
    """Print what each attack leaves and takes, and the differences between saplab's and the peers'; return the same."""
    print(f"{name}, {len(task.images)} images, L2, ε = {task.eps:g}, {task.steps} steps")
    print(f"{'':28}{'accuracy left, %':>20}{'longest':>10}{'wall s':>9}")
    right: dict[str, np.ndarray[Any, Any]] = {}
    found: dict[str, Any] = {}
    for who, attack in attacks.items():
        begin = time.perf_counter()
        points = attack(task, 0).detach()
        seconds = time.perf_counter() - begin
        longest = float((points - task.images).flatten(1).norm(dim=1).max())
        with torch.no_grad():
            right[who] = (task.net(points).argmax(1) == task.labels).double().numpy()
        left = mean_interval(right[who], 1)
        found[who] = {"percent": 100 * left.estimate, "longest": longest, "seconds": seconds}
        print(f"{who:28}{_percent(left):>20}{longest:>10.4f}{seconds:>9.1f}")
    for ours, theirs in PAIRS:
        if theirs in right:
            print(f"{ours} - {theirs}: {_percent(paired_difference(right[ours], right[theirs]))} points")
    print()
    return found


def _percent(interval: Interval) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in (interval.estimate, interval.low, interval.high)))
