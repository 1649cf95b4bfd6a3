"""A defence, an attack and an engine, each in a file of its own outside the package, and a run with them."""

import importlib
import sys
from dataclasses import replace

from stubborn import make_run

from saplab.attacks import Attack
from saplab.runs import Curve, Request, Store, run

DEFENCE = """
from __future__ import annotations
from dataclasses import dataclass
from saplab.defenses import Defense
from saplab.system.registry import register

@register("outside-noise")
@dataclass(frozen=True)
class Noise(Defense):
    std: float

    def activation(self, h, draw, where):
        return h + self.std * draw.normal(h.shape)
"""
ATTACK = """
from __future__ import annotations
from dataclasses import dataclass, field
from saplab.attacks import Cost, GradientAttack, MonteCarlo
from saplab.system.registry import register

@register("outside-step")
@dataclass(frozen=True)
class Step(GradientAttack):
    title = "a step"
    gradient: MonteCarlo = field(default_factory=MonteCarlo)
    share: float = 1.0

    def ascending(self, problem, radii):
        step = self.share * self.gradient.estimate(problem).gradient.sign()
        return (problem.project(problem.images + e * step, e) for e in radii)

    def cost(self, eps):
        return self.gradient.cost
"""
ENGINE = """
from dataclasses import dataclass
from saplab.runs.engines import InProcess, register_engine

@register_engine("outside-backwards")
def backwards(options):
    return Backwards()

@dataclass(frozen=True)
class Backwards:
    def __call__(self, todo, inputs, tick):
        yield from InProcess()(todo[::-1], inputs, tick)

    def __str__(self):
        return "in process, the last group first"
"""
FILES = {"outside_defence": DEFENCE, "outside_attack": ATTACK, "outside_engine": ENGINE}


def import_outside(folder, monkeypatch):
    """Write the files into a folder that Python looks into, and import them."""
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    for name, text in FILES.items():
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.import_module(name)


def run_outside(folder, engine):
    """Compute 15 images with the classes from outside."""
    folder.mkdir(exist_ok=True)
    request, inputs = make_run(folder / "trap", "outside-noise:0.1")
    attack = Attack.registry.parse("outside-step:share=0.5")
    cells = tuple(replace(cell, attack=attack) for cell in request.curves[0].cells[:3])
    store = Store.open(folder / "run", Request("outside", (Curve("a step", cells),)))
    run(store, inputs, engine=engine)
    return store
