"""What to run where a check has no answer yet, as data: the command line and notebooks each word it in their way."""

import math
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from saplab.attacks import FGSM, LINF, GradientAttack, MonteCarlo, ThreatModel, strength_of
from saplab.attacks.threat import ROUNDING
from saplab.evaluation.evidence import Case, Evidence


@dataclass(frozen=True)
class Advice:
    """What to run beside what was run; a field that is not set asks for nothing new.

    Attributes:
        attack: an attack or a battery, as the text that `saplab.evaluate` and the command line read; "" for none.
        eps: radii in the norm's own unit; empty for those of the evaluation.
        more_than: the number of images that was too small.
        enough: the number that would be enough if all shares stayed as they are; 0 where that is not known.
        baseline: the undefended network as well.
        threat: in which `eps` are measured.
    """

    attack: str = ""
    eps: tuple[float, ...] = ()
    more_than: int = 0
    enough: int = 0
    baseline: bool = False
    threat: ThreatModel = LINF

    @property
    def radii(self) -> tuple[str, ...]:
        """Return the radii as people type them: λ, or four digits, rounded up so that a ball holds what it should."""
        return tuple(f"{strength_of(eps) if self.threat.in_steps else _up(eps):g}" for eps in self.eps)

    @property
    def about_images(self) -> str:
        """Return how many images are too few, and about how many would be enough, in words."""
        few = f"{self.more_than} images are too few"
        return f"{few}, about {self.enough} would be enough if shares stayed the same" if self.enough else few

    def in_python(self) -> str:
        """Return the advice as arguments of `saplab.evaluate`: ``attacks="adaptive"``."""
        unit = "/255" if self.threat.in_steps else ""
        radii = ", ".join(radius + unit for radius in self.radii)
        parts = (
            f'attacks="{self.attack}"' if self.attack else "",
            f"eps=[{radii}]" if radii else "",
            f"more images: {self.about_images}" if self.more_than else "",
            "baseline=True" if self.baseline else "",
        )
        return ", ".join(filter(None, parts))


def _up(radius: float) -> float:
    """Round a radius above 0 up to four digits; what has no more stays as it is."""
    scale = 10.0 ** (3 - math.floor(math.log10(radius)))
    return math.ceil(radius * scale - ROUNDING) / scale


_LEAST_STEPS: Final = 20  # that are advised
PAPER: Final = Advice("paper")
ADAPTIVE: Final = Advice("adaptive")
ANSWERED: Final = frozenset(  # checks to which that battery has an answer, whatever was run before
    {"one-step", "identity", "flat", "loss", "black-box", "noise", "samples", "steps", "unbounded", "cosine"}
)
BASELINE: Final = Advice(baseline=True)


def radii(case: Case) -> Advice:
    """Advise four radii up to the usual one, each twice the last; without bounds, around the largest that was run."""
    usual = case.threat.usual
    top = usual if math.isfinite(usual) else max(eps for e in case.evidence for eps in e.eps)
    return Advice("adaptive", (top / 8, top / 4, top / 2, top), threat=case.threat)


def identity(case: Case) -> Advice:
    """Advise the largest white-box attack by identity backward."""
    known = _largest(case.white_box)
    return _by(known, known.samples, "identity") if known and known.backward != "identity" else ADAPTIVE


def relaxed(case: Case) -> Advice:
    """Advise the largest white-box attack by relaxed backward."""
    known = _largest(case.white_box)
    return _by(known, known.samples, "relaxed") if known and known.backward != "relaxed" else ADAPTIVE


def other_loss(case: Case) -> Advice:
    """Advise the largest attack on cross-entropy by the difference of logits ratio, in its own backward rule.

    That loss needs three classes; of two it is the margin.
    """
    known = _largest([e for e in case.white_box if e.loss == "cross-entropy"])
    return _by(known, known.samples, known.backward, "dlr" if case.chance <= 1 / 3 else "margin") if known else ADAPTIVE


def more_samples(case: Case) -> Advice:
    """Advise the largest white-box attack with ten times the samples."""
    known = _largest(case.white_box)
    return _by(known, 10 * known.samples, known.backward) if known else ADAPTIVE


def two_samples(case: Case) -> Advice:
    """Advise one step, which tells how far halves of its samples agree, with samples enough for two halves."""
    known = _largest(case.white_box)
    if known is None:
        return PAPER
    gradient = MonteCarlo(max(known.samples, 10), cast(Any, known.backward or "mask"))
    return Advice(FGSM(gradient).spec)


def more_steps(case: Case) -> Advice:
    """Advise the longest white-box attack with five times the steps, and 20 at least."""
    known = _longest(case)
    more = 0 if known is None else max(5 * known.steps, _LEAST_STEPS)
    return ADAPTIVE if known is None else Advice(replace(cast(Any, known.attack), steps=more).spec)


def black_box(case: Case) -> Advice:
    """Advise more steps where a black box was run, and else one."""
    return more_steps(case) if any(e.black_box for e in case.evidence) else ADAPTIVE


def unbounded(case: Case) -> Advice:
    """Advise the longest white-box attack in an unbounded ball."""
    known = _longest(case)
    return Advice("adaptive" if known is None else known.attack.spec, (case.unbounded,), threat=case.threat)


def norms(case: Case) -> Advice:
    """Advise the undefended network; where it was run, one step, whose gradient is the first one on both networks."""
    return PAPER if case.dense else BASELINE


def why_never_unbounded(case: Case) -> str:
    """Return why it cannot be told what an unbounded ball leaves; "" where it can."""
    if not math.isfinite(case.unbounded):
        return "no radius is known from which an attack must reach chance"
    ran = any(e.iterative and e.eps[-1] >= case.unbounded * (1 - ROUNDING) for e in case.own)
    return "the number of classes is not known, nor chance: give `labels`" if ran and not case.chance else ""


def _largest(evidence: list[Evidence]) -> Evidence | None:
    return max(evidence, key=lambda e: (e.steps, e.samples), default=None)


def _longest(case: Case) -> Evidence | None:
    return _largest([e for e in case.white_box if hasattr(e.attack, "steps")])


def _by(known: Evidence, samples: int, backward: str, loss: str = "") -> Advice:
    if not isinstance(known.attack, GradientAttack):
        return ADAPTIVE
    gradient = replace(known.attack.gradient, samples=samples, backward=cast(Any, backward or "mask"))
    gradient = replace(gradient, loss=cast(Any, loss)) if loss else gradient
    return Advice(replace(cast(Any, known.attack), gradient=gradient).spec)
