"""The evaluation of a network: what the command line, studies and notebooks call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from saplab.attacks import LINF, Attack, Attacker, Bounds, MonteCarlo, NormName, ThreatModel, attackers_of
from saplab.attacks.batteries import VERSIONS
from saplab.data.dataset import Dataset
from saplab.data.given import Array, given_images, given_labels
from saplab.data.load import positions
from saplab.defenses.defended import check_network
from saplab.defenses.gradient import refuse_inference_mode
from saplab.defenses.stochastic import remembered
from saplab.evaluation.again import call_of
from saplab.evaluation.budget import LONG, budget_of
from saplab.evaluation.plan import plan
from saplab.evaluation.result import Result
from saplab.rng.streams import stream_key
from saplab.runs import ImageCell, Memory, Request, Results, Store, run, unfinished
from saplab.runs.cell import work_of
from saplab.runs.engines import Engine, Failed, Options, make_engine
from saplab.runs.images import Images
from saplab.runs.networks import rehearsed, traits_of
from saplab.system.counts import check_count
from saplab.system.device import device_of
from saplab.system.errors import EvaluationError
from saplab.system.precision import Precision, PrecisionChoice, resolve_precision
from saplab.system.progress import Choice, Show, is_seen, note, show_of
from saplab.system.words import counted

Attacks = str | Attack | Attacker | Sequence[str | Attack | Attacker]

_WORK: Final = {"images": "network passes", "games": "network passes for the games"}  # what each kind's work is called


def evaluate(
    model: nn.Module, images: Array, labels: Array | None = None, attacks: Attacks = "standard",
    eps: float | Sequence[float] | None = None, norm: NormName = "linf", *, bounds: Bounds = (0.0, 1.0),
    passes: int = 20, samples: int = 20, seed: int = 0, seeds: int = 1, baseline: bool = True,
    out: Path | str | None = None, workers: int | None = None, engine: str | Engine = "local", progress: Choice = True,
    precision: str = "float32", attack_precision: PrecisionChoice = "float32", batch_size: int = 250,
    examples: Array | None = None, classes: Sequence[str] = (), title: str = "",
) -> Result:  # fmt: skip
    """Attack a network, judge every adversarial image by fresh passes, and say what holds.

    Args:
        model: images (N, C, H, W) -> logits (N, classes), in evaluation mode; defended by `saplab.defend` or not.
        images: (N, C, H, W) in [0, 1] or within other `bounds`; (N, ...) for what is no image: a standardised table,
            embeddings, audio.
        labels: (N,) integers.
        attacks: a battery's name (``quick``, ``standard``, ``paper``, ``adaptive``), attacks as the command line writes
            them, `Attack` objects, or a sequence of these.
        eps: radii of the attacks, in the unit of the images; clean accuracy is always measured. By default 2/255 and
            8/255, in L2 0.125 and 0.5, times the width of the bounds; without bounds they must be given.
        norm: in which they are measured, ``linf`` or ``l2``.
        bounds: lowest and highest valid value; None where every number is valid.
        passes: averaged for a prediction of a random network.
        samples: passes averaged for a gradient, where an attack is not given as an object.
        seed: of the defence's draws and, as a separate stream, the attacks'.
        seeds: how often a random network is evaluated anew, with the next seeds.
        baseline: whether the undefended network is evaluated beside a defended one.
        out: folder that keeps every result, so that the same call goes on where it was stopped; None for memory.
        workers: processes; None for this one alone.
        engine: ``local``, ``ray``, a registered name, ``package.module:maker``, or an engine.
        progress: True for a bar on a terminal or a line in a notebook, and before long work what it costs; "lines" for
            a line on stderr now and then, in a pipe as well; False for nothing.
        precision: of the network's arithmetic, ``float32`` or ``bfloat16``; a network of float64 keeps its own.
        attack_precision: of attacks' own passes, gradients and queries to random networks, where an attack is not an
            object: ``float32`` for that of `precision`, ``bfloat16``, which is faster where the hardware has it and
            leaves every judgement to `precision`, or ``auto`` for that where it has. What attacks find then depends on
            the kind of machine.
        batch_size: images that are computed, and saved, together.
        examples: (N,) number of each image, which decides its draws; by default its position, and for images of the
            packaged sample their positions in CIFAR-10's test set, as on the command line.
        classes: names of the classes, for the report.
        title: heading of the report.

    Raises:
        ValueError: what cannot be evaluated honestly: images outside the bounds, labels that the network has no class
            for, a network whose outputs are no logits or depend on the rest of their batch, an unknown attack, a folder
            of another request.
        EvaluationError: some cells could not be computed.

    Examples:
        >>> sap = saplab.defend(net, saplab.SAP(100))
        >>> result = saplab.evaluate(sap, images, labels, attacks="standard", eps=8 / 255)
        >>> print(result.verdict.sentence)
    """
    show = show_of(progress)
    check_network(model)
    refuse_inference_mode()
    data = _dataset(images, labels, classes, examples)
    threat = ThreatModel(norm, bounds)
    radii = threat.usual_radii() if eps is None else _radii(eps)
    decisive = {
        "passes": passes, "samples": samples, "seed": seed, "seeds": seeds, "baseline": baseline,
        "precision": precision, "attack_precision": attack_precision, "batch_size": batch_size,
    }  # fmt: skip
    gradient = MonteCarlo(samples, precision=precision_of_attacks(model, attack_precision))
    attackers = attackers_of(attacks, gradient, threat)
    job = planned(
        model, data, attackers, radii, threat=threat, passes=passes, seed=seed,
        seeds=seeds, baseline=baseline, precision=precision, batch_size=batch_size, title=title,
        command=call_of(attacks, radii, threat, _told(decisive), () if examples is None else ("examples",)),
        battery=attacks if isinstance(attacks, str) else "",
    )  # fmt: skip
    kind = torch.device(job.inputs.device).type
    who = make_engine(engine, Options(workers, device=kind)) if isinstance(engine, str) else engine
    with remembered(model):
        return replace(job, engine=who).result(out, show, note if progress and is_seen() else None)


def planned(
    model: nn.Module, data: Dataset, attackers: Sequence[Attacker], eps: Sequence[float], *,
    threat: ThreatModel = LINF, passes: int = 20, seed: int = 0, seeds: int = 1, baseline: bool = True,
    precision: str = "float32", batch_size: int = 250, title: str = "", command: str = "", device: str = "",
    battery: str = "",
) -> "Job":  # fmt: skip
    """Plan an evaluation; arguments and errors as in `evaluate`, but for these.

    Args:
        eps: radii of the attackers that have none of their own.
        threat: norm and bounds.
        command: the command line or the call that asks for it.
        device: kind of the device that computes it, where that is another one than the network's.
        battery: what names the attackers, as the command line does; the batteries in it are noted with their versions.
    """
    check_network(model)
    threat.check(data.images, data.labels, sorted(eps))
    if precision != "float32":
        _refuse_double(model, "precision", precision)
    check_count("batch_size", batch_size)
    check_count("passes", passes)
    check_count("seeds", seeds)
    stream_key(seed)
    place = device_of(model)
    first = data.images[:batch_size].to(place)
    found = rehearsed(model, first)
    defender, plain, notes, _ = found
    radii = tuple(dict.fromkeys((0.0, *map(float, eps))))
    whole = ImageCell(
        defender=defender, adversary=defender, attack=attackers[0].attack, eps=radii, start=0,
        stop=len(data), passes=passes if defender.random else 1, seed=seed, precision=precision,
        device=device or place.type, threat=threat, data=data.digest(),
    )  # fmt: skip
    values = data.images[0].numel()
    asking = tuple(one for attacker in attackers if (one := attacker.in_room(threat, values)) is not None)
    if any(attacker.only for attacker in asking):
        traits = traits_of(found, first)
        asking = tuple(one for attacker in asking if (one := attacker.fitted(traits)) is not None)
    if asking and all(one.eps for one in asking):  # clean accuracy is always measured
        asking = (replace(asking[0], eps=tuple(dict.fromkeys((0.0, *(asking[0].eps or ()))))), *asking[1:])
    curves = plan(whole, asking, batch_size, baseline=baseline, seeds=seeds)
    notes = (*_batteries(battery), *notes)
    name = defender.model.removeprefix("__main__:")
    request = Request(title or f"{name}: accuracy under attack", curves, command, data.classes, notes)
    in_turn = place.type == "cuda" and place.index == torch.cuda.current_device()  # of several, by worker processes
    where = "cuda" if in_turn else str(place)
    return Job(request, Images({(defender.model, defender.digest): plain}, data, where))


def _batteries(attacks: str) -> tuple[str, ...]:
    """Return in a sentence each which batteries are among the attacks, in what version."""
    named = dict.fromkeys(attacks.split("+"))
    begins = "The attacks are" if len(named) == 1 else "Among the attacks is"
    return tuple(f"{begins} the battery {name}, version {VERSIONS[name]}." for name in named if name in VERSIONS)


def precision_of_attacks(model: nn.Module, choice: PrecisionChoice) -> Precision:
    """Return the precision of an evaluation's attacks; ``auto`` goes by the network's device and its parameters.

    Raises ValueError for another word, and for bfloat16 with a network of float64.
    """
    if choice == "auto" and _is_double(model):
        return "float32"
    found = resolve_precision(choice, device_of(model), "attack_precision")
    if found != "float32":
        _refuse_double(model, "attack_precision", found)
    return found


def _refuse_double(model: nn.Module, name: str, precision: str) -> None:
    if _is_double(model):
        raise ValueError(f"a network of float64 keeps its precision, got `{name}` {precision}; call .float() first")


def _is_double(model: nn.Module) -> bool:
    return any(tensor.dtype == torch.float64 for tensor in model.parameters())


@dataclass(frozen=True)
class Job:
    """A request with the networks and data that its cells name, and who computes it; None for this process."""

    request: Request
    inputs: Any
    engine: Engine | None = None

    def open(self, out: Path | str | None) -> Results:
        """Rehearse, and return the store: memory, or the folder `out`; ValueError where it holds another request.

        Every stored cell is read: one that is damaged counts as missing.
        """
        self.inputs.rehearse(self.request.cells)
        store = Memory(self.request) if out is None else Store.open(out, self.request)
        store.verify()
        return store

    def run(self, store: Results, show: Show, say: Callable[[str], None] | None = None) -> tuple[Failed, ...]:
        """Compute what a store from `open` lacks, and return the groups that failed.

        Args:
            store: from `open`.
            show: how far it is.
            say: gets what the work costs, in a line, before work that takes long.
        """
        missing = store.survey().missing
        if not missing:
            return ()
        if say is not None and isinstance(self.inputs, Images):
            self._tell_cost([cell for cell in missing if isinstance(cell, ImageCell)], say)
        work = work_of(cell for group in unfinished(self.request.cells, missing) for cell in group)
        with show(_WORK[missing[0].kind], work) as tick:
            return run(store, self.inputs, tick, self.engine)

    def _tell_cost(self, cells: Sequence[ImageCell], say: Callable[[str], None]) -> None:
        try:
            budget = budget_of(cells, self.inputs)
        except Exception:  # of the network on some images, which its cells will tell
            return
        if budget.seconds >= LONG:
            say(f"{budget.passes}; {budget.time}")

    def result(self, out: Path | str | None, show: Show, say: Callable[[str], None] | None = None) -> Result:
        """Compute what is missing and return the result; EvaluationError where cells could not be computed or read."""
        store = self.open(out)
        if say is not None and isinstance(store, Store):
            damaged = (f"{problem}; computing it again" for problem in store.survey().damaged)
            for line in filter(None, (store.note, *damaged)):
                say(line)
        if failed := self.run(store, show, say):
            groups = counted(len(failed), "group of cells", "groups of cells")
            again = "; the same call computes them again" if out else ""
            raise EvaluationError(f"{groups} failed, the first by {failed[0].reason}{again}")
        found = Result(store)
        if found.summary.damaged:
            raise EvaluationError(f"{found.summary.damaged[0]}; the same call computes it again")
        return found


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is as it is by default, but for what every call should say."""
    usual = signature(evaluate).parameters
    always = ("passes", "samples", "seed")
    return {name: value for name, value in settings.items() if name in always or value != usual[name].default}


def _radii(eps: Any) -> list[float]:
    try:
        found: list[float] = torch.as_tensor(eps, dtype=torch.float64).flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"`eps` must be a number such as 8 / 255, or several, got {eps!r}") from None
    return found


def _dataset(images: Any, labels: Any, classes: Sequence[str], examples: Any) -> Dataset:
    pictures = given_images(images).float().cpu()
    if pictures.ndim < 2:
        raise ValueError(f"`images` must be (N, …), got {tuple(pictures.shape)}")
    if labels is None:
        raise TypeError("`labels` must be given: saplab.evaluate(net, images, labels)")
    wanted = given_labels(labels, len(pictures)).cpu()
    numbers = positions(pictures) if examples is None else torch.as_tensor(examples)
    if numbers.shape != (len(pictures),) or numbers.is_floating_point():
        got = f"{numbers.dtype} of shape {tuple(numbers.shape)}"
        raise ValueError(f"`examples` must be {len(pictures)} integers, got {got}")
    return Dataset("images", pictures, wanted, numbers.long(), tuple(map(str, classes)))
