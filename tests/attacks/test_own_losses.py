"""Losses of the user's own, and classes that an attack shall reach."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saplab import APGD, FGSM, PGD, Iterative, MonteCarlo, Square
from saplab.attacks import Attack


def own_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the margin, as a user might write it."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - own


def one_number(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.mean()


def test_a_users_loss_attacks_like_the_same_loss_by_name(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    attacks: list[Any] = [PGD(MonteCarlo(loss="margin"), steps=5), APGD(MonteCarlo(loss="margin"), steps=5)]
    for attack in attacks:
        mine = replace(attack, gradient=MonteCarlo(loss=own_margin))
        assert torch.equal(mine(net, images, labels, eps=0.3), attack(net, images, labels, eps=0.3))
        other = replace(attack, gradient=MonteCarlo(loss="dlr"))
        assert not torch.equal(mine(net, images, labels, eps=0.3), other(net, images, labels, eps=0.3))


def test_a_targeted_users_loss_is_minus_that_of_the_target(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    def negative(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    targets = (labels + 1) % 5
    for average in ("loss", "logits"):
        mine, named = (
            FGSM(MonteCarlo(loss=loss, average=average))(net, images, labels, eps=0.2, targets=targets)  # type: ignore[arg-type]
            for loss in (negative, "cross-entropy")
        )
        assert torch.equal(mine, named)


def test_a_loss_of_the_wrong_shape_or_name_is_refused(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"`loss` must return one number for each of 9 examples, got the shape \(\)"):
        FGSM(MonteCarlo(loss=one_number))(net, images, labels, eps=0.1)
    names = "cross-entropy, exact-cross-entropy, margin, dlr"
    with pytest.raises(ValueError, match=f"`loss` must be one of {names}, or a function, got 'nine'"):
        MonteCarlo(loss="nine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mine:nothing cannot be imported"):
        MonteCarlo(loss="mine:nothing")  # type: ignore[arg-type]


def test_a_users_loss_has_a_name_and_its_source_in_keys() -> None:
    registry: Any = Attack.registry
    attack = PGD(MonteCarlo(loss=own_margin), steps=3)
    key = registry.encode(attack)
    assert key["loss"] == f"{__name__}:own_margin"
    assert len(key["loss source"]) == 16
    assert registry.decode(key) == attack
    assert "loss source" not in registry.encode(PGD())
    assert registry.parse(attack.spec) == attack
    assert registry.parse(f"pgd:loss={__name__}:own_margin,steps=3") == attack
    assert attack.describe(False) == "PGD-3 own_margin"
    changed = {**key, "loss source": "0" * 16}
    with pytest.raises(ValueError, match="the source of the loss of `attack` pgd has changed since this was stored"):
        registry.decode(changed)
    for nameless in (lambda z, y: own_margin(z, y), partial(own_margin)):
        with pytest.raises(ValueError, match="must be defined at the top of a module to be named in results, got"):
            registry.encode(PGD(MonteCarlo(loss=nameless)))


def test_chosen_classes_are_reached(net: nn.Module, images: Tensor) -> None:
    """A targeted attack goes on past the first wrong class, to the one that is wanted."""
    labels = net(images).argmax(1)
    targets = net(images).argmin(1)
    attacks: list[Attack] = [
        Iterative(8.0),
        PGD(steps=30),
        PGD(steps=20, restarts=2),
        APGD(MonteCarlo(loss="dlr"), steps=30),
        Square(300),
    ]
    for attack in attacks:
        reached = net(attack(net, images, labels, eps=1.0, targets=targets)).argmax(1) == targets
        untargeted = net(attack(net, images, labels, eps=1.0)).argmax(1) == targets
        assert reached.sum() > untargeted.sum(), attack
    assert (net(PGD(steps=30)(net, images, labels, eps=1.0, targets=targets)).argmax(1) == targets).all()


def test_the_least_likely_class_is_one_of_the_attacks_own(net: nn.Module, images: Tensor) -> None:
    labels, targets = net(images).argmax(1), net(images).argmin(1)
    least = PGD(steps=10, targets=-1, stop_when_lost=False)
    chosen = PGD(steps=10, stop_when_lost=False)
    assert torch.equal(least(net, images, labels, eps=0.5), chosen(net, images, labels, eps=0.5, targets=targets))
    with pytest.raises(ValueError, match="`targets` must be given to the attack or to its call"):
        least(net, images, labels, eps=0.5, targets=targets)
    with pytest.raises(ValueError, match="`targets` must be 9 classes, none of them its example's label"):
        chosen(net, images, labels, eps=0.5, targets=labels)
    with pytest.raises(ValueError, match="`targets` must be below the number of classes, 5, got -5"):
        replace(least, targets=-5)(net, images, labels, eps=0.5)
