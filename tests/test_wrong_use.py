"""What people write who know other libraries, or have read nothing: each mistake is told what to write instead."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import saplab
from saplab.attacks.batteries import ELSEWHERE, parse_attackers

NET = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10), nn.ReLU(), nn.Linear(10, 4)).eval()
CONV = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
X, Y = torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
DATA = TensorDataset(X, Y)


def evaluate(*words, **settings):
    return saplab.evaluate(*words, **{"attacks": "fgsm", "eps": 8 / 255, "passes": 2, "samples": 2} | settings)


ATTACKS = [
    (lambda: saplab.FGSM(NET), "write FGSM()(net, images, labels, eps=8 / 255)"),
    (lambda: saplab.PGD(NET, eps=8 / 255, steps=10), "PGD takes settings, not a network"),
    (lambda: saplab.PGD(eps=8 / 255), "`eps` is no setting of PGD, but of its call: write PGD()(net, images, labels"),
    (lambda: saplab.Square(norm="l2"), "`norm` is no setting of Square, but of its call"),
    (lambda: saplab.FGSM(samples=10), "write FGSM(MonteCarlo(samples=10))"),
    (lambda: saplab.PGD(backward="identity"), "write PGD(MonteCarlo(backward='identity'))"),
    (lambda: saplab.PGD(10), "`gradient` of PGD must be a saplab.MonteCarlo, got 10"),
    (lambda: saplab.PGD(step=10), "PGD has no setting `step`: did you mean `steps`?"),
    (lambda: saplab.MonteCarlo("10"), "`samples` must be an integer, got '10'"),
]
DEFENCES = [
    (lambda: saplab.SAP("100"), "`percent` of SAP must be a number or a dict of numbers, got '100'"),
    (lambda: saplab.SAP(None), "`percent` of SAP must be a number or a dict of numbers, got None"),
    (lambda: saplab.SAP({"*": "50"}), "must be a number or a dict of numbers, got '50'"),
    (lambda: saplab.defend(NET, saplab.SAP), "got the class SAP; write SAP(percent=…)"),
    (lambda: saplab.defend(saplab.SAP(100), NET), "the network comes first: saplab.defend(net, saplab.SAP(100))"),
    (lambda: saplab.defend(NET, "sap:100"), "got 'sap:100'; text is for the command line"),
    (lambda: saplab.defend(NET, [saplab.SAP(100)]), "got a list; write defend(net, *defences)"),
    (lambda: saplab.defend("preact-resnet20-dense", saplab.SAP()), "write saplab.load_model('preact-resnet20-dense')"),
    (lambda: saplab.defend(nn.Flatten, saplab.SAP()), "got the class Flatten; write Flatten()"),
]
DATA_SETS = [
    (lambda: evaluate(NET, DataLoader(DATA)), "write images, labels = map(torch.cat, zip(*loader)) first"),
    (lambda: evaluate(NET, DATA), "write images, labels = map(torch.cat, zip(*DataLoader(data, 500))) first"),
    (lambda: evaluate(NET, X), "`labels` must be given: saplab.evaluate(net, images, labels)"),
    (lambda: evaluate(X, Y, NET), "`model` must be an nn.Module, got Tensor"),
    (lambda: evaluate(NET, (X * 255).byte(), Y), "got torch.uint8; write images / 255 for pixels"),
    (lambda: evaluate(NET, X * 255, Y), "; write images / 255 for pixels of 0..255"),
    (lambda: evaluate(NET, (X - 0.5) / 0.25, Y), "; put the normalisation into the network, or give `bounds`"),
    (lambda: evaluate(CONV, X.permute(0, 2, 3, 1), Y), "they look like (N, H, W, C); write images.permute(0, 3, 1, 2)"),
    (lambda: evaluate(NET, X, nn.functional.one_hot(Y)), "; write labels.argmax(1) where the rows are one-hot"),
    (lambda: evaluate(NET, X, Y[:, None]), "; write labels[:, 0]"),
    (lambda: evaluate(NET, X, Y.float()), "; write labels.long()"),
    (lambda: evaluate(NET, X, Y, eps=8), "`eps` must be within [0, 1], got 8.0; for 8 pixel steps write 8 / 255"),
    (lambda: saplab.FGSM()(NET, X, Y, eps=8), "for 8 pixel steps write 8 / 255"),
    (lambda: evaluate(NET, X, Y, eps="8/255"), "`eps` must be a number such as 8 / 255, or several, got '8/255'"),
    (lambda: evaluate(NET, X, Y, attacks=saplab.PGD), "got the class PGD: write saplab.PGD()"),
    (lambda: evaluate(NET, X[0], Y[:1]), "; write images[None] for a single image"),
    (lambda: evaluate(NET, X, ["cat"] * 6), "`labels` must be the classes' numbers, got text such as 'cat'"),
    (lambda: saplab.predict(X, NET), "`model` must be an nn.Module, got Tensor"),
]
STORED = [
    (lambda: saplab.verdict(np.ones(6)), "`defended` must be saplab.Evidence, or a dict such as"),
    (lambda: saplab.verdict({"pgd": np.ones(6)}), "the arrays of pgd must be a dict by radius"),
    (lambda: saplab.verdict({"pgd": {0.1: np.ones((6, 4))}}), "`labels` must be given for probabilities"),
    (lambda: saplab.verdict({"cw": {0.1: np.ones(6)}}), "what comes closest to it is apgd:loss=margin"),
    (lambda: saplab.verdict({"quick": {0.1: np.ones(6)}}), "each attack must have arrays of its own"),
    (lambda: saplab.verdict({"pgd": {0.1: np.ones(6), 0.2: np.ones(5)}}), "the same at each radius, got [(5,), (6,)]"),
    (lambda: saplab.game_value({"a": {"x": 1, "y": 2}, "b": {"x": 1}}), "must give each defender the same adversaries"),
    (lambda: saplab.game_value({"a": 1}), "must give each defender the same adversaries"),
    (lambda: saplab.game_value([[1, 2], [3]]), "`payoff` must be numbers of the shape (D, A) or (D, A, N), or a dict"),
]


@pytest.mark.parametrize(("wrong", "advice"), [*ATTACKS, *DEFENCES, *DATA_SETS, *STORED])
def test_a_mistake_is_told_what_to_write(wrong, advice):
    with pytest.raises((TypeError, ValueError), match=re.escape(advice)) as raised:
        wrong()
    assert len(str(raised.value)) < 280
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "advice"),
    [("cw", "apgd:loss=margin"), ("C&W", "apgd:loss=margin"), ("bpda", "pgd:backward=identity"),
     ("AutoAttack", "standard"), ("EOT-PGD", "pgd:samples=10"), ("PGD", "pgd"), ("Fgsm", "fgsm"), ("pdg", "pgd"),
     ("standart", "standard"), ("pgd(steps=5)", "pgd:steps=5"), ("PGD-20", "pgd:steps=20"),
     ("fgsm+cw", "apgd:loss=margin"), ("pgd,fgsm", "attacks are joined by +"),
     ("pgd:steps=2;samples=3", "settings are joined by commas"), ("pgd:step=2", "did you mean steps?"),
     ("pgd:backward=Mask", "did you mean mask?")],
)  # fmt: skip
def test_names_of_attacks_from_elsewhere(text, advice):
    with pytest.raises(ValueError, match=re.escape(advice) + "$"):
        parse_attackers(text)


@pytest.mark.parametrize(
    ("text", "advice"),
    [("SAP:100", "sap:100"), ("sap(100)", "sap:100"), ("SAP-100", "sap:100"), ("droput:0.1", "dropout:0.1"),
     ("gaussiannoise:0.1", "gaussian-noise:0.1")],
)  # fmt: skip
def test_misspelt_defences(text, advice):
    with pytest.raises(ValueError, match=f"; write {re.escape(advice)}$"):
        saplab.Defense.registry.parse(text)


def test_a_backward_rule_by_its_name_in_papers():
    with pytest.raises(ValueError, match=r"what papers call bpda is identity$"):
        saplab.MonteCarlo(backward="BPDA")


def test_what_is_advised_can_be_written():
    assert all(parse_attackers(advised) for advised in ELSEWHERE.values())


def test_a_misspelt_public_name():
    with pytest.raises(AttributeError, match=r"did you mean saplab\.evaluate\?"):
        saplab.evalute  # noqa: B018
    with pytest.raises(AttributeError, match=r"did you mean saplab\.PGD\?"):
        saplab.Pgd  # noqa: B018


def test_a_verdict_from_plain_arrays():
    right = {name: np.arange(200) < left for name, left in (("pgd", 120), ("pgd:backward=identity", 10))}
    found = saplab.verdict({name: {0.0: np.ones(200), 8 / 255: own} for name, own in right.items()})
    assert found.masked
    assert [bound.attack for bound in found.robust if bound.eps] == ["pgd:backward=identity"]
    assert found.headline.accuracy.estimate == 0.05
    transfer = {name: {8 / 255: own} for name, own in zip(("pgd", "pgd:adversary=dense"), right.values(), strict=True)}
    (check,) = (check for check in saplab.verdict(transfer).checks if check.key == "transfer")
    assert check.outcome == "failed"


def test_a_verdict_from_probabilities_of_passes():
    labels = np.zeros(50, int)
    passes = np.zeros((20, 50, 3))
    passes[:, :, 1] = 1
    passes[:14, :, 0], passes[:14, :, 1] = 1, 0  # right in 14 of 20 passes
    found = saplab.verdict({"pgd": {8 / 255: passes}}, labels=labels)
    assert found.headline.accuracy.estimate == 0.5  # right by the first half of the passes, not by the other
    assert found.persistent[0].tries == 10
    means = saplab.verdict({"pgd": {8 / 255: torch.from_numpy(passes.mean(0))}}, labels=labels)
    assert means.headline.accuracy.estimate == 1.0
    assert not means.persistent


def test_a_game_from_a_dict():
    table = {"sap": {"fgsm": 0.5, "pgd": 0.1}, "dense": {"pgd": 0.15, "fgsm": 0.2}}
    found, same = saplab.game_value(table), saplab.game_value([[0.5, 0.1], [0.2, 0.15]])
    assert (found.defenders, found.adversaries) == (("sap", "dense"), ("fgsm", "pgd"))
    assert (found.value, found.defender.tolist()) == (same.value, same.defender.tolist())
    images = saplab.game_value({"a": {"x": [1, 0, 1], "y": [0, 0, 1]}, "b": {"x": [1, 1, 0], "y": [1, 0, 0]}})
    assert images.value_interval is not None
