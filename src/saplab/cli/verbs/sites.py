"""``saplab sites``: where a defence would act in a network, and what it would draw there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saplab.cli.verbs.evaluate import MODEL

if TYPE_CHECKING:
    from torch import nn

    from saplab.defenses.sites import SiteTable

_CIFAR_SIZE = 32


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("sites")(sites)


def sites(
    model: Annotated[str, typer.Argument(help=MODEL)],
    weights: Annotated[Path | None, typer.Option(help="A .safetensors, .pt, .pth or .th file.")] = None,
    defense: Annotated[str, typer.Option(help="sap:100; several joined by +; empty for every site there is.")] = "",
    pattern: Annotated[str, typer.Option("--sites", help="Pattern of the sites, such as 'stage3.*'.")] = "",
    image_size: Annotated[
        int | None, typer.Option(help="Height and width of the image; by default the network's own, or 32.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Give the result as JSON on stdout.")] = False,
) -> None:
    """List a network's sites: name, activation function, shape, activations and draws of a pass."""
    from saplab.cli.console import Console
    from saplab.cli.verbs.evaluate import cut_of, tell_of_random_weights
    from saplab.defenses.specs import parse_defenses
    from saplab.models.zoo import load_model

    defenses = parse_defenses(defense)
    if pattern and not defenses:
        raise ValueError("`sites` selects the sites of a defence; name one, such as --defense sap:100")
    console = Console(as_json)
    network = load_model(model, weights)
    tell_of_random_weights(network, model, weights, console)
    cut = cut_of(network, image_size)
    table = _table(network, defenses, pattern, cut.size if cut else _CIFAR_SIZE)
    if as_json:
        console.emit_json({"model": model, "defense": defense, **_record(table)})
    else:
        console.say(repr(table))
        console.say(_total(table))


def _table(network: "nn.Module", defenses: tuple[Any, ...], pattern: str, size: int) -> "SiteTable":
    import torch

    from saplab.defenses import defend
    from saplab.defenses import sites as sites_of

    defended = defend(network, *defenses, sites=pattern or None) if defenses else network
    try:
        return sites_of(defended, torch.full((1, 3, size, size), 0.5))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"the network cannot take an image of 3×{size}×{size} (`image-size`): {reason}") from None


def _record(table: "SiteTable") -> dict[str, Any]:
    from dataclasses import asdict

    rows = [asdict(site) for site in table]
    return {"sites": rows, "activations": sum(s.activations for s in table), "draws": sum(s.draws for s in table)}


def _total(table: "SiteTable") -> str:
    activations, draws = sum(s.activations for s in table), sum(s.draws for s in table)
    cost = f"; {draws:,} draws a pass and image" if draws else ""
    return f"\n{len(table)} sites, {activations:,} activations an image{cost}"
