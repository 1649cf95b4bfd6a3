"""Section ``pass``: forward, gradient and attack passes under each defence, against the dense network's."""

import logging
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saplab.system.precision import computing_in
from suite.gradients import gradient_by_saplab
from suite.networks import BY_HAND, DEFENSES, DENSE, network, sample_images
from suite.plan import Plan
from suite.results import Part, Record
from suite.timing import Work, time_in_turn

FORWARD, GRADIENT, ATTACK = "forward", "gradient", "an attack's gradient"
log = logging.getLogger(__name__)


def forward_pass(model: nn.Module, images: Tensor, precision: str = "float32") -> Tensor:
    """Return the logits (N, C) of a fresh pass."""
    with torch.no_grad(), computing_in(precision, images.device):
        logits: Tensor = model(images)
    return logits


def gradient_pass(model: nn.Module, images: Tensor, labels: Tensor, precision: str = "float32") -> Tensor:
    """Return the gradient of the summed cross-entropy of a fresh pass with respect to the images."""
    x = images.detach().requires_grad_()
    with computing_in(precision, images.device):
        logits = model(x)
    return torch.autograd.grad(F.cross_entropy(logits.float(), labels, reduction="sum"), x)[0]


def attack_pass(model: nn.Module, images: Tensor, labels: Tensor, precision: str = "float32") -> Tensor:
    """Return the same gradient as saplab's attacks compute it: without parameters', each thread with its own images."""
    with computing_in(precision, images.device):
        return gradient_by_saplab(model, images, labels)


def measure_passes(plan: Plan) -> Part:
    """Time passes of all networks in turn: seconds, and ratios to the dense network's pass in the same round."""
    records: list[Record] = []
    for k, precision in enumerate(plan.precisions):
        names = (DENSE, *DEFENSES) if k == 0 else (DENSE, "sap:100")
        for kind in (FORWARD, GRADIENT, ATTACK):
            log.info("pass: %s, %s", kind, precision)
            by_hand = (BY_HAND,) if k == 0 and kind != ATTACK else ()
            records += _time_passes(plan, kind, precision, (*names, *by_hand))
    return Part(tuple(records))


def _time_passes(plan: Plan, kind: str, precision: str, names: Sequence[str]) -> list[Record]:
    images, labels = sample_images(plan.images, plan.device)
    run = {
        FORWARD: lambda model: forward_pass(model, images, precision),
        GRADIENT: lambda model: gradient_pass(model, images, labels, precision),
        ATTACK: lambda model: attack_pass(model, images, labels, precision),
    }[kind]
    works: dict[str, Work] = {name: partial(run, network(name, plan.device)) for name in names}
    rounds = {name: plan.slow_rounds if name == BY_HAND else plan.pass_rounds for name in names}
    times = time_in_turn(works, rounds, plan.device)
    case = f"{kind}, {precision}, {plan.images} images"
    return [
        Record("pass", case, name, "s", t.spread(), t.ratio(times[DENSE]), DENSE, t.processor())
        for name, t in times.items()
    ]
