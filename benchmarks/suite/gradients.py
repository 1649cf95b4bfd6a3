"""Section ``gradients``: Monte Carlo gradients of saplab, of other libraries and by hand, on two networks.

One network is saplab's SAP-100, the other the hand-written one of `handwritten.multinomial_network`. Other libraries
belong to the extra ``peers`` and are imported where they are used; `installed` leaves out what is absent.
"""

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saplab.attacks import MonteCarlo
from saplab.defenses.prediction import BATCH
from suite.handwritten import gradient_by_loop
from suite.measure import Say, Work, time_in_turn
from suite.passes import BY_HAND, network, sample_images
from suite.plan import Plan
from suite.results import Part, Record

OURS, ALONE, LOOP = "saplab MonteCarlo", "forward and backward alone", "hand-written loop"
EOTPGD, FOOLBOX, ART = "torchattacks EOTPGD", "Foolbox EOT wrapper", "ART loss_gradient"
MODULES: Final = {EOTPGD: "torchattacks", FOOLBOX: "foolbox", ART: "art"}
BY_SAPLAB: Final = "SAP-100 by saplab"

Gradient = Callable[[nn.Module, Tensor, Tensor, int], object]  # (model, images, labels, samples)


def gradient_by_saplab(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> Tensor:
    """Average as saplab's attacks do."""
    return MonteCarlo(samples=samples).gradient(model, images, labels)


def gradient_alone(model: nn.Module, images: Tensor, labels: Tensor, samples: int) -> None:
    """Go forward and backward over as many examples, in batches of up to 512, and do nothing else."""
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

    device = "gpu" if images.is_cuda else "cpu"
    limits = {"clip_values": (0, 1), "device_type": device}
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


def installed(ways: Mapping[str, Gradient] = GRADIENTS) -> dict[str, Gradient]:
    """Give the ways whose library can be imported here."""
    return {name: way for name, way in ways.items() if importlib.util.find_spec(MODULES.get(name, "saplab"))}


def measure_gradients(plan: Plan, say: Say) -> Part:
    """Time every way on both networks; milliseconds an example (image times sample), and ratios to saplab's own.

    Of the hand-written network few samples are enough: it is slow, and cost grows linearly.
    """
    ways = installed()
    absent = tuple(f"{name}: {MODULES[name]} is not installed (extra `peers`)" for name in GRADIENTS.keys() - ways)
    images, labels = sample_images(plan.gradient_images, plan.device)
    theirs = {name: way for name, way in ways.items() if name not in (OURS, ALONE)}
    works: dict[tuple[str, str], Work] = {}
    rounds, samples = {}, {BY_SAPLAB: plan.gradient_samples, BY_HAND: plan.slow_samples}
    for case, name, contenders in ((BY_SAPLAB, "sap:100", ways), (BY_HAND, BY_HAND, theirs)):
        model = network(name, plan.device)
        for way, gradient in contenders.items():
            say(f"gradients: {way}, {case}")
            gradient(model, images[:2], labels[:2], 1)  # imports, and the first call of kernels
            works[case, way] = partial(gradient, model, images, labels, samples[case])
            rounds[case, way] = plan.gradient_rounds if case == BY_SAPLAB else plan.slow_rounds
    return Part(tuple(_records(works, rounds, samples, plan, say)), left_out=tuple(sorted(absent)))


def _records(
    works: Mapping[tuple[str, str], Work], rounds: Mapping[tuple[str, str], int], samples: Mapping[str, int],
    plan: Plan, say: Say,
) -> list[Record]:  # fmt: skip
    say("gradients: rounds")
    times = time_in_turn(works, rounds, plan.device)
    ours = times[BY_SAPLAB, OURS].scaled(1 / samples[BY_SAPLAB])
    found = []
    for (case, way), measured in times.items():
        a_sample, unit = measured.scaled(1 / samples[case]), 1e-3 * plan.gradient_images
        found.append(
            Record("gradients", case, way, "ms an example", a_sample.spread(unit), a_sample.ratio(ours),
                   f"{OURS}, {BY_SAPLAB}", a_sample.processor(unit))
        )  # fmt: skip
    return found
