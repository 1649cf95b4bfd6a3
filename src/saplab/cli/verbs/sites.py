"""``saplab sites``: where a defence would act in a network, and what it would draw there."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from saplab.cli import options
from saplab.cli.console import Console
from saplab.system.words import counted

if TYPE_CHECKING:
    from torch import nn

    from saplab.defenses import Defense
    from saplab.defenses.sites import SiteTable

_CIFAR_SIZE = 32
_CHANNELS = (3, 1)
_ROWS = 4  # of a rehearsal


def sites(
    model: Annotated[str, typer.Argument(help=options.MODEL)],
    weights: options.Weights = None,
    defense: options.Defence = "",
    pattern: options.Sites = "",
    image_size: options.ImageSize = None,
    as_json: options.Json = False,
) -> None:
    """List where a defence would act in a network.

    For each site: name, activation function, shape, activations and draws of a pass. Without a defence, every site.
    Also tells whether the network is random by itself.
    """
    from saplab.defenses import parse_defenses

    defenses = parse_defenses(defense)
    if pattern and not defenses:
        raise ValueError("`sites` selects the sites of a defence; name one, such as --defense sap:100")
    console = Console(as_json)
    network = options.load_network(model, weights, console)
    cut = options.cut_of(network, image_size)
    table, notes = _found(network, defenses, pattern, cut.size if cut else _CIFAR_SIZE)
    activations, draws = sum(site.activations for site in table), sum(site.draws for site in table)
    if as_json:
        rows = [asdict(site) for site in table]
        found = {"sites": rows, "activations": activations, "draws": draws, "notes": notes}
        console.emit_json({"model": model, "defense": defense, **found})
    else:
        cost = f"; {draws:,} draws a pass and image" if draws else ""
        console.say(f"{table!r}\n\n{counted(len(table), 'site')}, {activations:,} activations an image{cost}")
        for note in notes:
            console.say(note)


def _found(
    network: "nn.Module", defenses: "tuple[Defense, ...]", pattern: str, size: int
) -> "tuple[SiteTable, tuple[str, ...]]":
    """Return the sites, on pictures of three channels or else of one, and what a rehearsal tells of the network."""
    import torch

    from saplab.defenses import defend
    from saplab.defenses import sites as sites_of

    defended = defend(network, *defenses, sites=pattern or None) if defenses else network
    reasons = []
    for channels in _CHANNELS:
        try:
            return sites_of(defended, torch.full((1, channels, size, size), 0.5)), _notes(network, channels, size)
        except (RuntimeError, AssertionError) as error:
            reasons.append(str(error).strip().split("\n")[0])
    raise ValueError(
        f"the network cannot take an image of 3×{size}×{size} (three channels or one, `image-size`): {reasons[0]}"
    )


def _notes(network: "nn.Module", channels: int, size: int) -> tuple[str, ...]:
    """Return what a rehearsal tells of a network itself: whether it draws and how, or why it cannot be evaluated."""
    import torch

    from saplab.defenses.stochastic import learn

    images = torch.rand((_ROWS, channels, size, size), generator=torch.Generator().manual_seed(0))
    try:
        return learn(network, images)[1].notes
    except ValueError as error:
        return (f"It cannot be evaluated: {error}.",)
