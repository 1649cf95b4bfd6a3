"""Run an entry: one evaluation for each threat model, the paper's own beside them, certificates; then its card."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import torch
from torch import nn

from saplab.attacks import MonteCarlo, ThreatModel, attackers_of
from saplab.benchmark.card import FORMAT, Card, Data
from saplab.benchmark.entries import Entry
from saplab.benchmark.found import (
    certified,
    clean_of,
    cost_of,
    left_in,
    machine_of,
    network_of,
    published_found,
    threatened,
)
from saplab.benchmark.markdown import card_text
from saplab.benchmark.proof import Proof, noise_of, proven
from saplab.benchmark.protocol import PROTOCOL, Threat, Tier
from saplab.data.dataset import Dataset
from saplab.data.load import load_data
from saplab.defenses.defended import undefended
from saplab.defenses.prediction import for_network, logits
from saplab.defenses.stochastic import ready
from saplab.evaluation.evaluate import Job, planned
from saplab.evaluation.result import Result
from saplab.models.identity import network_digest
from saplab.runs.engines import Engine
from saplab.system.folder import inside, require_plain, write_files
from saplab.system.memory import peak_memory
from saplab.system.progress import Show, silent

CARD: Final = "card.json"
_PUBLISHED: Final = "published-"


@dataclass(frozen=True)
class Run:
    """An entry in a tier, ready to be computed.

    Attributes:
        images: all of the tier.
        device: of PyTorch, on which the network is.
        engine: who computes the evaluations; None for this process.
        command: that makes the card again.
        kind: of the device that computes them, where that is another one.
    """

    entry: Entry
    tier: Tier
    images: Dataset
    device: str = "cpu"
    engine: Engine | None = None
    command: str = ""
    kind: str = ""

    def jobs(self) -> dict[str, Job]:
        """Return the evaluations by the names of their folders; ValueError where the network cannot be evaluated."""
        return self._jobs(self.model())

    def _jobs(self, model: nn.Module) -> dict[str, Job]:
        self._check_classes(model)
        found: dict[str, Job] = {}
        for threat in PROTOCOL.threats:
            found[threat.norm] = self._job(model, threat, PROTOCOL.battery)
        if (theirs := self.entry.facts.published) is not None:
            ball = Threat(theirs.norm, (theirs.eps,))
            for draw in range(theirs.draws):
                found[f"{_PUBLISHED}{draw}"] = self._job(model, ball, theirs.attack, PROTOCOL.seed + draw)
        return found

    def _check_classes(self, model: nn.Module) -> None:
        """Refuse outputs for which there are no images: as rivals and targets that never win they mislead attacks."""
        few = self.images.images[:2].to(self.device)
        with torch.no_grad():
            found = logits(ready(model, few), for_network(model, few)).shape[1]
        if found != len(self.images.classes):
            raise ValueError(f"the network must have {len(self.images.classes)} outputs, as {self.images.name} has"
                             f" classes, got {found}")  # fmt: skip

    def model(self) -> nn.Module:
        """Load the network, defended, on the device.

        Raises:
            ValueError: no weights, or a function of the user's that returns another network each time, of which nobody
                could compute the card again.
        """
        model = self.entry.build()
        if self.entry.is_own:
            first, again = (network_digest(undefended(one)) for one in (model, self.entry.build()))
            if first != again:
                raise ValueError(f"{self.entry.network} must return the same network whenever it is called, got another"
                                 " the second time: let it load its weights, or set its seed first")  # fmt: skip
        return model.to(self.device)

    def _job(self, model: nn.Module, threat: Threat, attacks: str, seed: int = PROTOCOL.seed) -> Job:
        tier, ball = self.tier, ThreatModel(threat.norm)
        job = planned(
            model, self.images, attackers_of(attacks, MonteCarlo(tier.samples), ball), threat.eps, threat=ball,
            passes=tier.passes, seed=seed, baseline=False, batch_size=tier.batch, command=self.command,
            title=f"{self.entry.name}, {threat.norm}", battery=attacks, device=self.kind,
        )  # fmt: skip
        return replace(job, engine=self.engine)

    def card(
        self,
        folder: Path,
        show: Show = silent,
        stage: Callable[[str], None] = lambda name: None,
        progress: bool = False,
    ) -> Card:
        """Compute what the folder lacks, and write and return the entry's card.

        Args:
            show: how far each evaluation is.
            stage: told the name of each part that begins.
            progress: whether the certificates show a bar.

        Killed at any moment, the same call goes on where it stopped and ends with the same numbers.

        Raises:
            ValueError: a folder of another request, or a network that cannot be evaluated.
            EvaluationError: cells that could not be computed.
        """
        require_plain(folder)
        model = self.model()
        results: dict[str, Result] = {}
        for name, job in self._jobs(model).items():
            stage(name)
            results[name] = job.result(inside(folder, name, folder=True), show)
        proof = None
        if (std := noise_of(model)) is not None:
            stage("certificate")
            cell = next(iter(results.values())).request.cells[0]
            proof = proven(model, std, cell, self.images, self.tier, folder / "certificate.json", progress)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        card = self._card(results, proof, parameters)
        write_files(folder, {CARD: card.to_json(), "card.md": card_text(card).encode()})
        return card

    def _card(self, results: Mapping[str, Result], proof: Proof | None, parameters: int) -> Card:
        entry, tier, facts = self.entry, self.tier, self.entry.facts
        own = [results[threat.norm] for threat in PROTOCOL.threats]
        threats = tuple(map(threatened, own))
        published = [result for name, result in results.items() if name.startswith(_PUBLISHED)]
        theirs = None
        if facts.published is not None:
            theirs = published_found(facts.published, published, left_in(threats, facts.published))
        every = list(results.values())
        data = Data(self.images.name, len(self.images), self.images.digest())
        return Card(
            FORMAT, PROTOCOL.version, f"{PROTOCOL.battery} {PROTOCOL.battery_version}", tier.name, entry.name,
            facts.title, facts.source, facts.what, entry.trained, network_of(own[0], entry.network, parameters), data,
            PROTOCOL.seed, tier.passes, tier.samples, clean_of(own[0]), threats,
            certified(proof.found) if proof else None,
            entry.stated, theirs, facts.found, facts.departures, self.command,
            cost_of(every, proof.seconds if proof else 0.0, peak_memory()), machine_of(every),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip


def load_images(tier: Tier, data: str = "sample") -> Dataset:
    """Return the images of a tier: the first of the packaged sample, or of a whole data set that is named.

    Raises:
        ValueError: the data set holds fewer, or is another one.
    """
    if data != "sample" and not data.startswith("cifar10:"):
        raise ValueError(f"`data` must be sample or cifar10:DIR, whose images all entries share, got {data!r}")
    every = load_data(data)
    wanted = tier.images if data == "sample" else None
    if wanted is not None and wanted > len(every):
        raise ValueError(f"the tier {tier.name} needs {wanted} images, {data} holds {len(every)}")
    count = len(every) if wanted is None else wanted
    return replace(every, images=every.images[:count], labels=every.labels[:count], indices=every.indices[:count])
