"""``saplab certify``: radii within which a network under Gaussian noise is proven not to change its mind."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from saplab.cli import options
from saplab.cli.console import Console

if TYPE_CHECKING:
    from saplab.evaluation.certificates import Certificates

_SAMPLES, _PASSES = 20, 100


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
    attack: Annotated[
        str, options.option(options.ATTACK, "Attacks in L2, as of `saplab evaluate`, to draw what they leave beside.")
    ] = "",
    eps: Annotated[
        str, options.option(options.ATTACK, "Their radii, such as 0.1,0.25; by default those of the table.", "--eps")
    ] = "",
    samples: options.Samples = _SAMPLES,
    passes: Annotated[int, options.option(options.JUDGING, "Passes that vote on an attacked image.")] = _PASSES,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    device: options.Device = "auto",
    out: Annotated[
        Path | None, options.option(options.OUTPUT, "Folder for certificates.csv, certified.csv and the chart.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Prove radii by randomised smoothing.

    That is, of a network under Gaussian noise on its input (Cohen et al. 2019), in the Euclidean norm; certified
    accuracy against radius, and with --attack what attacks leave of the same vote, between which the truth lies.
    """
    from saplab.attacks import MonteCarlo, ThreatModel, parse_attackers
    from saplab.defenses import GaussianNoise, defend
    from saplab.evaluation.certificates import certify as certified
    from saplab.evaluation.evaluate import planned
    from saplab.system.counts import check_count
    from saplab.system.folder import write_files
    from saplab.system.progress import shown

    threat = ThreatModel("l2")
    if not attack and (eps or samples != _SAMPLES or passes != _PASSES):
        raise ValueError("`eps`, `samples` and `passes` are those of an attack: give `attack` too")
    check_count("passes", passes)
    attackers = parse_attackers(attack, MonteCarlo(samples), threat=threat) if attack else ()
    strengths = options.radii(None, eps, "", threat) if eps else ()
    if out is not None:
        write_files(out, {})  # refused before anything is computed
    console = Console(as_json)
    place = options.ready_place(device, threads)
    network = options.load_network(model, weights, console).to(place.device)
    dataset = options.load_images(data, network, image_size, limit, console)
    images, labels = dataset.images.to(place.device), dataset.labels
    with options.naming(data):
        found = certified(
            network, images, labels, std=std, n0=n0, n=n, alpha=alpha, seed=seed, examples=dataset.indices
        )
    console.say(repr(found))
    left: list[dict[str, float]] = []
    files = _written(found, left, out) if out else []
    if attack:
        strengths = strengths or tuple(step for step in found.steps if step > 0)
        noisy = defend(network, GaussianNoise(std))
        job = planned(noisy, dataset, attackers, strengths, threat=threat, passes=passes, seed=seed, baseline=False)
        left = found.left(job.result(None, shown))
        console.say("\n".join(_told(record) for record in left))
        files = _written(found, left, out) if out else []
    if as_json:
        console.emit_json({"model": model, **_record(found), "left": left, "files": list(map(str, files))})
    for path in files[-1:]:
        console.say(f"\nChart: {path}")


def _told(record: dict[str, float]) -> str:
    interval = f"[{record['low']:.1f}, {record['high']:.1f}]"
    return f"radius {record['radius']:6.3f}: under attack at most {record['percent']:.1f} % {interval}"


def _record(found: "Certificates") -> dict[str, Any]:
    settings = {name: getattr(found, name) for name in ("std", "n0", "n", "alpha", "seed", "ceiling")}
    return {**settings, "abstained": found.abstained.estimate, "rows": found.rows, "images": found.records()}


def _written(found: "Certificates", left: list[dict[str, float]], folder: Path) -> list[Path]:
    """Write a row for each image, both curves, and their chart."""
    from saplab.report.charts import to_bytes
    from saplab.report.tables import to_csv
    from saplab.system.folder import write_files

    contents = {
        "certificates.csv": to_csv(found.records()).encode(), "certified.csv": to_csv(found.rows).encode(),
        **({"attacked.csv": to_csv(left).encode()} if left else {}),
        "certified.png": to_bytes(found.plot(left), "png"), "certified.svg": to_bytes(found.plot(left), "svg"),
    }  # fmt: skip
    return list(write_files(folder, contents))
