"""``saplab sites``: where a defence would act in a network, and what it would draw there."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from saplab.cli import options
from saplab.cli.console import Console

if TYPE_CHECKING:
    from torch import nn

    from saplab.defenses import Defense
    from saplab.defenses.sites import SiteTable

_CIFAR_SIZE = 32


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
    """
    from saplab.defenses import parse_defenses

    defenses = parse_defenses(defense)
    if pattern and not defenses:
        raise ValueError("`sites` selects the sites of a defence; name one, such as --defense sap:100")
    console = Console(as_json)
    network = options.load_network(model, weights, console)
    cut = options.cut_of(network, image_size)
    table = _table(network, defenses, pattern, cut.size if cut else _CIFAR_SIZE)
    activations, draws = sum(site.activations for site in table), sum(site.draws for site in table)
    if as_json:
        found = {"sites": [asdict(site) for site in table], "activations": activations, "draws": draws}
        console.emit_json({"model": model, "defense": defense, **found})
    else:
        cost = f"; {draws:,} draws a pass and image" if draws else ""
        console.say(f"{table!r}\n\n{len(table)} sites, {activations:,} activations an image{cost}")


def _table(network: "nn.Module", defenses: "tuple[Defense, ...]", pattern: str, size: int) -> "SiteTable":
    import torch

    from saplab.defenses import defend
    from saplab.defenses import sites as sites_of

    defended = defend(network, *defenses, sites=pattern or None) if defenses else network
    try:
        return sites_of(defended, torch.full((1, 3, size, size), 0.5))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"the network cannot take an image of 3×{size}×{size} (three channels, `image-size`): {reason}"
        ) from None
