"""The card of an entry: what was found, how, by what machine, and the claim that it stands beside; JSON by a schema."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

import msgspec

from saplab.attacks import NormName
from saplab.benchmark.methods import Claim, Percent
from saplab.evaluation.checks import Outcome
from saplab.metrics import Interval

FORMAT: Final = 1
NAME: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,79}(?![\s\S])"  # of an entry, and so of files

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Duration = Annotated[float, msgspec.Meta(ge=0, le=1e9)]  # in seconds
Name = Annotated[str, msgspec.Meta(pattern=NAME)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}(?![\s\S])")]  # SHA-256
Time = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}\+00:00(?![\s\S])")]


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object in which a name is there twice, of which readers take one or the other."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{Counter(names).most_common(1)[0][0]!r} is there twice")


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A share of the images in %, with its 95 % interval."""

    percent: Percent
    low: Percent
    high: Percent

    @classmethod
    def of(cls, interval: Interval) -> Self:
        """Return an interval in %, to four digits, so that the count of images can be read from it."""
        return cls(*(round(100 * value, 4) for value in (interval.estimate, interval.low, interval.high)))


class Counted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accuracy, counted in several ways.

    Attributes:
        averaged: of the prediction averaged over the passes.
        single_pass: of single passes.
        majority: of the class that most passes find, in %.
        tries: what an attacker leaves who may try ten times; None where passes do not differ.
    """

    averaged: Share
    single_pass: Share
    majority: Percent
    tries: Share | None


class Left(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all attacks within a radius leave.

    Attributes:
        worst: of the averaged prediction, under the worst attack on each image, cross-fitted.
        attack: that alone leaves least of it.
        single_pass, majority, tries: the least that one attack leaves, counted so.
    """

    eps: Positive
    worst: Share
    attack: str
    single_pass: Share
    majority: Percent
    tries: Share | None


class AttackRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one attack leaves at one radius."""

    attack: str
    eps: Positive
    counted: Counted


class CheckRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One property that the verdict checks."""

    key: str
    statement: str
    outcome: Outcome
    evidence: str


class Calibrated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far confidences can be believed under one attack at one radius; errors in %."""

    attack: str
    eps: Annotated[float, msgspec.Meta(ge=0)]
    ece: Share
    adaptive_ece: Percent
    brier: Annotated[float, msgspec.Meta(ge=0, le=2)]
    nll: Annotated[float, msgspec.Meta(ge=0)] | None  # None where a label has the probability 0
    single_pass_ece: Percent


class Threatened(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The entry in one threat model: norm, what is left, the verdict, and every attack."""

    norm: NormName
    left: tuple[Left, ...]
    sentence: str
    masked: bool | None
    checks: tuple[CheckRow, ...]
    attacks: tuple[AttackRow, ...]
    calibration: tuple[Calibrated, ...]
    notes: tuple[str, ...]


class CertifiedAt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Certified accuracy at a radius of the Euclidean norm."""

    radius: Annotated[float, msgspec.Meta(ge=0)]
    accuracy: Share


class Certified(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is proven for the network under Gaussian noise; see `saplab.certify`."""

    std: Positive
    n0: Count
    n: Count
    alpha: Positive
    abstained: Share
    accuracy: tuple[CertifiedAt, ...]

    def at(self, radius: float) -> Share:
        """Return what is certified at a radius, or at the next one listed; 0 beyond what so many passes can tell."""
        return next((one.accuracy for one in self.accuracy if one.radius >= radius), Share(0.0, 0.0, 0.0))


class PublishedFound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the paper's own evaluation says of this network, beside what the protocol found.

    Attributes:
        attack, text, void, norm, eps, single_pass: as in `saplab.benchmark.methods.Published`.
        percent: what it leaves, the mean over `runs`, which hold each draw's.
        found: what the protocol's attacks leave in the same ball, counted in the same way; None where it has no such.
    """

    attack: str
    text: str
    void: str
    norm: NormName
    eps: Positive
    single_pass: bool
    percent: Percent
    runs: tuple[Percent, ...]
    found: Percent | None


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network and its defence, as cells name them."""

    model: str
    digest: Digest
    defense: str
    sites: tuple[str, ...]
    parameters: tuple[str, ...]
    own_draws: str  # whose the draws of its own code are; "" without any
    parameter_count: Count


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The images."""

    name: str
    images: Annotated[int, msgspec.Meta(ge=1)]
    digest: Digest


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the entry took.

    Attributes:
        passes: of one image through the network, at most; a backward pass counts as two.
        seconds: of computing, by the clock.
        processor_seconds: of processors together, in the evaluations, which other work on the machine stretches less.
        memory: the most that the process held, in MiB.
    """

    passes: Count
    seconds: Duration
    processor_seconds: Duration
    memory: Count


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What computed it.

    Attributes:
        instructions: the widest vector instructions that PyTorch finds there; "" on cards from before they were noted.
    """

    processor: str
    platform: str
    device: str
    threads: Count
    versions: Mapping[str, str]
    instructions: str = ""

    @property
    def kind(self) -> tuple[Any, ...]:
        """Return what machines share that end with the same bits."""
        libraries = (self.versions.get("torch"), self.versions.get("numpy"))
        return self.processor, self.instructions, self.device, self.threads, *libraries


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of the benchmark, as it was measured.

    Attributes:
        protocol, battery, tier: versions and size of what was run.
        command: that makes it again.
        seed, passes, samples: as in the protocol's tier.
        threats: one for each norm.
        found_elsewhere: what others reported against the defence.
        time: when it was finished (UTC).
    """

    format: int
    protocol: str
    battery: str
    tier: Name
    name: Name
    title: str
    source: str
    what: str
    trained: bool
    network: Network
    data: Data
    seed: int
    passes: int
    samples: int
    clean: Counted
    threats: tuple[Threatened, ...]
    certified: Certified | None
    claim: Claim | None
    published: PublishedFound | None
    found_elsewhere: str
    departures: tuple[str, ...]
    command: str
    cost: Cost
    machine: Machine
    time: Time

    def to_json(self) -> bytes:
        """Return the content of a card's file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "Card":
        """Read a card's file; ValueError for anything else, or for a card of another format."""
        try:
            card = msgspec.json.decode(content, type=cls)
            json.loads(content, object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not a card of the benchmark: {error}") from None
        if card.format != FORMAT:
            raise ValueError(f"a card of format {card.format}, this version of saplab reads {FORMAT}")
        return card

    def threat(self, norm: str) -> Threatened | None:
        """Return what was found in a norm."""
        return next((one for one in self.threats if one.norm == norm), None)

    def left(self, norm: str, eps: float) -> Left | None:
        """Return what is left in a ball; None where it was not attacked."""
        found = self.threat(norm)
        return next((one for one in found.left if one.eps == eps), None) if found else None


def schema() -> bytes:
    """Return the JSON Schema of a card."""
    return msgspec.json.format(msgspec.json.encode(msgspec.json.schema(Card)), indent=1) + b"\n"
