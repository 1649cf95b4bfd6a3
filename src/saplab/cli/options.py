"""Options that several verbs share, and what their texts mean."""

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from saplab.cli.console import Console
from saplab.system.files import at_home
from saplab.system.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from saplab.attacks import ThreatModel
    from saplab.data.dataset import Dataset
    from saplab.data.images import Cut
    from saplab.runs.engines import Engine


def option(group: str, text: str, *names: str) -> Any:
    """Return a Typer option of a group of the help."""
    return typer.Option(*names, help=text, rich_help_panel=group)


NETWORK, DATA, DEFENCE, ATTACK = "The network", "The data", "The defence", "The attack"
NOISE, TRAINING, JUDGING, MACHINE, OUTPUT = "The noise", "The training", "The judging", "The machine", "The output"

MODEL = (
    "A network of the package, an architecture with --weights, torchvision:NAME, timm:NAME, or package.module:factory."
)
_ATTACKS = (
    "A battery (quick, standard, paper, adaptive), or attacks joined by +: noise, fgsm, iterative, pgd, apgd, square,"
    " arc (of mixtures), or package.module:Class(…), each with settings of its own where wanted:"
    " pgd:steps=40,backward=identity or fgsm:samples=10,adversary=dense."
)
ATTACK_OF_IMAGES, ATTACK_OF_GAMES = "quick", "fgsm"  # where none is named
STRENGTHS, GAME_STRENGTHS = "0,1,2,4,8", "0,1,2"  # where none are given
_ADVERSARY = (
    "Whose gradient: self (the network under attack) or dense (the same without its defence; of a network that is"
    " random by itself, with one draw of its own frozen)."
)

Model = Annotated[str, option(NETWORK, MODEL)]
Weights = Annotated[Path | None, option(NETWORK, "A .safetensors, .pt, .pth, .th, .ckpt, .bin or .tar file.")]
Data = Annotated[
    str,
    option(
        DATA, "sample, cifar10:DIR, a path that ends in .npz, or a folder of pictures with one subfolder per class."
    ),
]
ImageSize = Annotated[
    int | None, option(DATA, "Height and width that pictures are cut to; by default the network's own.")
]
Limit = Annotated[int | None, option(DATA, "Use only the first N images.")]
Defence = Annotated[
    str,
    option(DEFENCE, "A name with its number, such as sap:100 or gaussian-noise:0.1, or package.module:Class(…); several"
            " joined by +; none by default. docs/guide.md lists them.", "--defense", "--defence"),
]  # fmt: skip
Sites = Annotated[
    str, option(DEFENCE, "Pattern of the sites to defend, such as 'stage3.*'; by default all.", "--sites")
]
Attack = Annotated[list[str] | None, option(ATTACK, f"{_ATTACKS} Several may be given; {ATTACK_OF_IMAGES} by default.")]
GameAttack = Annotated[
    list[str] | None, option(ATTACK, f"{_ATTACKS} Several may be given; {ATTACK_OF_GAMES} by default.")
]
Adversary = Annotated[str, option(ATTACK, _ADVERSARY)]
_LAMBDA = "Strengths λ: how far each pixel may move, in steps of 0..255, such as 2,8"
Lambda = Annotated[str | None, option(ATTACK, f"{_LAMBDA}; {STRENGTHS} by default.", "--lambda")]
GameLambda = Annotated[str | None, option(ATTACK, f"{_LAMBDA}; {GAME_STRENGTHS} by default.", "--lambda")]
Eps = Annotated[
    str, option(ATTACK, "The same in the norm's own unit, such as 2/255,8/255, or 0.5 with --norm l2.", "--eps")
]
NormOption = Annotated[str, option(ATTACK, "linf (the largest change of a value) or l2.", "--norm")]
BoundsOption = Annotated[str, option(ATTACK, "Lowest and highest valid value, or none.", "--bounds")]
Samples = Annotated[
    int, option(ATTACK, "Passes averaged for a gradient of a random network; the paper's 100 take long.")
]
Backward = Annotated[
    str,
    option(
        ATTACK,
        "How gradients pass a defence: mask (the paper's), probability, identity (BPDA), or relaxed (identity,"
        " with smooth stand-ins for functions that are flat).",
    ),
]
Average = Annotated[
    str, option(ATTACK, "What is averaged over the samples: loss (the paper's), logits or probabilities.")
]
Loss = Annotated[
    str,
    option(
        ATTACK, "What is maximised: cross-entropy, exact-cross-entropy, margin or dlr (the difference of logits ratio)."
    ),
]
Passes = Annotated[int, option(JUDGING, "Passes averaged for a prediction or action; the paper's 100 take long.")]
Seed = Annotated[int, option(JUDGING, "Seed of the defence's draws and, separately, of the attack's.")]
Seeds = Annotated[int, option(JUDGING, "Number of consecutive seeds.")]
Baseline = Annotated[bool, option(JUDGING, "Evaluate the undefended network as well.")]
FailBelow = Annotated[
    float | None,
    option(JUDGING, "End with exit code 1 where robust accuracy at the verdict's radius may be below this, in %."),
]
Precision = Annotated[str, option(MACHINE, "Of the network's arithmetic: float32 or bfloat16.")]
AttackPrecision = Annotated[
    str,
    option(
        MACHINE,
        "Of attacks' own passes: float32 (as --precision), bfloat16, or auto: bfloat16 where the hardware has it.",
    ),
]
BatchSize = Annotated[int, option(MACHINE, "Images computed, and saved, together.")]
Threads = Annotated[
    int | None, option(MACHINE, "PyTorch's threads in each process; by default the cores are divided among them.")
]
Device = Annotated[str, option(MACHINE, "cpu, cuda, cuda:1, …; auto takes a GPU where there is one.")]
EngineName = Annotated[
    str, option(MACHINE, "local, ray (pip install 'saplab[cluster]'), or package.module:maker.", "--engine")
]
Workers = Annotated[
    int | None, option(MACHINE, "Processes that compute, each with --threads; by default this one alone.")
]
Address = Annotated[
    str | None, option(MACHINE, "Of a Ray cluster: auto or HOST:PORT; by default one on this machine for the run.")
]
Out = Annotated[Path | None, option(OUTPUT, "Run folder; by default one under runs/.")]
Json = Annotated[bool, option(OUTPUT, "Write the result as JSON to stdout, a line for each entry or study.", "--json")]
DryRun = Annotated[bool, option(OUTPUT, "Show what would be computed, and what it costs, and no more.", "--dry-run")]


_OTHER = "Other options"


class Grouped(TyperCommand):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, and the options with a heading for each group."""
        found: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                found.setdefault(_group_of(parameter), []).append((_one_type(record[0]), record[1]))
        last = (NETWORK, DATA, DEFENCE, ATTACK, NOISE, TRAINING, JUDGING, MACHINE, OUTPUT, _OTHER)
        for group in sorted(found, key=lambda group: last.index(group) if group in last else -1):
            if found[group]:
                with formatter.section(group):
                    formatter.write_dl(found[group])


def with_homes(verb: "Callable[..., None]") -> "Callable[..., None]":
    """Return a verb whose paths may begin with ~ for a home folder, which shells do not replace in --out=~/x."""

    @wraps(verb)
    def run(**given: Any) -> None:
        verb(**{name: _at_home(name, value) for name, value in given.items()})

    return run


def _at_home(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_at_home(name, one) for one in value]
    return at_home(name, str(value)) if isinstance(value, Path) and not os.path.lexists(value) else value


def _group_of(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return getattr(parameter, "rich_help_panel", None) or _OTHER


def _one_type(words: str) -> str:
    """Return an option's names with the type of one value: people give it once or several times."""
    return re.sub(r"<list\[(\w+)\]>", lambda found: f"<{found[1].lower()}>", words)


@dataclass(frozen=True)
class Place:
    """A device of this machine for networks, the kind of device that computes cells, and the engine."""

    device: str
    kind: str
    engine: "Engine"


def ready_place(
    device: str, threads: int | None, engine: str = "local", workers: int | None = None, address: str | None = None
) -> Place:
    """Set PyTorch's threads, and return where a verb computes, as its options say.

    The tasks of a Ray cluster compute on CPUs unless a device is named, which this machine need not have.
    """
    import torch

    from saplab.runs.engines import Options, make_engine
    from saplab.system.device import find_device

    for name, value in (("threads", threads), ("workers", workers)):
        check_number(name, value, here=engine != "ray")
    if engine != "ray":
        place = kind = str(find_device(device))
    else:
        kind = "cpu" if device == "auto" else device
        place = "cpu" if kind == "cpu" else str(find_device("auto"))
    made = make_engine(engine, Options(workers, threads, address, kind))
    if threads is not None:
        torch.set_num_threads(threads)
        _note_crowd(threads, workers, engine)
    return Place(place, kind.partition(":")[0], made)


def _note_crowd(threads: int, workers: int | None, engine: str) -> None:
    """Note on stderr where worker processes of this machine have more threads than it has cores."""
    from saplab.system.machine import usable_cores

    cores = usable_cores()
    if engine == "local" and workers is not None and workers * threads > cores:
        Console().note(
            f"{counted(workers, 'worker')} with {counted(threads, 'thread')} each on {counted(cores, 'core')} will "
            "wait for each other; without --threads the cores are divided among them"
        )


def check_number(name: str, value: int | None, here: bool = True) -> None:
    """Refuse a number of threads or processes below 1, or `here` above what this machine starts in seconds."""
    from saplab.system.machine import usable_cores

    most = max(64, 4 * usable_cores())
    if value is not None and value < 1:
        raise ValueError(f"`{name}` must be >= 1, got {value}")
    if value is not None and value > most and here:
        raise ValueError(f"`{name}` must be at most {most} on this machine, got {value}")


def check_sites(sites: str, defended: bool) -> None:
    """Refuse a pattern of sites where no defence acts on them."""
    if sites and not defended:
        raise ValueError("`sites` says where a defence acts: give `defense` too")


def radii(lambdas: str | None, eps: str, usual: str, threat: "ThreatModel | None" = None) -> tuple[float, ...]:
    """Return the radii that ``--lambda``, `usual` if it is not given, or ``--eps`` in its place asks for.

    Where radii are no pixel steps, those are the usual one, its half, quarter and eighth, unless ``--eps`` is given.
    """
    from saplab.attacks import LINF, parse_radii, parse_strengths, radii_of, require_steps

    threat = threat or LINF
    if eps and lambdas is not None:
        raise ValueError(f"`lambda` and `eps` are the same in two units: give one of them, got {lambdas} and {eps}")
    if eps:
        found = parse_radii(eps)
        if threat.in_steps and max(found) > 1:
            raise ValueError(f"`eps` must be within [0, 1], got {eps}; for pixel steps of 0..255 write --lambda {eps}")
        return found
    if threat.in_steps:
        return radii_of(parse_strengths(usual if lambdas is None else lambdas))
    if lambdas is not None:
        require_steps(threat)
    quarter, whole = threat.usual_radii()
    return (quarter / 2, quarter, 2 * quarter, whole)


def threat_model(norm: str, bounds: str) -> "ThreatModel":
    """Return the threat model of ``--norm`` and ``--bounds``."""
    from saplab.attacks import ThreatModel

    if bounds == "none":
        return ThreatModel(norm, None)  # type: ignore[arg-type]
    try:
        low, high = map(float, bounds.split(","))
    except ValueError:
        raise ValueError(
            f"`bounds` must be two numbers joined by a comma, such as 0,1, or none, got {bounds!r}"
        ) from None
    return ThreatModel(norm, (low, high))  # type: ignore[arg-type]


def first_images(data: "Dataset", limit: int | None) -> "Dataset":
    """Return the first `limit` images of a data set; all of them for None."""
    if limit is None:
        return data
    if limit < 1:
        raise ValueError(f"`limit` must be >= 1, got {limit}")
    if limit > len(data):
        raise ValueError(f"`limit` must be at most {len(data)}, the images of {data.name}, got {limit}")
    return replace(data, images=data.images[:limit], labels=data.labels[:limit], indices=data.indices[:limit])


def load_images(
    data: str, network: "nn.Module", image_size: int | None, limit: int | None, console: Console
) -> "Dataset":  # fmt: skip
    """Load data for a network, with its labels, and say what was left out and how classes were matched."""
    from saplab.data.classes import matched
    from saplab.data.load import has_a_size, load_data

    if image_size is not None and has_a_size(data):
        raise ValueError(f"`image-size` is for folders of pictures, and {data} has a size of its own")
    images, words = matched(load_data(data, cut_of(network, image_size), limit), classes_of(network))
    for line in filter(None, (images.note, words)):
        console.say(line)
    return first_images(images, limit)


@contextmanager
def naming(data: str) -> "Iterator[None]":
    """Name the data where a network cannot take its images."""
    from saplab.defenses.stage import UnfitImagesError
    from saplab.system.words import readable

    try:
        yield
    except UnfitImagesError as error:
        hint = " (these are the packaged images: name the network's own by --data)" if data == "sample" else ""
        raise UnfitImagesError(f"{readable(data)}: {error}{hint}") from error


def classes_of(network: "nn.Module | None") -> "Sequence[str]":
    """Return the names of a network's classes, where they are known."""
    from saplab.data.cifar10 import CLASSES
    from saplab.models.hub import Classifier
    from saplab.models.identity import NAMES, SPEC
    from saplab.models.zoo import PACKAGED

    if isinstance(network, Classifier):
        return network.classes
    if known := getattr(network, NAMES, ()):
        return known  # type: ignore[no-any-return]
    return CLASSES if getattr(network, SPEC, "") in PACKAGED else ()


def cut_of(network: "nn.Module", image_size: int | None) -> "Cut | None":
    """Return how pictures become the network's images: its own way, at its own size unless another is asked for."""
    from saplab.data.images import Cut
    from saplab.models.hub import Classifier

    view = network.view if isinstance(network, Classifier) else None
    if view is None:
        return None if image_size is None else Cut(image_size, image_size)
    size = view.size if image_size is None else image_size
    return Cut(size, int(size * view.resize / view.size), view.interpolation, view.mode, view.fill)


def load_network(spec: str, weights: Path | None, console: Console) -> "nn.Module":
    """Load a network, and say where it has learned nothing yet: nothing is ever downloaded."""
    from saplab.models.hub import Classifier
    from saplab.models.identity import TAKEN
    from saplab.models.zoo import load_model

    network = load_model(spec, weights)
    if taken := getattr(network, TAKEN, ""):
        console.say(taken)
    if weights is None and isinstance(network, Classifier):
        console.say(f"{spec} has random weights, as nothing is downloaded; --weights FILE gives it trained ones")
    return network
