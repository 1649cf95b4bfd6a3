"""The call of `saplab.evaluate` that makes a result again, as a page shows it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from inspect import isfunction
from typing import Any

from saplab.attacks import ThreatModel, strength_of


def call_of(
    attacks: Any, eps: Sequence[float], threat: ThreatModel, settings: Mapping[str, Any], beside: Sequence[str] = ()
) -> str:
    """Return the call in Python: ``saplab.evaluate(model, images, labels, attacks="quick", eps=[8 / 255], …)``.

    Args:
        attacks: as they were given.
        eps: radii in the unit of the images.
        threat: the norm and bounds, which are shown where they are not the usual ones.
        settings: what else decides the numbers, by name.
        beside: arguments that are too long to tell, which are shown as their names.
    """
    radii = (_radius(radius, threat) for radius in eps)
    room = {} if threat.in_steps else {"norm": _text(threat.norm), "bounds": str(threat.bounds)}
    told = {"attacks": _text(attacks), "eps": f"[{', '.join(radii)}]", **room}
    told |= {name: _text(value) for name, value in settings.items()} | {name: name for name in beside}
    return f"saplab.evaluate(model, images, labels, {', '.join(f'{name}={text}' for name, text in told.items())})"


def _radius(eps: float, threat: ThreatModel) -> str:
    """Return a radius as people write it, where that is the same number: ``8 / 255``."""
    steps = f"{strength_of(eps):g}"
    return f"{steps} / 255" if threat.in_steps and float(steps) / 255 == eps else repr(float(eps))


def _text(value: Any) -> str:
    """Return a value as Python writes it; saplab's own objects by the settings that are not the usual ones."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    kind = type(value)
    if is_dataclass(kind) and kind.__module__.startswith("saplab."):
        return f"saplab.{kind.__name__}({', '.join(_unusual(value))})"
    return value.__qualname__ if isfunction(value) else repr(value)


def _unusual(value: Any) -> Iterator[str]:
    for field in filter(lambda field: field.init, fields(value)):
        own, usual = getattr(value, field.name), field.default
        if field.default_factory is not MISSING:
            usual = field.default_factory()
        if own != usual:
            yield f"{field.name}={_text(own)}"
