"""``saplab evaluate``: accuracy against strength of one network under one attack or a battery, and a verdict."""

from dataclasses import replace
from typing import Annotated

from saplab.cli import options
from saplab.cli.console import Console


def evaluate(
    model: options.Model = "preact-resnet20-dense",
    weights: options.Weights = None,
    data: options.Data = "sample",
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    defense: options.Defence = "",
    sites: options.Sites = "",
    attack: options.Attack = None,
    adversary: options.Adversary = "self",
    lambdas: options.Lambda = None,
    eps: options.Eps = "",
    norm: options.NormOption = "linf",
    bounds: options.BoundsOption = "0,1",
    samples: options.Samples = 20,
    backward: options.Backward = "mask",
    average: options.Average = "loss",
    loss: options.Loss = "cross-entropy",
    passes: options.Passes = 20,
    seed: options.Seed = 0,
    seeds: options.Seeds = 1,
    baseline: options.Baseline = True,
    fail_below: options.FailBelow = None,
    precision: options.Precision = "float32",
    attack_precision: options.AttackPrecision = "float32",
    batch_size: options.BatchSize = 250,
    threads: options.Threads = None,
    device: options.Device = "auto",
    engine: options.EngineName = "local",
    workers: options.Workers = None,
    address: options.Address = None,
    out: options.Out = None,
    budget: Annotated[
        bool, options.option(options.OUTPUT, "Show what is planned, and what it costs, first.", "--budget")
    ] = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Attack a network and measure its accuracy.

    On clean images and at each strength, with 95 % intervals, a verdict and a report page.

    Killed and started again, the same command goes on where it stopped and ends with the same numbers.
    """
    from saplab.attacks import MonteCarlo, parse_attackers
    from saplab.cli.computing import command_line, default_folder, show_plan
    from saplab.cli.results import compute_and_report
    from saplab.defenses import defend, parse_defenses
    from saplab.evaluation.evaluate import planned, precision_of_attacks

    defenses = parse_defenses(defense)
    options.check_sites(sites, bool(defenses))
    threat = options.threat_model(norm, bounds)
    strengths = options.radii(lambdas, eps, options.STRENGTHS, threat)
    if fail_below is not None and not 0 <= fail_below <= 100:
        raise ValueError(f"`fail_below` must be within [0, 100] %, got {fail_below:g}")
    console = Console(as_json)
    place = options.ready_place(device, threads, engine, workers, address)
    network = options.load_network(model, weights, console).to(place.device)
    arithmetic = precision_of_attacks(network, attack_precision)  # type: ignore[arg-type]
    gradient = MonteCarlo(samples, backward, average, loss, precision=arithmetic)  # type: ignore[arg-type]
    attacks = "+".join(attack or [options.ATTACK_OF_IMAGES])
    attackers = parse_attackers(attacks, gradient, adversary, threat)  # type: ignore[arg-type]
    dataset = options.load_images(data, network, image_size, limit, console)
    defended = defend(network, *defenses, sites=sites or None) if defenses else network
    with options.naming(data):
        job = planned(
            defended, dataset, attackers, strengths, threat=threat, passes=passes, seed=seed, seeds=seeds,
            baseline=baseline, precision=precision, batch_size=batch_size, command=command_line(), device=place.kind,
            battery=attacks,
        )  # fmt: skip
    job = replace(job, engine=place.engine)
    folder = out or default_folder("evaluate", job.request)
    if budget or dry_run:
        show_plan(job, folder, console, alone=dry_run)
    if not dry_run:
        compute_and_report(job, folder, console, fail_below)
