"""Section ``gradients``: Monte Carlo gradients by saplab, by other libraries and by hand.

Each is taken of two networks: saplab's SAP-100 and the hand-written one of `handwritten.multinomial_network`. Other
libraries belong to the extra ``peers`` and are imported where they are used; `installed` leaves out those missing.
"""

import importlib.util
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saplab.attacks import MonteCarlo, Problem
from suite.handwritten import gradient_by_loop
from suite.networks import BY_HAND, network, sample_images
from suite.plan import Plan
from suite.results import Part, Record
from suite.timing import Work, time_in_turn

OURS, ALONE, LOOP = "saplab MonteCarlo", "forward and backward alone", "hand-written loop"
EOTPGD, FOOLBOX, ART = "torchattacks EOTPGD", "Foolbox EOT wrapper", "ART loss_gradient"
MODULES: Final = {EOTPGD: "torchattacks", FOOLBOX: "foolbox", ART: "art"}
BY_SAPLAB: Final = "SAP-100 by saplab"
BATCH: Final = 512  # images in a pass, as in saplab's predictions

Gradient = Callable[[nn.Module, Tensor, Tensor, int], object]  # (model, images, labels, samples)
Contender = TypeVar("Contender")
log = logging.getLogger(__name__)


def gradient_by_saplab(model: nn.Module, images: Tensor, labels: Tensor, samples: int = 1) -> Tensor:
    """Average as saplab's attacks do."""
    return MonteCarlo(samples=samples).estimate(Problem.of(model, images, labels)).gradient


def gradient_alone(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> None:
    """Run as many examples forward and backward, in large batches, and do nothing else."""
    at_once = max(1, BATCH // len(images))
    for start in range(0, samples, at_once):
        count = min(at_once, samples - start)
        x = images.repeat(count, 1, 1, 1).requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(x), labels.repeat(count), reduction="sum"), x)


def gradient_by_torchattacks(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> object:
    """Take one step of EOTPGD."""
    import torchattacks

    return torchattacks.EOTPGD(model, steps=1, eot_iter=samples)(images, labels)


def gradient_by_foolbox(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> object:
    """Differentiate the mean logits of Foolbox's wrapper, which keeps the graphs of all samples at once."""
    import eagerpy as ep
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    mean = foolbox.models.ExpectationOverTransformationWrapper(wrapped, n_steps=samples)
    attack = foolbox.attacks.LinfPGD(steps=1)
    return attack.value_and_grad(attack.get_loss_fn(mean, ep.astensor(labels)), ep.astensor(images))


def gradient_by_art(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> object:
    """Sum ART's gradients; ART itself does not average over passes."""
    from art.estimators.classification import PyTorchClassifier

    limits = {"clip_values": (0, 1), "device_type": "gpu" if images.is_cuda else "cpu"}
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), images.shape[1:], nb_classes=10, **limits)
    x, y = images.cpu().numpy(), F.one_hot(labels, 10).cpu().numpy()
    return sum(classifier.loss_gradient(x, y) for _ in range(samples))


GRADIENTS: Final[Mapping[str, Gradient]] = {
    OURS: gradient_by_saplab,
    ALONE: gradient_alone,
    LOOP: gradient_by_loop,
    EOTPGD: gradient_by_torchattacks,
    FOOLBOX: gradient_by_foolbox,
    ART: gradient_by_art,
}


def installed(
    contenders: Mapping[str, Contender], modules: Mapping[str, str]
) -> tuple[dict[str, Contender], tuple[str, ...]]:
    """Return the contenders whose library can be imported here, and a line about each of the others."""
    missing = [name for name in contenders if name in modules and not importlib.util.find_spec(modules[name])]
    lines = tuple(f"{name}: {modules[name]} is not installed (extra `peers`)" for name in sorted(missing))
    return {name: contender for name, contender in contenders.items() if name not in missing}, lines


def measure_gradients(plan: Plan) -> Part:
    """Time every contender on both networks: milliseconds per example (image · sample), and ratios to saplab's own.

    Few samples are enough for the hand-written network: it is slow, and cost grows linearly.
    """
    contenders, left_out = installed(GRADIENTS, MODULES)
    others = {name: gradient for name, gradient in contenders.items() if name not in (OURS, ALONE)}
    images, labels = sample_images(plan.gradient_images, plan.device)
    works: dict[tuple[str, str], Work] = {}
    rounds, samples = {}, {BY_SAPLAB: plan.gradient_samples, BY_HAND: plan.slow_samples}
    for case, name, gradients in ((BY_SAPLAB, "sap:100", contenders), (BY_HAND, BY_HAND, others)):
        model = network(name, plan.device)
        for contender, gradient in gradients.items():
            log.info("gradients: %s, %s", contender, case)
            gradient(model, images[:2], labels[:2], 1)  # imports, and the first call of kernels
            works[case, contender] = partial(gradient, model, images, labels, samples[case])
            rounds[case, contender] = plan.gradient_rounds if case == BY_SAPLAB else plan.slow_rounds
    return Part(tuple(_records(works, rounds, samples, plan)), left_out=left_out)


def _records(
    works: Mapping[tuple[str, str], Work], rounds: Mapping[tuple[str, str], int], samples: Mapping[str, int], plan: Plan
) -> list[Record]:
    log.info("gradients: rounds")
    times = time_in_turn(works, rounds, plan.device)
    ours = times[BY_SAPLAB, OURS].scaled(1 / samples[BY_SAPLAB])
    found = []
    for (case, contender), measured in times.items():
        a_sample, unit = measured.scaled(1 / samples[case]), 1e-3 * plan.gradient_images
        found.append(
            Record("gradients", case, contender, "ms per example", a_sample.spread(unit), a_sample.ratio(ours),
                   f"{OURS}, {BY_SAPLAB}", a_sample.processor(unit))
        )  # fmt: skip
    return found
