"""The attacks that `peers.py` compares, by saplab and by other libraries, which are imported where they are used."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from suite.gradients import BATCH, EOTPGD
from torch import Tensor, nn

import saplab
from saplab.defenses.stochastic import trust
from saplab.pruning.operator import BackwardRule

OURS, EVERY_STEP, ADAPTIVE_STEP = "saplab PGD", "saplab PGD, never stopping", "saplab APGD"
RAND = "pyautoattack rand"
MODULES = {EOTPGD: "torchattacks", RAND: "pyautoattack"}


@dataclass(frozen=True)
class Task:
    """What all attacks are given.

    Attributes:
        net: the network to defend with SAP-100 and to attack.
        images, labels: (N, C, H, W) in [0, 1], and (N,).
        eps: radius, in the unit of the images.
        steps: of each attack.
        samples: passes averaged in each step.
        backward: rule by which the gradient is computed.
        passes: of the defender, to judge an adversarial image.
        counts: examples that went through the defended network, with and without a gradient.
    """

    net: nn.Module
    images: Tensor
    labels: Tensor
    eps: float
    steps: int
    samples: int
    backward: BackwardRule
    passes: int
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def step_size(self) -> float:
        """The length of a step, the same for all attacks that do not choose it themselves."""
        return 2.5 * self.eps / self.steps

    def adversary(self, seed: int) -> nn.Module:
        """Defend the network, and count the examples that go through it."""
        model: nn.Module = saplab.defend(self.net, saplab.SAP(percent=100), seed=seed, backward=self.backward)
        model.register_forward_pre_hook(self._count)
        return trust(model)  # so that the rehearsal's own passes are not counted

    def _count(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.counts["gradient" if torch.is_grad_enabled() else "plain"] += len(args[0])


Attack = Callable[[Task, int], Tensor]  # (task, seed) -> adversarial images


def attack_by_saplab(task: Task, seed: int, stop_when_lost: bool = True) -> Tensor:
    """Run saplab's PGD, which spends no further steps on images that are misclassified."""
    gradient = saplab.MonteCarlo(samples=task.samples, backward=task.backward)
    share = task.step_size / task.eps
    attack = saplab.PGD(gradient=gradient, steps=task.steps, relative_step=share, stop_when_lost=stop_when_lost)
    adversarial: Tensor = attack(task.adversary(seed), task.images, task.labels, eps=task.eps, seed=seed)
    return adversarial


def attack_at_every_step(task: Task, seed: int) -> Tensor:
    """Run saplab's PGD with all steps for all images, as torchattacks does."""
    return attack_by_saplab(task, seed, stop_when_lost=False)


def attack_with_adaptive_steps(task: Task, seed: int) -> Tensor:
    """Run saplab's APGD on cross-entropy, the first half of what pyautoattack runs."""
    gradient = saplab.MonteCarlo(samples=task.samples, backward=task.backward)
    attack = saplab.APGD(gradient=gradient, steps=task.steps)
    adversarial: Tensor = attack(task.adversary(seed), task.images, task.labels, eps=task.eps, seed=seed)
    return adversarial


def attack_by_torchattacks(task: Task, seed: int) -> Tensor:
    """Run EOTPGD."""
    import torchattacks

    torch.manual_seed(seed)
    sizes = {"eps": task.eps, "alpha": task.step_size, "steps": task.steps, "eot_iter": task.samples}
    adversarial: Tensor = torchattacks.EOTPGD(task.adversary(seed), **sizes)(task.images, task.labels)
    return adversarial


def attack_by_pyautoattack(task: Task, seed: int) -> Tensor:
    """Run AutoAttack's version for random defences: APGD on cross-entropy and then on DLR, so up to twice the steps.

    It keeps a point only where a single pass misclassifies it, and returns the other images unchanged.
    """
    from pyautoattack import AutoAttack

    attack = AutoAttack(task.adversary(seed), norm="Linf", eps=task.eps, version="rand", seed=seed)
    apgd = attack.apgd
    apgd.n_iter, apgd.eot_iter = task.steps, task.samples
    apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (max(int(s * task.steps), 1) for s in (0.22, 0.06, 0.03))
    adversarial: Tensor = attack.run_standard_evaluation(task.images, task.labels, batch_size=BATCH)[0]
    return adversarial


ATTACKS: dict[str, Attack] = {
    OURS: attack_by_saplab,
    EVERY_STEP: attack_at_every_step,
    ADAPTIVE_STEP: attack_with_adaptive_steps,
    EOTPGD: attack_by_torchattacks,
    RAND: attack_by_pyautoattack,
}
