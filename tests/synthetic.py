"""Made-up results of made-up cells, for the tests of the store and the report."""

from dataclasses import replace

import numpy as np

from saplab import defenses
from saplab.attacks import FGSM, MonteCarlo, eps_of, strength_of
from saplab.runs import Curve, ImageCell, ImageResult, Network, Request, Store

DENSE = Network("preact-resnet20-dense", "a" * 64)
SAP = replace(DENSE, defenses=(defenses.SAP(100),))
CLASSES = 10
HOSTILE = "</script><img src=x onerror=alert(1)> \"'&{{ 7 * 7 }}"  # a name as an enemy writes it
MASK, IDENTITY = FGSM(MonteCarlo(20)), FGSM(MonteCarlo(20, "identity"))
EPS = tuple(map(eps_of, (0, 1, 2, 4, 8, 16)))


def make_cell(defender=SAP, adversary=None, start=0, stop=40, **changes):
    settings = {"attack": MASK, "eps": EPS, "data": "b" * 64, "passes": 20, **changes}
    return ImageCell(defender=defender, adversary=adversary or defender, start=start, stop=stop, **settings)


def make_curve(label, slope=0.2, shards=2, size=20, paper=None, claim="", **settings):
    cells = tuple(make_cell(start=size * k, stop=size * (k + 1), **settings) for k in range(shards))
    return Curve(label, cells, claim, paper or {})


def make_result(cell, slope=0.2, clean=0.9):
    """Draw votes whose accuracy falls from `clean` with log2(1 + λ) at `slope`."""
    rng = np.random.default_rng([cell.seed, cell.start, int(1000 * slope)])
    n = cell.stop - cell.start
    labels = np.arange(cell.start, cell.stop) % CLASSES
    ease = rng.normal(0, 0.15, size=n)
    votes = np.zeros((len(cell.eps), n, CLASSES), np.int32)
    for k, strength in enumerate(map(strength_of, cell.eps)):
        share = np.clip(clean + ease - slope * np.log2(1 + strength), 0.01, 0.99)
        right = rng.binomial(cell.passes, share)
        votes[k, np.arange(n), labels] = right
        votes[k, np.arange(n), (labels + 1) % CLASSES] += (cell.passes - right).astype(np.int32)
    probs = (votes / cell.passes).astype(np.float32)
    made = {
        "versions": {"saplab": "0.1.0", "torch": "2.13.0"},
        "threads": 2,
        "platform": "Linux",
        "seconds": 1.5,
        "time": f"2025-01-01T00:00:{cell.start % 60:02d}+00:00",
    }
    notes = (np.full(n, 0.5, np.float32), np.full(n, 0.01, np.float32), np.full(n, np.nan, np.float32))
    ends = np.full((len(cell.eps), n), np.nan, np.float32)
    numbers = np.arange(cell.start, cell.stop)
    pictures = rng.integers(0, 256, (len(cell.eps), min(2, n) if cell.start == 0 else 0, 8, 8, 3), np.uint8)
    return ImageResult(probs, votes, probs, probs, labels.astype(np.int64), numbers, *notes, ends, pictures, made)


SLOPES = {"dense": 0.35, "SAP-100": 0.1, "SAP-100, identity backward": 0.3}


def make_request(size=20, shards=2):
    paper = {0.0: 83.3, 1.0: 78.5, 2.0: 72.7}
    curves = (
        make_curve("dense", defender=DENSE, size=size, shards=shards, passes=1, claim="Knows the network."),
        make_curve("SAP-100", size=size, shards=shards, paper=paper, claim="Averages 20 gradients through the mask."),
        make_curve(
            "SAP-100, identity backward", size=size, shards=shards, attack=IDENTITY, claim="Ignores the pruning."
        ),
    )
    return Request("SAP-100 under attack", curves, "saplab demo --out saplab-demo")


def fill(root, request=None, cells=None):
    """Make a run folder that holds made-up results of the request's cells, or of the first `cells` of them."""
    store = Store.open(root, request or make_request())
    slopes = {cell.digest: SLOPES.get(curve.label, 0.2) for curve in store.request.curves for cell in curve.cells}
    for cell in store.request.cells[:cells]:
        store.save(cell, make_result(cell, slopes[cell.digest]))
    return store


MINE = """
[[figure]]
name = "mine"
title = "Of my own"
strengths = [0, 4]
[[figure.line]]
label = "plain"
model = "mine:small"
paper = {0 = 90, 4 = 20.5}
[[figure.line]]
label = "pruned"
model = "mine:small"
defense = "sap:200"
attack = "pgd:steps=2,backward=identity"
[[figure.line]]
label = "from the other"
model = "mine:small"
defense = "sap:200"
adversary = "mine:small"
[[figure.claim]]
text = "Pruning helps."
first = "pruned"
second = "plain"
relation = "higher"
strengths = [4]
"""
