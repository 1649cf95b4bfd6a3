"""Evidence as callers have it: an attack by its text, and an array of its outcome at each radius."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from saplab.attacks import Attack, Attacker, GradientAttack, attackers_of
from saplab.attacks.gradient import MonteCarlo
from saplab.evaluation.evidence import Adversary, Evidence
from saplab.metrics import correct

Given = Sequence[Evidence] | Mapping[str | Attack, Mapping[float, ArrayLike]]

_WANTED: Final = "saplab.Evidence, or a dict such as {'pgd:steps=20': {8 / 255: right}}"


def evidence_of_all(given: Given, labels: ArrayLike | None, name: str) -> list[Evidence]:
    """Return evidence as it is, or made of arrays by attack and radius; see `saplab.verdict`.

    Raises:
        TypeError: neither of them.
        ValueError: an unknown attack, or arrays of other shapes.
    """
    if isinstance(given, Evidence):
        return [given]
    if not isinstance(given, Mapping):
        if not isinstance(given, Sequence) or not all(isinstance(one, Evidence) for one in given):
            raise TypeError(f"`{name}` must be {_WANTED}, got {type(given).__name__}")
        return list(given)
    attackers = [_attacker(attack) for attack in given]
    rules = any(
        isinstance(one.attack, GradientAttack) and one.attack.gradient.backward not in ("mask", "relaxed")
        for one in attackers
    )
    return [_evidence(one, text, given[text], labels, rules) for one, text in zip(attackers, given, strict=True)]


def _attacker(attack: str | Attack) -> Attacker:
    found = attackers_of(attack, MonteCarlo())
    if len(found) != 1:
        raise ValueError(f"each attack must have arrays of its own, got {len(found)} attacks in {attack!r}")
    return found[0]


def _evidence(
    attacker: Attacker, text: str | Attack, tables: Mapping[float, ArrayLike], labels: ArrayLike | None, rules: bool
) -> Evidence:
    if not isinstance(tables, Mapping) or not tables:
        raise TypeError(f"the arrays of {text} must be a dict by radius, such as {{8 / 255: right}}")
    eps = sorted(tables)
    arrays = [np.asarray(tables[radius]) for radius in eps]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or not 1 <= arrays[0].ndim <= 3:
        wanted = "(N,) scores, (N, C) probabilities or (passes, N, C) probabilities, the same at each radius"
        raise ValueError(f"the arrays of {text} must be {wanted}, got {sorted(shapes)}")
    source: Adversary = "transfer" if attacker.whose == "dense" else "own"
    adversary = source if attacker.attack.knowledge == "gradient" else "none"
    label = text if isinstance(text, str) else attacker.attack.describe(rules)
    radii, whole = tuple(map(float, eps)), np.stack(arrays)
    if whole.ndim == 2:
        return Evidence(label, attacker.attack, adversary, radii, whole.astype(np.float64), rules)
    if labels is None:
        raise ValueError("`labels` must be given for probabilities, got None")
    passes = whole.shape[1] if whole.ndim == 4 else 1
    if passes == 1:
        probs, more = whole.reshape(len(eps), *whole.shape[-2:]), {}
    else:
        probs, more = whole.mean(1), _of_passes(whole, labels)
    return Evidence.of(attacker.attack, radii, probs, labels, label=label, adversary=adversary, has_rules=rules, **more)


def _of_passes(passes: NDArray[Any], labels: ArrayLike) -> dict[str, Any]:
    """Return what single passes (L, K, N, C) tell beyond their mean."""
    count = passes.shape[1]
    halves = np.stack((passes[:, : count // 2].mean(1), passes[:, count // 2 :].mean(1)))
    hits = np.array([np.sum([correct(one, labels) for one in radius], axis=0) for radius in passes])
    return {"halves": halves, "hits": hits, "passes": count, "random": True}
