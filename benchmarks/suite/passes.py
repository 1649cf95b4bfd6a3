"""Sections ``pass`` and ``memory``: forward, gradient and attack passes against the dense network's."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saplab.attacks import MonteCarlo
from saplab.data.cifar10 import load_cifar10
from saplab.defenses import defend
from saplab.defenses.specs import parse_defenses
from saplab.models.zoo import load_model
from saplab.system.precision import computing_in
from suite.handwritten import multinomial_network
from suite.measure import Say, Spread, Work, time_in_turn
from suite.plan import DEFENSES, Plan
from suite.results import Part, Record

MODEL: Final = "preact-resnet20-dense"
DENSE, BY_HAND = "dense", "SAP-100 by torch.multinomial"
FORWARD, GRADIENT, ATTACK = "forward", "gradient", "an attack's gradient"


def network(name: str, device: str = "cpu") -> nn.Module:
    """Build the packaged network as it is, pruned by hand, or under a defence as the command line writes it."""
    dense: nn.Module = load_model(MODEL).to(device)
    if name == DENSE:
        return dense
    return multinomial_network(dense, device) if name == BY_HAND else defend(dense, *parse_defenses(name))


def sample_images(count: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Give as many CIFAR-10 test images and labels, the packaged ones again and again where there are too few."""
    images, labels = load_cifar10("sample")
    places = torch.arange(count) % len(images)
    return images[places].to(device), labels[places].to(device)


def forward_pass(model: nn.Module, images: Tensor, precision: str = "float32") -> Tensor:
    """Give the logits (N, C) of a fresh pass."""
    with torch.no_grad(), computing_in(precision, images.device):
        logits: Tensor = model(images)
    return logits


def gradient_pass(model: nn.Module, images: Tensor, labels: Tensor, precision: str = "float32") -> Tensor:
    """Give the gradient of the summed cross-entropy of a fresh pass by the images."""
    x = images.detach().requires_grad_()
    with computing_in(precision, images.device):
        logits = model(x)
    return torch.autograd.grad(F.cross_entropy(logits.float(), labels, reduction="sum"), x)[0]


def attack_pass(model: nn.Module, images: Tensor, labels: Tensor, precision: str = "float32") -> Tensor:
    """Give the same gradient as saplab's attacks take it: by the images alone, each thread with its share of them."""
    with computing_in(precision, images.device):
        return MonteCarlo().gradient(model, images, labels)


def measure_passes(plan: Plan, say: Say) -> Part:
    """Time passes of all networks in turn; seconds, and ratios to the dense network's pass in the same round."""
    records: list[Record] = []
    for k, precision in enumerate(plan.precisions):
        names = (DENSE, *DEFENSES) if k == 0 else (DENSE, "sap:100")
        for kind in (FORWARD, GRADIENT, ATTACK):
            say(f"pass: {kind}, {precision}")
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


def measure_memory(plan: Plan, say: Say) -> Part:
    """Measure how far memory rises in a gradient pass, each network in a process of its own where it is the CPU's."""
    found: dict[str, int] = {}
    for name in (DENSE, *plan.weighed, BY_HAND):
        say(f"memory: {name}")
        risen = _rise_on_gpu(name, plan) if plan.device == "cuda" else _rise_in_child(name, plan)
        if risen is None:
            return Part((), left_out=("memory: only Linux tells the peak of a process",))
        found[name] = risen
    case = f"gradient, float32, {plan.images} images"
    return Part(
        tuple(
            Record("memory", case, name, "MB", _once(b / 1e6), _once(b / found[DENSE]), DENSE)
            for name, b in found.items()
        )
    )


def _once(value: float) -> Spread:
    return Spread.of([value])


def _rise_in_child(name: str, plan: Plan) -> int | None:
    if sys.platform != "linux":
        return None
    command = [sys.executable, "-m", "suite.peak", name, str(plan.images), str(plan.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"the process that measures the memory of {name} failed: {done.stderr.strip()[-200:]}")
    return int(json.loads(done.stdout))


def _rise_on_gpu(name: str, plan: Plan) -> int:
    images, labels = sample_images(plan.images, plan.device)
    model = network(name, plan.device)
    gradient_pass(model, images, labels)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradient_pass(model, images, labels)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
