"""Cells: every field of them decides the digest, equal settings have one, and what is for people has none."""

import json
import math
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import DENSE, SAP, make_cell

import saplab
from saplab import defenses
from saplab.attacks import APGD, FGSM, PGD, MonteCarlo, RandomNoise, ThreatModel
from saplab.runs import Curve, GameCell, ImageCell, Network, Request, cell_of, cut, groups_of
from saplab.runs.cell import EarlierVersionError

IMAGES = make_cell()
GAMES = GameCell(defender=SAP, adversary=SAP, attack=FGSM(), eps=(8 / 255,), start=0, stop=4, game="catch")
CHANGED_NETWORKS = {
    "model": replace(SAP, model="wrn"),
    "digest": replace(SAP, digest="c" * 64),
    "defenses": replace(SAP, defenses=(defenses.SAP(50),)),
    "sites": replace(SAP, sites=("stage3.*",)),
    "parameters": replace(SAP, parameters=("*.weight",)),
    "grain": replace(SAP, grain="example"),
    "outputs": replace(SAP, outputs="probabilities"),
}
COMMON = {
    "defender": DENSE,
    "adversary": DENSE,
    "attack": FGSM(MonteCarlo(20, average="logits")),
    "start": 1,
    "stop": 39,
    "passes": 21,
    "seed": 1,
    "precision": "bfloat16",
    "device": "cuda",
}
CHANGED = {
    ImageCell: {**COMMON, "eps": (0.0, 8 / 255), "data": "c" * 64, "threat": ThreatModel(bounds=(-1, 1))},
    GameCell: {
        **COMMON, "eps": (4 / 255,), "threat": None, "game": "pong", "newest": True, "sticky": 0.25, "epsilon": 0.0,
        "max_frames": 400,
    },
}  # fmt: skip


@saplab.system.registry.register("test-clip")
@dataclass(frozen=True)
class Clip(saplab.defenses.Defense):
    """A defence whose settings are of many types."""

    random = False
    limit: float = 1.0
    steps: int = 2
    name: str = "a"
    soft: bool = False

    def activation(self, h, draw, where):
        return h.clamp(max=self.limit)


def test_a_frozen_draw_is_not_random():
    """What is transferred from it needs one pass, and no question of draws is asked of it."""
    own = replace(DENSE, grain="example")
    assert own.random
    assert own.reference == replace(DENSE, grain="frozen")
    assert not own.reference.random
    assert replace(SAP, grain="frozen").random  # by its defence
    assert not DENSE.random


# Everything that decides numbers is in the key


@pytest.mark.parametrize("cell", [IMAGES, GAMES], ids=["images", "games"])
def test_every_field_of_a_cell_changes_its_digest(cell):
    """A field that is new has to be added here, and to the key."""
    changes = CHANGED[type(cell)]
    assert set(changes) == {field.name for field in fields(cell)}
    digests = [replace(cell, **{name: value}).digest for name, value in changes.items() if value is not None]
    assert len({cell.digest, *digests}) == 1 + len(digests)


@pytest.mark.parametrize("role", ["defender", "adversary"])
def test_every_field_of_a_network_changes_the_digest(role):
    assert set(CHANGED_NETWORKS) == {field.name for field in fields(Network)}
    digests = {replace(IMAGES, **{role: network}).digest for network in CHANGED_NETWORKS.values()}
    assert len({IMAGES.digest, *digests}) == 1 + len(CHANGED_NETWORKS)


@pytest.mark.parametrize(
    "other",
    [FGSM(MonteCarlo(19)), FGSM(MonteCarlo(20, "identity")), FGSM(MonteCarlo(20, average="probabilities")),
     FGSM(MonteCarlo(20, loss="dlr")), FGSM(MonteCarlo(20, redraw=False)), PGD(MonteCarlo(20)),
     APGD(MonteCarlo(20)), RandomNoise()],
)  # fmt: skip
def test_every_setting_of_an_attack_changes_the_digest(other):
    assert replace(IMAGES, attack=other).digest != IMAGES.digest


def test_kinds_and_versions_of_numbers_change_the_digest(monkeypatch):
    keys = [{**IMAGES.key, "kind": "games"}, {**IMAGES.key, "numerics": ImageCell.numerics + 1}]
    assert IMAGES.key not in keys
    before = IMAGES.digest
    monkeypatch.setattr(ImageCell, "numerics", ImageCell.numerics + 1)
    assert replace(IMAGES).digest != before


def test_a_digest_is_what_it_always_was():
    """Another digest would leave every stored result behind; a new version of the numerics means to."""
    assert (IMAGES.digest, GAMES.digest) == ("b2a755c0d2f87929", "3e7686376d638014")


def test_what_people_read_is_not_in_the_key():
    curve = Curve("a", (IMAGES,))
    other = Curve("b", (IMAGES,), "claim", {1.0: 2.0}, figure="fig", against="c")
    first, second = Request("title", (curve,)), Request("other", (other,), "command", ("cat",))
    assert list(first.by_digest) == list(second.by_digest) == [IMAGES.digest]


# Equal settings are one cell


def test_settings_that_are_equal_have_one_digest():
    """100 and 100.0, 0 and 0.0, NumPy's numbers and Python's."""
    whole = [Clip(1), Clip(1.0)]
    found = {replace(IMAGES, defender=replace(DENSE, defenses=(part,))).digest for part in whole}
    assert len(found) == 1
    sap = [defenses.SAP(100), defenses.SAP(100.0), defenses.SAP({"*": 100}), defenses.SAP({"*": 100.0})]
    assert [replace(DENSE, defenses=(part,)) == SAP for part in sap] == [True, True, False, False]
    assert len({replace(DENSE, defenses=(part,)) for part in sap}) == 2
    ints = replace(IMAGES, eps=(0, 1), threat=ThreatModel(bounds=(0, 1)), seed=np.int64(0), start=np.int32(0))
    assert ints.digest == replace(IMAGES, eps=(0.0, 1.0)).digest
    assert replace(GAMES, sticky=0, eps=(1,)).digest == replace(GAMES, eps=(np.float64(1),)).digest
    assert replace(IMAGES, attack=PGD(MonteCarlo(2), momentum=1)).digest == (
        replace(IMAGES, attack=PGD(MonteCarlo(2), momentum=1.0)).digest
    )


def test_the_order_of_patterns_is_a_setting():
    """The first that matches counts."""
    first, second = (
        replace(DENSE, defenses=(defenses.SAP(setting),)) for setting in ({"a": 1, "*": 2}, {"*": 2, "a": 1})
    )
    assert first != second
    assert replace(IMAGES, defender=first).digest != replace(IMAGES, defender=second).digest
    cells = (replace(IMAGES, defender=first), replace(IMAGES, defender=second, start=40, stop=80))
    request = Request("t", (Curve("a", cells),))
    assert list(Request.from_json(request.to_json()).by_digest) == list(request.by_digest)


def test_values_that_json_has_no_word_for_are_refused():
    infinite = replace(DENSE, defenses=(Clip(float("inf")),))
    with pytest.raises(ValueError, match=r"`limit` must be finite numbers.*got inf"):
        replace(IMAGES, defender=infinite).digest  # noqa: B018
    with pytest.raises(TypeError):
        replace(IMAGES, passes=1.5).digest  # noqa: B018


# Cells come back from their keys


@given(
    start=st.integers(0, 10**6),
    size=st.integers(1, 1000),
    seed=st.integers(0, 2**63 - 1),
    eps=st.lists(st.floats(0, 1) | st.integers(0, 1), min_size=1, max_size=9).map(tuple),
    limit=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
    name=st.text(),
    soft=st.booleans(),
)
def test_cells_come_back_from_their_keys(start, size, seed, eps, limit, name, soft):
    network = Network(name, "d", (Clip(limit, name=name, soft=soft), defenses.SAP({"a.*": 3, "*": 2.5})), (name, "*"))
    cell = make_cell(network, DENSE, start=start, stop=start + size, seed=seed, eps=eps, attack=PGD(steps=size))
    again = cell_of(json.loads(cell.to_json()))
    assert (again, again.digest) == (cell, cell.digest)


def test_cells_of_games_come_back_from_their_keys():
    for cell in (GAMES, replace(GAMES, eps=(0.0,)).plain):
        again = cell_of(json.loads(cell.to_json()))
        assert (again, again.digest) == (cell, cell.digest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "movies"}, "`kind` must be one of images, games, got 'movies'"),
        ({"kind": []}, "`kind` must be one of"),
        ({"numerics": 99}, f"numerics 99, this version of saplab computes with {ImageCell.numerics}"),
        ({"start": "x"}, r"not a cell: Expected `int`, got `str` - at `\$\.start`"),
        ({"stop": 0}, "a range of examples must hold at least one, got 0..0"),
        ({"attack": 3}, "Attack must be an object, got 3"),
        ({"attack": {"class": "fgsm", "samples": 0}}, "^`samples` must be >= 1, got 0$"),
        ({"attack": {"class": "magic"}}, "`attack` must be one of"),
        ({"more": 1}, "not a cell as this version of saplab writes it"),
        ({"eps": [0]}, "not a cell as this version of saplab writes it"),
    ],
)
def test_other_keys_are_refused(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        cell_of({**IMAGES.key, **change})
    assert not isinstance(caught.value, EarlierVersionError)


def test_keys_of_earlier_numbers_are_told_apart():
    with pytest.raises(EarlierVersionError, match=f"numerics 0, this version of saplab computes with {GAMES.numerics}"):
        cell_of({**GAMES.key, "numerics": 0})


def test_a_class_whose_source_has_changed_is_refused():
    key = json.loads(replace(IMAGES, defender=replace(DENSE, defenses=(Clip(),))).to_json())
    assert key["defender"]["defenses"][0]["class"] == "test-clip"
    assert cell_of(key).defender.defenses == (Clip(),)
    key["defender"]["defenses"][0]["class source"] = "0" * 16
    with pytest.raises(ValueError, match=r"^the source of `defense` test-clip has changed since this was stored$"):
        cell_of(key)


# Groups


def test_cells_that_share_images_are_computed_together():
    budgets = [replace(IMAGES, attack=FGSM(MonteCarlo(n))) for n in (1, 20)]
    across = replace(IMAGES, defender=DENSE, adversary=SAP, passes=1)
    others = [replace(IMAGES, seed=1), replace(IMAGES, start=1), replace(IMAGES, adversary=DENSE), GAMES]
    found = groups_of([budgets[0], *others, across, budgets[1], replace(GAMES, seed=1)])
    assert found == [
        (budgets[0], across, budgets[1]), *((other,) for other in others), (replace(GAMES, seed=1),)
    ]  # fmt: skip


def test_a_cell_is_cut_into_ranges_and_seeds():
    first, second = cut(make_cell(start=10, stop=35, seed=3), 10, seeds=2)
    assert [(cell.start, cell.stop) for cell in first] == [(10, 20), (20, 30), (30, 35)]
    assert [cell.seed for cell in first + second] == [3] * 3 + [4] * 3
    for arguments, message in (((0, 1), "`batch_size` must be >= 1, got 0"), ((1, 0), "`seeds` must be >= 1, got 0")):
        with pytest.raises(ValueError, match=message):
            cut(IMAGES, *arguments)


def test_only_saplabs_own_networks_are_called_dense():
    """Dense is the paper's word, for its network without pruning."""
    own, mine = Network("preact-resnet20-dense", "0"), Network("mine:net", "0")
    assert (own.label, Network("resnet20", "0").label, mine.label) == ("dense", "dense", "undefended")
    assert replace(mine, defenses=(defenses.SAP(100),)).undefended.label == "undefended"
    assert [replace(one, defenses=(defenses.SAP(100),)).label for one in (own, mine)] == ["SAP-100"] * 2
    assert [replace(mine, grain=grain).label for grain in ("example", "frozen")] == ["stochastic", "one frozen draw"]


def test_more_cells_than_can_be_planned_are_refused_at_once():
    with pytest.raises(ValueError, match="a run must have at most 250,000 cells, got 4,000,000"):
        cut(make_cell(stop=40), 10, seeds=10**6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sticky": math.nan}, r"`sticky` must be within \[0, 1\), got nan"),
        ({"sticky": 1.0}, r"`sticky` must be within \[0, 1\), got 1.0"),
        ({"epsilon": math.nan}, r"`epsilon` must be within \[0, 1\], got nan"),
        ({"stop": 10**20}, r"episodes are numbered below 2\^32, got 0\.\.10{20}"),
    ],
)
def test_games_that_cannot_be_played_are_no_cells(change, message):
    with pytest.raises(ValueError, match=message):
        replace(GAMES, start=0, **change)


@pytest.mark.parametrize("cell", [IMAGES, GAMES])
def test_passes_are_counted_before_anything_is_computed(cell):
    with pytest.raises(ValueError, match="`passes` must be >= 1, got 0"):
        replace(cell, passes=0)


def test_a_seed_that_json_cannot_hold_is_refused():
    assert replace(IMAGES, seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(ValueError, match=f"`seed` must be below 2\\^63, got {2**63}"):
        replace(IMAGES, seed=2**63)
