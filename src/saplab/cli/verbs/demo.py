"""``saplab demo``: the main job on the packaged network and images, in a minute or two."""

from pathlib import Path
from typing import Annotated, Final

from saplab.cli import options
from saplab.cli.console import Console
from saplab.cli.options import option

_BATCH: Final = 100  # images that are computed, and saved, together
_MORE: Final = (
    "To run what a check is missing, add the options listed under it to this command (--dry-run tells how long it"
    " takes): {} evaluate --defense sap:100 --limit {} --samples 10 --passes 10 --attack fgsm+fgsm:backward=identity"
)


def demo(
    out: Annotated[Path, option(options.OUTPUT, "Run folder, with the report.")] = Path("saplab-demo"),
    images: Annotated[int, option(options.DATA, "How many of the package's 1,000 images.")] = 200,
    as_json: options.Json = False,
) -> None:
    """Show what SAP does for a network under attack.

    A table, a verdict and a report page for the packaged CIFAR-10 network and images.

    Three curves: the network without defence, with SAP-100 under the paper's adversary, and the same SAP-100 under an
    adversary that takes its gradient as if nothing had been pruned (identity backward).
    """
    from saplab.attacks import FGSM, MonteCarlo, radii_of
    from saplab.cli.computing import command_line, program
    from saplab.cli.results import compute_and_report
    from saplab.data.load import load_data
    from saplab.defenses import SAP, defend
    from saplab.evaluation.evaluate import Job
    from saplab.evaluation.paper_numbers import NETWORK
    from saplab.evaluation.plan import curve, label_of
    from saplab.models.zoo import load_model
    from saplab.runs import Curve, ImageCell, Network, Request
    from saplab.runs.images import Images
    from saplab.runs.networks import rehearsed

    data = load_data("sample")
    if not 1 <= images <= len(data):
        raise ValueError(f"`images` must be within 1..{len(data)}, got {images}")
    sap, model, *_ = rehearsed(defend(load_model(NETWORK), SAP(100)), data.images[:_BATCH])

    def line(network: Network, gradient: MonteCarlo, passes: int, claim: str) -> Curve:
        cell = ImageCell(
            defender=network, adversary=network, attack=FGSM(gradient), eps=radii_of((0, 1, 2, 4, 8, 16)), start=0,
            stop=images, passes=passes, data=data.digest(),
        )  # fmt: skip
        return curve(label_of(cell, cell.eps), cell, _BATCH, claim=claim)

    curves = (
        line(sap.undefended, MonteCarlo(), 1, "The network as trained, attacked through its own gradient."),
        line(sap, MonteCarlo(10), 10,
             "SAP-100 and the paper's adversary, who averages 10 passes and takes the pruning's scale as a constant."),
        line(sap, MonteCarlo(10, "identity"), 10,
             "The same SAP-100; the adversary's gradient passes the pruning as if it were not there (BPDA)."),
    )  # fmt: skip
    more = _MORE.format(program(), images)
    title = "What SAP does for a CIFAR-10 network under attack"
    request = Request(title, curves, command_line(), data.classes, (more,))
    inputs = Images({(sap.model, sap.digest): model}, data)
    console = Console(as_json)
    compute_and_report(Job(request, inputs), out, console)
    console.say(more)
