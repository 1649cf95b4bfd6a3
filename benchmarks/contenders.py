"""The ways that `peers.py` compares: attacks and Monte Carlo gradients of saplab, of other libraries, and by hand.

Other libraries are imported where they are used; `installed` leaves out what is absent.
"""

import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saplab
from saplab.defenses.prediction import BATCH
from saplab.pruning.operator import BackwardRule

OURS, EVERY_STEP, ADAPTIVE_STEP = "saplab PGD", "saplab PGD, never stopping", "saplab APGD"
EOTPGD, RAND = "torchattacks EOTPGD", "pyautoattack rand"
MONTE_CARLO, ALONE, LOOP = "saplab MonteCarlo", "forward and backward alone", "hand-written loop"
FOOLBOX, ART = "Foolbox EOT wrapper", "ART loss_gradient"
MODULES = {EOTPGD: "torchattacks", RAND: "pyautoattack", FOOLBOX: "foolbox", ART: "art"}

Contender = TypeVar("Contender")


@dataclass(frozen=True)
class Task:
    """What all attacks get.

    Args:
        net: the network to defend with SAP-100 and to attack.
        images, labels: (N, C, H, W) in [0, 1], and (N,).
        eps: radius, in the unit of the images.
        steps, samples: of each attack, and passes averaged in each step.
        backward: how the gradient is taken.
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
        """Give the length of a step, the same for all attacks that do not choose it."""
        return 2.5 * self.eps / self.steps

    def adversary(self, seed: int) -> nn.Module:
        """Defend the network, and count what goes through it."""
        model: nn.Module = saplab.defend(self.net, saplab.SAP(percent=100), seed=seed, backward=self.backward)
        model.register_forward_pre_hook(self._count)
        return model

    def _count(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.counts["gradient" if torch.is_grad_enabled() else "plain"] += len(args[0])


Attack = Callable[[Task, int], Tensor]  # (task, seed) -> adversarial images
Gradient = Callable[[nn.Module, Tensor, Tensor, int], object]  # (model, images, labels, samples)


def attack_by_saplab(task: Task, seed: int, stop_when_lost: bool = True) -> Tensor:
    """Run saplab's PGD, which spends no more steps on images that are lost already."""
    gradient = saplab.MonteCarlo(samples=task.samples, backward=task.backward)
    share = task.step_size / task.eps
    attack = saplab.PGD(gradient=gradient, steps=task.steps, relative_step=share, stop_when_lost=stop_when_lost)
    adversarial: Tensor = attack(task.adversary(seed), task.images, task.labels, eps=task.eps, seed=seed)
    return adversarial


def attack_at_every_step(task: Task, seed: int) -> Tensor:
    """Run saplab's PGD with all steps for all images, as torchattacks does."""
    return attack_by_saplab(task, seed, stop_when_lost=False)


def attack_with_adaptive_steps(task: Task, seed: int) -> Tensor:
    """Run saplab's APGD on cross-entropy, the first half of what pyautoattack does."""
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

    It keeps a point only once a single pass errs there, and gives images back as they were where none did.
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


def gradient_by_saplab(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> Tensor:
    """Average as saplab's attacks do."""
    gradient: Tensor = saplab.MonteCarlo(samples=samples).gradient(model, images, labels)
    return gradient


def gradient_alone(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> None:
    """Go forward and backward over as many examples, in batches as full as saplab's, and do nothing else."""
    at_once = max(1, BATCH // len(images))
    for start in range(0, samples, at_once):
        count = min(at_once, samples - start)
        x = images.repeat(count, 1, 1, 1).requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(x), labels.repeat(count), reduction="sum"), x)


def gradient_by_loop(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> Tensor:
    """Average as one writes it by hand: a pass, a gradient, a sum."""
    x, total = images.clone().requires_grad_(), torch.zeros_like(images)
    for _ in range(samples):
        total += torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)[0]
    return total / samples


def gradient_by_torchattacks(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> object:
    """Take one step of EOTPGD."""
    import torchattacks

    return torchattacks.EOTPGD(model, steps=1, eot_iter=samples)(images, labels)


def gradient_by_foolbox(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> object:
    """Differentiate the mean logits of Foolbox's wrapper, which keeps the graphs of all samples at a time."""
    import eagerpy as ep
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    mean = foolbox.models.ExpectationOverTransformationWrapper(wrapped, n_steps=samples)
    attack = foolbox.attacks.LinfPGD(steps=1)
    return attack.value_and_grad(attack.get_loss_fn(mean, ep.astensor(labels)), ep.astensor(images))


def gradient_by_art(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> object:
    """Sum ART's gradients; it has no average over passes of its own."""
    from art.estimators.classification import PyTorchClassifier

    loss = nn.CrossEntropyLoss()
    classifier = PyTorchClassifier(model, loss, images.shape[1:], nb_classes=10, clip_values=(0, 1), device_type="cpu")
    x, y = images.numpy(), F.one_hot(labels, 10).numpy()
    return sum(classifier.loss_gradient(x, y) for _ in range(samples))


GRADIENTS: dict[str, Gradient] = {
    MONTE_CARLO: gradient_by_saplab,
    ALONE: gradient_alone,
    LOOP: gradient_by_loop,
    EOTPGD: gradient_by_torchattacks,
    FOOLBOX: gradient_by_foolbox,
    ART: gradient_by_art,
}


def installed(contenders: Mapping[str, Contender]) -> dict[str, Contender]:
    """Leave out what has no library here, and say so."""
    there = {name: c for name, c in contenders.items() if importlib.util.find_spec(MODULES.get(name, "saplab"))}
    for name in contenders.keys() - there.keys():
        print(f"{name}: left out, {MODULES[name]} is not installed")
    return there
