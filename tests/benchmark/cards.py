"""Cards that are made up, for the tests of comparisons and of the leaderboard."""

from saplab.benchmark.card import (
    FORMAT,
    AttackRow,
    Calibrated,
    Card,
    Certified,
    CertifiedAt,
    CheckRow,
    Cost,
    Counted,
    Data,
    Left,
    Machine,
    Network,
    PublishedFound,
    Share,
    Threatened,
)
from saplab.benchmark.methods import Claim
from saplab.benchmark.protocol import PROTOCOL

MACHINE = Machine("AMD EPYC", "Linux", "cpu", 1, {"python": "3.12", "torch": "2.13.0", "numpy": "2.4.6"})


def share(percent: float) -> Share:
    return Share(percent, max(percent - 5, 0.0), min(percent + 5, 100.0))


def counted(percent: float) -> Counted:
    return Counted(share(percent), share(percent - 1), percent, share(max(percent - 10, 0.0)))


def threatened(norm: str, eps: tuple[float, ...], percents: tuple[float, ...], masked: bool | None) -> Threatened:
    pairs = list(zip(eps, percents, strict=True))
    left = tuple(
        Left(e, share(p), "PGD-20 ×5 identity", share(max(p - 1, 0)), p, share(max(p - 10, 0))) for e, p in pairs
    )
    rows = tuple(AttackRow("PGD-20 ×5 identity", e, counted(p + 2)) for e, p in pairs)
    check = CheckRow("identity", "Does identity backward beat it?", "failed" if masked else "passed", "5.0 points")
    calibration = tuple(Calibrated("PGD-20 ×5 identity", e, share(12.0), 11.0, 0.5, 1.25, 13.0) for e in (0.0, *eps))
    sentence = f"Robust accuracy is at most {percents[-1]:.1f} %."
    return Threatened(norm, left, sentence, masked, (check,), rows, calibration, ())  # type: ignore[arg-type]


def make_card(
    name: str = "made", linf: tuple[float, ...] = (60.0, 50.0, 30.0), l2: float = 40.0, clean: float = 80.0,
    masked: bool | None = False, claim: Claim | None = None, published: PublishedFound | None = None,
    certified: float | None = None, title: str = "made up", **changes: object,
) -> Card:  # fmt: skip
    threats = PROTOCOL.threats
    found = (threatened("linf", threats[0].eps, linf, masked), threatened("l2", threats[1].eps, (l2,), masked))
    proof = None
    if certified is not None:
        at = tuple(CertifiedAt(radius, share(certified)) for radius in (0.0, 0.125, 0.25))
        proof = Certified(0.25, 100, 1000, 0.001, share(3.0), at)
    values = {
        "format": FORMAT, "protocol": PROTOCOL.version, "battery": f"{PROTOCOL.battery} {PROTOCOL.battery_version}",
        "tier": "small", "name": name, "title": title, "source": "Somebody 2020", "what": "nothing", "trained": False,
        "network": Network("preact-resnet20-dense", "a" * 64, "sap:100", (), (), "", 272_000),
        "data": Data("sample", 200, "b" * 64), "seed": 0, "passes": 20, "samples": 20, "clean": counted(clean),
        "threats": found, "certified": proof, "claim": claim, "published": published, "found_elsewhere": "",
        "departures": ("It is made up.",), "command": f"saplab benchmark {name} --tier small",
        "cost": Cost(1000, 100.0, 90.0, 700), "machine": MACHINE, "time": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Card(**{**values, **changes})  # type: ignore[arg-type]
