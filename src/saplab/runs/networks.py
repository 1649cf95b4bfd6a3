"""Networks as cells name them: from a model to its name and facts, and from these to what runs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from saplab.attacks import Traits
from saplab.defenses import Mixture, defend, undefended
from saplab.defenses.defended import defenses_of, plan_of
from saplab.defenses.drawing import GradientRule, drawing
from saplab.defenses.dressing import dresses, stripped, undressed_class
from saplab.defenses.gradient import Reach, own_loss, reach
from saplab.defenses.prediction import for_network
from saplab.defenses.rehearsal import observe, unseen
from saplab.defenses.slopes import Slope, slopes
from saplab.defenses.stochastic import PLACED, checked, frozen, learn, trust
from saplab.models.identity import SPEC, network_digest
from saplab.rng.streams import pass_streams, stream_key
from saplab.runs.cell import Network

Models = Mapping[tuple[str, str], nn.Module]  # networks without defences, as they run, by (model, digest)

_FEW: Final = 3  # images whose gradient is followed
_PLACED: Final = (
    "What the defended network returns for an image depends on the batch's size or on the image's place in it: other"
    " batch sizes give other numbers. Let the defence's numbers come from `draw` in shapes that begin with the batch,"
    " such as draw.normal(x.shape), and look at one image at a time."
)


class Rehearsed(NamedTuple):
    """What a rehearsal found.

    Attributes:
        network: as cells name it.
        plain: the network without its defences, as saplab runs it.
        notes: what people should know of it.
        slopes: how much of what its gradient promises comes true, by its own rule and, if misled, by others; empty
            where no gradient reaches the image.
    """

    network: Network
    plain: nn.Module
    notes: tuple[str, ...]
    slopes: Mapping[GradientRule, Slope]


def rehearsed(model: nn.Module, images: Tensor) -> Rehearsed:
    """Find out what a network is, on real images.

    Args:
        model: defended or not.
        images: a batch of real ones (N, ...), as large as those to come, on which it is found out what the network is.

    Raises:
        ValueError: a part of it is defended instead of the whole, a defence draws from a generator of its own, an
            example's output depends on the rest of its batch, or images have another shape than the network's.
    """
    placed: tuple[str, ...] = ()
    plain, acting, images = undefended(model), plan_of(model), for_network(model, images)
    if len(defenses_of(model)) > (len(acting.defenses) if acting else 0):
        raise ValueError("`model` holds a defended network inside it; defend the whole network")
    if any(part is not plain for part in dresses(plain)):
        raise ValueError("`model` holds a saplab.Stochastic inside it; its cells would not know that it is random:"
                         " leave the parts as they are, or wrap the whole network")  # fmt: skip
    runs, observed = learn(plain, images)
    kind, own = undressed_class(plain), observed.randomness
    name = getattr(plain, SPEC, f"{kind.__module__}:{kind.__qualname__}")
    outputs = "probabilities" if observed.probabilities else "logits"
    found = Network(
        name, network_digest(stripped(plain), observed.written), grain=own.grain if own else "", outputs=outputs
    )
    if acting:
        if own and own.single:
            raise ValueError(PLACED)
        found = replace(found, defenses=acting.defenses, sites=acting.sites or (), parameters=acting.parameters)
        whole = checked(observe(network_of(found, {(found.model, found.digest): runs}), images))
        if whole.randomness is not None and whole.randomness.drawn:
            raise ValueError("a defence draws from NumPy's or Python's generator, or one of its own; its numbers must"
                             " come from `draw`, such as draw.normal(x.shape)")  # fmt: skip
        placed = (_PLACED,) if whole.randomness is not None and whole.randomness.single else ()
    hidden = unseen(plain, images) if acting and acting.acting["activation"] and not acting.sites else ()
    followed = _followed(runs, images)
    rising = {} if followed else _slopes(found, runs, images)
    notes = (*observed.notes, *placed, *hidden, *followed, *_sloping(rising))
    return Rehearsed(found, runs, notes, rising)


def _followed(model: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Return what should be said where no gradient of an undefended network reaches the images."""
    few = images[:_FEW]
    with drawing(pass_streams(stream_key(0), 0, torch.arange(len(few)))):
        found = reach(model, few)
    if found.state == "whole":
        return ()
    how = "is zero" if found.state == "flat" else "does not get there"
    where = f": it ends in {found.module}" if found.module else ""
    return (f"The gradient by the image {how}{where}. Gradient attacks are blind there: use backward=relaxed, or wrap"
            " that part in saplab.bpda.",)  # fmt: skip


def _slopes(network: Network, plain: nn.Module, images: Tensor) -> Mapping[GradientRule, Slope]:
    if network.grain == "unkeyed" or not images.is_floating_point():
        return {}
    rules: tuple[GradientRule, ...] = ("mask", "identity", "relaxed") if network.has_rules else ("mask", "relaxed")
    model = network_of(network, {(network.model, network.digest): plain})
    return slopes(model, for_network(plain, images), rules)


def _sloping(found: Mapping[GradientRule, Slope]) -> tuple[str, ...]:
    """Return what should be said where a network's own gradient is not the slope of what it computes."""
    if not found or not found["mask"].misled:
        return ()
    own, best = found["mask"], max(found, key=lambda rule: found[rule].share)
    said = (
        "The network's own gradient is zero" if own.flat
        else "A step along the network's own gradient raises its outputs by only"
        f" {100 * max(own.share, 0.0):.0f} % of what the gradient predicts"
    )  # fmt: skip
    if found[best].misled:
        return (f"{said}, and no backward rule does better: attacks along a gradient are misled. Run a black box"
                " (square), and look for an autograd.Function or a surrogate whose backward pass is not the slope of"
                " its forward pass.",)  # fmt: skip
    if own.flat:
        return (f"{said}, though with backward={best} outputs rise as they should: give the defence a surrogate, or"
                " attack by that rule.",)  # fmt: skip
    return (f"{said}; with backward={best} it is {100 * found[best].share:.0f} %: the own gradient is mostly noise, and"
            " attacks along it make the network look stronger than it is.",)  # fmt: skip


def traits_of(found: Rehearsed, images: Tensor) -> Traits:
    """Return what batteries need to know of a network, found out on the first images.

    The plain and the relaxed gradient are taken with the same draws; plain is straight through defences that have
    rules, as ``relaxed`` is.
    """
    network, plain = found.network, found.plain
    rising = found.slopes or _slopes(network, plain, images)
    model, few = network_of(network, {(network.model, network.digest): plain}), for_network(plain, images[:_FEW])
    streams = pass_streams(stream_key(0), 0, torch.arange(len(few)))

    def reached(rule: GradientRule) -> Reach:
        with drawing(streams, rule):
            return reach(model, few, own_loss)

    straight, smooth = reached("identity" if network.has_rules else "mask"), reached("relaxed")
    misled = bool(rising) and all(slope.misled for slope in rising.values())
    return Traits(
        random=network.random, saturated=not torch.equal(straight.gradient, smooth.gradient),
        blind=(straight.state != "whole" and smooth.state != "whole") or misled,
        mixture=not network.defenses and _is_known_exactly(plain, few), classes=straight.output.shape[1],
    )  # fmt: skip


def _is_known_exactly(plain: nn.Module, images: Tensor) -> bool:
    """Return whether a network is a mixture of networks none of which draws by itself."""
    if not isinstance(plain, Mixture):
        return False
    try:
        plain.expected(images)
    except ValueError:
        return False
    return True


def network_of(network: Network, models: Models) -> nn.Module:
    """Return a network as a cell says: defended, its own draws keyed or frozen."""
    plain = models[network.model, network.digest]
    plain = frozen(plain) if network.grain == "frozen" else plain
    if network.defenses:
        plain = defend(plain, *network.defenses, sites=network.sites or None, parameters=network.parameters or None)
    return trust(plain)
