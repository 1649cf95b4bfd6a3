"""The entries: which defence on which network, by the names of the command line."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import nn

from saplab.benchmark.methods import METHODS, OWN, Claim, Method
from saplab.defenses import Mixture, defend, parse_defenses
from saplab.defenses.drawing import GradientRule
from saplab.models.zoo import PACKAGED, load_model
from saplab.system.words import did_you_mean

ALL: Final = "all"  # stands for every entry
_BASE: Final = "preact-resnet20"


@dataclass(frozen=True)
class Entry:
    """A defence on a network.

    Attributes:
        name: as on the command line, and of its folder.
        method: the published defence, a key of `METHODS`.
        networks: as `load_model` reads them; several are a mixture.
        shares: of the mixture's networks.
        defense: as the command line writes it; "" for a network that is random by itself, or not at all.
        sites, parameters: patterns of the places that the defence acts on; empty for all.
        trained: whether the network was trained for its defence, instead of being defended afterwards.
        weights: a file, of one network's.
        claim: of this entry alone, instead of the method's.
    """

    name: str
    method: str
    networks: tuple[str, ...]
    shares: tuple[float, ...] = ()
    defense: str = ""
    sites: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    trained: bool = False
    weights: Path | None = None
    claim: Claim | None = None

    @property
    def facts(self) -> Method:
        """Return what is known of the defence."""
        return METHODS[self.method]

    @property
    def is_own(self) -> bool:
        """Return whether it is an entry of the user's, whose method nobody published."""
        return self.method == OWN

    @property
    def network(self) -> str:
        """Return the network in words."""
        if len(self.networks) == 1:
            return self.networks[0]
        return " + ".join(f"{share:g} {name}" for share, name in zip(self.shares, self.networks, strict=True))

    @property
    def stated(self) -> Claim | None:
        """Return the claim that the entry stands beside."""
        return self.claim or self.facts.claim

    @property
    def lacking(self) -> tuple[str, ...]:
        """Return the networks of the package that are not there (yet)."""
        return tuple(name for name in self.networks if name.startswith(_BASE + "-") and name not in PACKAGED)

    def build(self, seed: int = 0, backward: GradientRule = "mask") -> nn.Module:
        """Load and defend the network, with `defend`'s seed and rule; ValueError where weights are not there."""
        if self.lacking:
            raise ValueError(
                f"{self.name} needs networks whose weights are not in the package: {', '.join(self.lacking)}"
            )
        loaded = [load_model(name, self.weights) for name in self.networks]
        network = loaded[0] if len(loaded) == 1 else Mixture(loaded, self.shares)
        if not self.defense:
            return network
        defenses = parse_defenses(self.defense)
        places = {"sites": self.sites or None, "parameters": self.parameters or None}
        return defend(network, *defenses, **places, seed=seed, backward=backward)


_NETWORKS: Final = ("dense", "fast", "adversarial")
_POST_HOC: Final = (  # method, name, text
    ("sap", "sap-100", "sap:100"),
    ("dropout", "dropout-0.05", "dropout:0.05"),
    ("rna", "rna-0.1", "rna:0.1"),
    ("rsa", "rsa-0.2", "rsa:0.2"),
    ("rnw", "rnw-0.05", "rnw:0.05"),
    ("rsw", "rsw-0.2", "rsw:0.2"),
    ("swp", "swp-100", "swp:100"),
    ("snd", "snd", "gaussian-noise:0.01"),
    ("rnd", "rnd", "gaussian-noise:0.02"),
    ("rfd", "rfd", "rfd:stage2.0.relu1=0.3,stage3.0.relu1=0.3,relu=0.3"),
    ("resize-pad", "resize-pad", "resize-pad"),
    ("crop", "crop", "random-crop:0.9"),
    ("jpeg", "jpeg", "jpeg"),
    ("rounding", "rounding", "stochastic-rounding:32"),
    ("rpi", "rpi", "rpi"),
)
_WITHIN_BLOCKS: Final = {"rpi": (("stage*",), ("stage*.conv?.weight",))}  # first and last layers as they are
_ADV_SAP: Final = Claim(
    "With adversarial training (80/20, λ = 2): 74.1 % clean, and as much as that training alone for small λ.",
    "Dhillon et al. 2018, Fig. 3 and its text", "pre-activation ResNet-20", 74.1,
)  # fmt: skip
_FAST_SAP: Final = Claim(
    "Nothing is claimed for a network trained against one step of its attack.", "Dhillon et al. 2018"
)
_OTHER_CLAIMS: Final = {"sap-100-adversarial": _ADV_SAP, "sap-100-fast": _FAST_SAP}


def _post_hoc(method: str, name: str, text: str, network: str) -> Entry:
    sites, parameters = _WITHIN_BLOCKS.get(method, ((), ()))
    full = f"{name}-{network}"
    return Entry(full, method, (f"{_BASE}-{network}",), (), text, sites, parameters, claim=_OTHER_CLAIMS.get(full))


def _certified(std: float, percent: float) -> Claim:
    text = f"{percent:g} % certified within a radius of 0.25 in L2, by networks trained with σ = {std:g}."
    return Claim(text, "the authors' logs", "ResNet-110", None, percent, "l2", 0.25, certified=True)


def _trained(name: str, method: str, network: str, defense: str = "", claim: Claim | None = None) -> Entry:
    return Entry(name, method, (f"{_BASE}-{network}",), defense=defense, trained=True, claim=claim)


_MIXED: Final = (f"{_BASE}-fast", f"{_BASE}-bat")
_LISTED: Final = (
    *(Entry(network, "none", (f"{_BASE}-{network}",)) for network in _NETWORKS),
    *(_post_hoc(*row, network) for row in _POST_HOC for network in _NETWORKS),
    Entry("mixture-dense", "mixture", (f"{_BASE}-dense", "resnet20-dense"), (0.5, 0.5)),
    Entry("mixture-robust", "mixture", (f"{_BASE}-fast", f"{_BASE}-adversarial"), (0.5, 0.5)),
    _trained("gaussian-0.12", "gaussian", "gaussian-0.12", "gaussian-noise:0.12", _certified(0.12, 59)),
    _trained("gaussian-0.25", "gaussian", "gaussian-0.25", "gaussian-noise:0.25", _certified(0.25, 60)),
    _trained("rse", "rse", "rse"),
    _trained("pni", "pni", "pni"),
    _trained("rpf", "rpf", "rpf"),
    _trained("random-norm", "random-norm", "rna"),
    _trained("lwta", "lwta", "lwta"),
    _trained("wca", "wca", "wca"),
    _trained("mc-dropout", "mc-dropout", "dropout-0.1", "dropout:0.1"),
    _trained("sap-trained", "sap-trained", "sap-100", "sap:100"),
    Entry("bat", "bat", _MIXED, (0.9, 0.1), trained=True),
)

ENTRIES: Final[Mapping[str, Entry]] = {entry.name: entry for entry in _LISTED}


def plain_name(name: str) -> str:
    """Return what a reader remembers of a name: its letters and digits."""
    return "".join(filter(str.isalnum, name)).casefold()


TAKEN: Final[Mapping[str, str]] = {plain_name(name): name for name in (*ENTRIES, ALL)}
"""Names that no card of another network may have, by their letters and digits."""


def chosen(names: tuple[str, ...]) -> tuple[Entry, ...]:
    """Return the entries of these names, each once; ``all`` stands for every one whose weights are there.

    Raises:
        ValueError: an unknown name.
    """
    found: dict[str, Entry] = {}
    for name in names:
        if name == ALL:
            found |= {entry.name: entry for entry in ENTRIES.values() if not entry.lacking}
        elif name in ENTRIES:
            found[name] = ENTRIES[name]
        else:
            raise ValueError(
                f"`names` must be among {', '.join(ENTRIES)}, or all, got {name!r}{did_you_mean(name, ENTRIES)}"
            )
    return tuple(found.values())
