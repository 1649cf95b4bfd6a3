"""Command lines with numbers at the edge, names that are none, and texts of all kinds."""

import random
from pathlib import Path

from fuzz.cases import Case, command, generator

_NUMBERS = (
    "0", "-1", "-0.0", "1e400", "-1e400", "nan", "inf", "1e-320", "9" * 40, "1e18", "2147483648", "9223372036854775808",
    "0x10", "١", "1_000", "", " ", "8/0", "8/255/1", ",", "1,,2", "2,2", "true", "null",
)  # fmt: skip
_OPTIONS = (
    "--limit", "--lambda", "--eps", "--samples", "--passes", "--seed", "--seeds", "--fail-below", "--batch-size",
    "--threads", "--workers", "--image-size", "--precision", "--device", "--loss", "--average", "--backward",
    "--adversary", "--engine",
)  # fmt: skip
_TEXTS = (
    "~nobody-has-this-name/x", "/dev/null", "/dev/zero", "", ".", "..", "\x00", "a" * 5000, "λ", "$(touch canary)",
    "`touch canary`", "os:system", "builtins:exec", "a\nb", "[red]x[/red]", "%s%n", "file:///etc/passwd",
)  # fmt: skip
_SETTINGS = ("steps", "samples", "percent", "restarts", "queries", "lambda", "step_size", "backward", "nothing", "std")
_DRY = ("evaluate", "--dry-run", "--limit", "2", "--passes", "1", "--samples", "1")


@generator
def numbers_at_the_edge(draw: random.Random, folder: Path) -> Case:
    """One option of `evaluate` with a number that is none or too large."""
    return command(*_DRY, draw.choice(_OPTIONS), draw.choice(_NUMBERS))


@generator
def settings_at_the_edge(draw: random.Random, folder: Path) -> Case:
    """A defence or an attack with settings that are none."""
    option, names = draw.choice((
        ("--defense", ("sap", "rna", "rsa", "rnw", "rsw", "dropout", "dwp", "swp", "zzz")),
        ("--attack", ("pgd", "apgd", "square", "fgsm", "noise", "iterative", "standard", "zzz")),
    ))  # fmt: skip
    name, value = draw.choice(names), draw.choice((*_NUMBERS, *_TEXTS))
    form = draw.choice(("{n}:{v}", "{n}:{s}={v}", "{n}+{n}:{v}", "m:{n}({s}={v})", "{n}:{s}={v},{s}={v}", "{n}:{v}+"))
    return command(*_DRY, option, form.format(n=name, v=value, s=draw.choice(_SETTINGS)))


@generator
def names_that_are_none(draw: random.Random, folder: Path) -> Case:
    """Paths and names of all kinds where a network, data, weights or folders are expected."""
    value = draw.choice(_TEXTS)
    form = draw.choice(("{}", "{}.npz", "cifar10:{}", "{}:x", "x:{}", "torchvision:{}", "timm:{}", "{}.pt"))
    option = draw.choice(("--model", "--data", "--weights", "--sites", "--engine", "--address", "--device"))
    verb = draw.choice(
        (_DRY, ("sites", "preact-resnet20-dense"), ("train", "dense"), ("report",), ("runs",), ("play",))
    )
    words = (*verb, option, form.format(value)) if verb is _DRY else (*verb, form.format(value))
    return command(*words)


@generator
def bytes_that_are_no_text(draw: random.Random, folder: Path) -> Case:
    """File names in another encoding than the terminal's."""
    name = bytes(draw.randrange(128, 256) for _ in range(draw.randrange(1, 6)))
    option = draw.choice(("--data", "--weights", "--model", "--out", "--defense"))
    return command(*_DRY, option, name)
