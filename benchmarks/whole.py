"""A whole evaluation of SAP-100: `standard` beside other libraries' attacks for random networks, in one run.

    python benchmarks/whole.py [--images 200] [--lam 8] [--passes 100] [--battery-passes 20] [--backward mask]
        [--only standard rand] [--threads 1] [--json PATH]

torchattacks' EOTPGD and pyautoattack's `rand` run at their defaults, as their users would call them, on the network
that saplab defends, with its kernels; `backward` is the rule by which their gradients pass SAP. `standard` chooses its
own, judges by 20 fresh passes, its default, and runs again with its attacks in bfloat16, for processors that have it.
What the others leave is judged by 100 fresh passes of the averaged prediction; beside it stands what `rand` says
itself, which judges by single passes. Needs the extra `peers`.
"""

import argparse
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from contenders import MODULES, RAND
from suite.gradients import BATCH, EOTPGD, installed
from suite.machine import machine, print_machine, save
from suite.timing import Times, time_once
from torch import Tensor, nn
from undefended import left

import saplab
from saplab.defenses.stochastic import trust
from saplab.metrics import Interval, correct, mean_interval, paired_difference
from saplab.pruning.operator import RULES
from saplab.system.precision import Precision

STANDARD, FASTER = "saplab standard", "saplab standard, attacks in bfloat16"
COLUMNS = (
    "evaluation",
    "accuracy left, %",
    "in its own words, %",
    "processor s",
    "of rand's",
    "standard leaves less by",
)

Right = np.ndarray[Any, np.dtype[np.float64]]


def by_standard(
    precision: Precision, args: argparse.Namespace, net: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Right, float]:
    """Return which images no attack of the battery breaks, by the bound's own fresh passes, and the bound."""
    asked = {"eps": args.lam / 255, "passes": args.battery_passes, "baseline": False, "progress": False}
    found = saplab.evaluate(net, images, labels, "standard", attack_precision=precision, **asked)
    bound = found.verdict.robust[-1]
    return left(found)[bound.strength], bound.accuracy.estimate


def by_eotpgd(args: argparse.Namespace, net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Right, float]:
    """Run EOTPGD with its own steps and samples."""
    import torchattacks

    torch.manual_seed(0)
    points = torchattacks.EOTPGD(net, eps=args.lam / 255)(images, labels)
    return judged(args, net, points, labels), float("nan")


def by_rand(args: argparse.Namespace, net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Right, float]:
    """Run AutoAttack's version for random networks: APGD on cross-entropy and DLR, 100 steps of 20 passes each."""
    from pyautoattack import AutoAttack
    from pyautoattack.state import EvaluationState

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    attack = AutoAttack(net, norm="Linf", eps=args.lam / 255, version="rand", seed=0)
    with TemporaryDirectory() as folder:
        state = Path(folder) / "state.json"
        points = attack.run_standard_evaluation(images, labels, batch_size=BATCH, state_path=state)[0]
        flags = EvaluationState.from_disk(state).robust_flags  # those that it has not broken, of those right at first
    own = float("nan") if flags is None else float(flags.double().mean())
    return judged(args, net, points, labels), own


def judged(args: argparse.Namespace, net: nn.Module, points: Tensor, labels: Tensor) -> Right:
    """Return whether the averaged prediction of fresh passes is right at each point."""
    probs = saplab.predict(net, points, passes=args.passes, seed=1000)
    right: Right = correct(probs.numpy(), labels.numpy()).astype(np.float64)
    return right


EVALUATIONS: dict[str, Callable[..., tuple[Right, float]]] = {
    STANDARD: partial(by_standard, "float32"),
    FASTER: partial(by_standard, "bfloat16"),
    EOTPGD: by_eotpgd,
    RAND: by_rand,
}


def main() -> None:
    """Run the three, one after the other, and print the table."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    info = machine(args.threads)
    print_machine(info)
    evaluations, left_out = installed(EVALUATIONS, MODULES)
    for line in left_out:
        print(f"left out: {line}")
    evaluations = {name: one for name, one in evaluations.items() if any(_asked(part, name) for part in args.only)}
    dense = saplab.load_model("preact-resnet20-dense")
    net = trust(saplab.defend(dense, saplab.SAP(100), backward=args.backward))
    x, y = (t[: args.images] for t in saplab.load_cifar10("sample"))
    times = {name: Times() for name in evaluations}
    found = {name: time_once(partial(run, args, net, x, y), times[name]) for name, run in evaluations.items()}
    print(
        f"{len(x)} images, λ = {args.lam:g}, judged by {args.battery_passes} (standard) and {args.passes} fresh passes"
    )
    print(f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * (len(COLUMNS) - 1)}")
    seconds = {name: one.processor() for name, one in times.items()}
    for name, (right, own) in found.items():
        ours = found.get(STANDARD) or found.get(FASTER)
        print(_row(name, right, own, seconds, ours and ours[0]), flush=True)
    rows = {
        name: {"right": right.tolist(), "own": own, "seconds": seconds[name]} for name, (right, own) in found.items()
    }
    save(args.json, {"machine": info, "arguments": {k: str(v) for k, v in vars(args).items()}, "found": rows})


def _asked(part: str, name: str) -> bool:
    """Return whether a part of a name asks for an evaluation; a whole name asks for no longer one."""
    return part in name and (part not in EVALUATIONS or part == name)


def _row(name: str, right: Right, own: float, seconds: dict[str, float], ours: Right | None) -> str:
    left_text = _text(mean_interval(right, 1))
    gap_text = "–" if ours is None or ours is right else _text(paired_difference(right, ours))
    share = f"{seconds[name] / seconds[RAND]:.2f}" if RAND in seconds else "–"
    cells = (name, left_text, "–" if np.isnan(own) else f"{100 * own:.1f}", f"{seconds[name]:.0f}", share)
    return f"| {' | '.join((*cells, gap_text))} |"


def _text(share: Interval) -> str:
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in (share.estimate, share.low, share.high)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--lam", type=float, default=8.0)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--battery-passes", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=[""], help="parts of evaluations' names")
    parser.add_argument("--backward", choices=RULES, default="mask")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
