"""``saplab demo``: the main job on the packaged network and images, in a minute or two."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Run folder, with the report.")] = Path("saplab-demo"),
    images: Annotated[int, typer.Option(help="How many of the package's 1,000 images.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Give the result as JSON on stdout.")] = False,
) -> None:
    """Show what SAP does for a network under attack.

    A table, a sentence and a report page for the packaged CIFAR-10 network and images.

    Three curves: the network without defence, with SAP-100 under the paper's adversary, and the same SAP-100 under an
    adversary that takes its gradient as if nothing had been pruned (identity backward).
    """
    from saplab.attacks import FGSM, MonteCarlo
    from saplab.attacks.batteries import settings_of
    from saplab.cli.console import Console
    from saplab.cli.running import Job, compute_and_report
    from saplab.data.load import load_data
    from saplab.evaluation.plan import curve
    from saplab.models.zoo import load_model, weights_digest
    from saplab.paper.numbers import NETWORK
    from saplab.runs.cell import Cell, Network

    data = load_data("sample")
    if not 1 <= images <= len(data):
        raise ValueError(f"`images` must be within 1..{len(data)}, got {images}")
    model = load_model(NETWORK)
    dense = Network(NETWORK, weights_digest(model))
    sap = Network(NETWORK, dense.digest, "sap:100")

    def cell(network: Network, gradient: MonteCarlo, passes: int) -> Cell:
        attack, strengths = settings_of(FGSM(gradient)), (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
        return Cell(network, network, attack, strengths, data.digest(), 0, images, passes, seed=0)

    curves = (
        curve("dense", cell(dense, MonteCarlo(), 1), 100, "The network as trained, attacked through its own gradient."),
        curve("SAP-100, the paper's adversary", cell(sap, MonteCarlo(10), 10), 100,
              "SAP-100; the adversary averages 10 passes and takes the pruning's scale as a constant."),
        curve("SAP-100, identity backward", cell(sap, MonteCarlo(10, "identity"), 10), 100,
              "The same SAP-100; the adversary's gradient passes the pruning as if it were not there (BPDA)."),
    )  # fmt: skip
    title = "What SAP does for a CIFAR-10 network under attack"
    compute_and_report(Job(title, curves, {(NETWORK, dense.digest): model}, data, out, "demo"), Console(as_json))
