"""``saplab certify``: radii within which a network under Gaussian noise is proven not to change its mind."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from saplab.cli import options
from saplab.cli.console import Console

if TYPE_CHECKING:
    from saplab.evaluation.certificates import Certificates


def certify(
    model: options.Model = "preact-resnet20-dense",
    weights: options.Weights = None,
    data: options.Data = "sample",
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    std: Annotated[float, options.option(options.NOISE, "σ of the noise, in the unit of [0, 1] images.")] = 0.25,
    n0: Annotated[int, options.option(options.NOISE, "Passes that choose each image's class.", "--n0")] = 100,
    n: Annotated[
        int, options.option(options.NOISE, "Passes that count it; Cohen et al. take 100,000.", "--n")
    ] = 10_000,
    alpha: Annotated[float, options.option(options.NOISE, "Chance that an image's certificate is wrong.")] = 0.001,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    device: options.Device = "auto",
    out: Annotated[
        Path | None, options.option(options.OUTPUT, "Folder for certificates.csv, certified.csv and the chart.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Certify a network by randomised smoothing (Cohen et al. 2019).

    Under Gaussian noise on its input, in the Euclidean norm; certified accuracy against radius.
    """
    from saplab.data.load import load_data
    from saplab.evaluation.certificates import certify as certified

    console = Console(as_json)
    place = options.ready_place(device, threads)
    network = options.load_network(model, weights, console).to(place.device)
    dataset = options.first_images(load_data(data, options.cut_of(network, image_size), limit), limit)
    images, labels = dataset.images.to(place.device), dataset.labels
    found = certified(network, images, labels, std=std, n0=n0, n=n, alpha=alpha, seed=seed, examples=dataset.indices)
    console.say(repr(found))
    files = _written(found, out) if out else []
    if as_json:
        console.emit_json({"model": model, **_record(found), "files": list(map(str, files))})
    for path in files[-1:]:
        console.say(f"\nChart: {path}")


def _record(found: "Certificates") -> dict[str, Any]:
    settings = {name: getattr(found, name) for name in ("std", "n0", "n", "alpha", "seed", "ceiling")}
    return {**settings, "abstained": found.abstained.estimate, "rows": found.rows, "images": found.records()}


def _written(found: "Certificates", folder: Path) -> list[Path]:
    """Write a row for each image, the curve, and its chart."""
    from saplab.report.charts import to_bytes
    from saplab.report.tables import to_csv
    from saplab.system.files import write_atomically

    contents = {
        "certificates.csv": to_csv(found.records()).encode(), "certified.csv": to_csv(found.rows).encode(),
        "certified.png": to_bytes(found.plot(), "png"), "certified.svg": to_bytes(found.plot(), "svg"),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]
