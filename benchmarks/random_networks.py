"""Networks that are random by themselves: saplab's clean accuracy, attack and cost against the same by hand.

    python benchmarks/random_networks.py [--images 200] [--lam 1] [--passes 20] [--jobs 1] [--seed 0]
                                         [--seeds 1] [--only accuracy|cost] [NETWORK ...]

Eleven networks in plain PyTorch around preact-resnet20-dense, none of which saplab knows. By hand means a loop over
passes of the bare network under PyTorch's, NumPy's and Python's own generators. The first table holds accuracies, and
whether other batch sizes give the same bits; the second the time of a pass with keyed draws against one without.

Where a draw serves a whole pass, all images share the luck of an attack's draws, which can be several points: --seeds 5
attacks with five seeds, by saplab and by hand, and shows means and ranges.

Each network runs on one thread; with --jobs, several networks are evaluated side by side, but timed one after the
other.
"""

import argparse
import copy
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saplab
from saplab.attacks import eps_of
from saplab.runs.results import join

BASE: Final = "preact-resnet20-dense"
BY_HAND, SAMPLES, STEPS = 100, 5, 20
TIMED, REPEATS = 128, 7  # images of a pass, and passes of each kind, whose time is taken

HEAD: Final = (
    "network", "draws of", "clean, saplab", "clean, by hand", "PGD leaves, saplab", "PGD leaves, by hand",
    "battery of nothing: bound / averaged", "other batch size: same bits",
)  # fmt: skip
COST_HEAD: Final = ("network", "bare, ms", "keyed, ms", "ratio")


def base() -> nn.Module:
    """Return the packaged network, to be changed at will."""
    return copy.deepcopy(saplab.load_model(BASE))


class Straight(torch.autograd.Function):
    """Rounding whose backward pass is the identity: BPDA by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
        """Round."""
        return rounding(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient as it comes."""
        return gradients[0], None


def rounded_straight(x: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Round, straight through on the way back."""
    return Straight.apply(x, rounding)  # type: ignore[no-untyped-call, no-any-return]


class InputNoise(nn.Module):
    """Gaussian noise on the input (Cohen et al. 2019)."""

    def __init__(self, net: nn.Module, sigma: float = 0.03) -> None:
        super().__init__()
        self.net, self.sigma = net, sigma

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of noisy images."""
        return self.net(x + self.sigma * torch.randn_like(x))  # type: ignore[no-any-return]


class NumPyNoise(InputNoise):
    """The same noise from NumPy's global generator."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of noisy images."""
        noise = np.random.standard_normal(tuple(x.shape)).astype(np.float32)  # noqa: NPY002 - as users write it
        return self.net(x + self.sigma * torch.from_numpy(noise))  # type: ignore[no-any-return]


class ResizePad(nn.Module):
    """Random resize and pad (Xie et al. 2018), one size and place for the whole batch."""

    def __init__(self, net: nn.Module, size: int = 40) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images that are resized and padded."""
        side = random.randint(x.shape[-1], self.size - 1)
        left, top = (random.randint(0, self.size - side) for _ in range(2))
        right, bottom = self.size - side - left, self.size - side - top
        return self.net(F.pad(F.interpolate(x, size=(side, side)), (left, right, top, bottom)))  # type: ignore[no-any-return]


class Dropped(nn.Module):
    """A ReLU, and dropout as a function."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Rectify and drop."""
        return F.dropout(x.relu(), self.p, training=True)


class Pick(nn.Module):
    """One of several networks a pass."""

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the network that is drawn."""
        return self.nets[random.randrange(len(self.nets))](x)  # type: ignore[no-any-return]


class RoundedDCT(nn.Module):
    """Coefficients of 8x8 blocks, rounded to multiples of a random step: what JPEG does, in grey."""

    basis: Tensor

    def __init__(self, net: nn.Module, straight: bool = False) -> None:
        super().__init__()
        self.net, self.straight = net, straight
        k = torch.arange(8.0)
        basis = torch.cos((2 * k + 1) * k[:, None] * torch.pi / 16) / 2
        basis[0] /= 2**0.5
        self.register_buffer("basis", basis)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images whose coefficients are rounded."""
        step = 0.01 + 0.06 * torch.rand(len(x), 1, 1, 1, 1, 1)
        blocks = self.basis @ x.unfold(2, 8, 8).unfold(3, 8, 8) @ self.basis.T
        scaled = blocks / step
        kept = (rounded_straight(scaled, torch.round) if self.straight else scaled.round()) * step
        pixels = (self.basis.T @ kept @ self.basis).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
        return self.net(pixels.clamp(0, 1))  # type: ignore[no-any-return]


class Dithered(nn.Module):
    """Pixels rounded up or down at random, so that their mean stays."""

    def __init__(self, net: nn.Module, levels: int = 16, straight: bool = False) -> None:
        super().__init__()
        self.net, self.levels, self.straight = net, levels, straight

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images of few levels."""
        raised = x * self.levels + torch.rand_like(x)
        kept = rounded_straight(raised, torch.floor) if self.straight else raised.floor()
        return self.net((kept / self.levels).clamp(0, 1))  # type: ignore[no-any-return]


class NoisyConv(nn.Module):
    """A convolution, and noise in proportion to what it gives for the example."""

    def __init__(self, conv: nn.Module, share: float = 0.1) -> None:
        super().__init__()
        self.conv, self.share = conv, share

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and add noise."""
        h = self.conv(x)
        return h + self.share * h.detach().std((1, 2, 3), keepdim=True) * torch.randn_like(h)  # type: ignore[no-any-return]


class Pruned(nn.Module):
    """A ReLU, and Stochastic Activation Pruning (Dhillon et al. 2018) with as many draws as there are activations."""

    def forward(self, x: Tensor) -> Tensor:
        """Rectify and prune."""
        h = x.relu()
        flat = h.flatten(1)
        p = (flat.detach() + 1e-12) / (flat.detach() + 1e-12).sum(1, keepdim=True)
        drawn = torch.multinomial(p, p.shape[1], replacement=True)
        kept = torch.zeros_like(p).scatter_(1, drawn, 1.0)
        return (flat * kept / (1 - (1 - p) ** p.shape[1]).clamp(min=1e-12)).view_as(h)


class Winner(nn.Module):
    """A ReLU, after which one of each two channels survives: the larger is the likelier (a hard Gumbel softmax)."""

    def forward(self, x: Tensor) -> Tensor:
        """Rectify and let one of two win."""
        h = x.relu()
        pairs = h.unflatten(1, (-1, 2))
        kept: Tensor = pairs * F.gumbel_softmax(2 * pairs, hard=True, dim=2)
        return 2 * kept.flatten(1, 2)


def swapped(net: nn.Module, kind: type[nn.Module], new: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Put `new` in the place of every part of a kind."""
    for part in list(net.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, kind):
                setattr(part, name, new(child))
    return net.eval()


def dropout_layers() -> nn.Module:
    """Return the network with dropout layers after its ReLUs that its author left in training mode."""
    net = swapped(base(), nn.ReLU, lambda relu: nn.Sequential(relu, nn.Dropout(0.05)))
    for part in net.modules():
        part.train(isinstance(part, nn.Dropout)) if not list(part.children()) else None
    return net


def pruned() -> nn.Module:
    """Return the network with its last stage pruned; more of it would make the bare passes very slow."""
    net: Any = base()
    swapped(net.stage3, nn.ReLU, lambda relu: Pruned())
    return net  # type: ignore[no-any-return]


def winners() -> nn.Module:
    """Return the network with a competition after its last stage."""
    net: Any = base()
    net.relu = Winner()
    return net.eval()  # type: ignore[no-any-return]


def several() -> nn.Module:
    """Return four networks to pick from."""
    others = ("preact-resnet20-dropout-0.1", "preact-resnet20-sap-100", "resnet20-dense")
    return Pick(base(), *map(saplab.load_model, others)).eval()


@dataclass(frozen=True)
class Case:
    """A network, and what an attacker by hand puts in its place to get a gradient, where it has none."""

    make: Callable[[], nn.Module]
    by_hand: Callable[[], nn.Module] | None = None


CASES: Final = {
    "input noise": Case(lambda: InputNoise(base()).eval()),
    "resize and pad": Case(lambda: ResizePad(base()).eval()),
    "dropout layers": Case(dropout_layers),
    "dropout functions": Case(lambda: swapped(base(), nn.ReLU, lambda relu: Dropped(0.05))),
    "one of four networks": Case(several),
    "rounded DCT": Case(lambda: RoundedDCT(base()).eval(), lambda: RoundedDCT(base(), straight=True).eval()),
    "noise after convolutions": Case(lambda: swapped(base(), nn.Conv2d, NoisyConv)),
    "SAP by multinomial": Case(pruned),
    "stochastic rounding": Case(lambda: Dithered(base()).eval(), lambda: Dithered(base(), straight=True).eval()),
    "NumPy noise": Case(lambda: NumPyNoise(base()).eval()),
    "winner takes all": Case(winners),
}


@saplab.register("still")
@dataclass(frozen=True)
class Still(saplab.Attack):
    """An attack that changes nothing, in as many copies as one likes."""

    copy: int = 1

    def ascending(self, problem: saplab.Problem, radii: Sequence[float]) -> Iterator[Tensor]:
        """Yield the images."""
        return (problem.images for _ in radii)

    def cost(self, eps: Sequence[float]) -> saplab.Cost:
        """Return no pass."""
        return saplab.Cost(0, 0)


def seed_all(seed: int) -> None:
    """Seed the generators that a network by hand draws from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - as users write it


@torch.no_grad()
def accuracy_by_hand(net: nn.Module, images: Tensor, labels: Tensor, passes: int) -> float:
    """Return the accuracy in % of softmax averaged over passes of the bare network."""
    probs = torch.stack([net(images).softmax(1) for _ in range(passes)]).mean(0)
    return 100 * float((probs.argmax(1) == labels).float().mean())


def pgd_by_hand(net: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Return PGD's last points: `STEPS` steps along the mean gradient of `SAMPLES` passes, from a random start."""
    points = (images + eps * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
    for _ in range(STEPS):
        gradient = torch.zeros_like(points)
        for _ in range(SAMPLES):
            x = points.clone().requires_grad_()
            gradient += torch.autograd.grad(F.cross_entropy(net(x), labels, reduction="sum"), x)[0]
        moved = points + 2.5 / STEPS * eps * gradient.sign()
        points = torch.minimum(torch.maximum(moved, images - eps), images + eps).clamp(0, 1)
    return points


def cost(name: str) -> tuple[str, ...]:
    """Return a network's median CPU time of a bare and of a keyed pass, taken in turn, and their ratio."""
    images, net = saplab.load_cifar10("sample")[0][:TIMED], CASES[name].make()
    wrapped = saplab.Stochastic(net, example=images[:3])
    times: dict[bool, list[float]] = {False: [], True: []}
    with torch.no_grad():
        for _ in range(1 + REPEATS):
            for keyed, one in ((False, net), (True, wrapped)):
                start = time.process_time()
                one(images)
                times[keyed].append(1000 * (time.process_time() - start))
    bare, keyed_time = (statistics.median(times[keyed][1:]) for keyed in (False, True))
    return name, f"{bare:.0f}", f"{keyed_time:.0f}", f"{keyed_time / bare:.2f}"


def same_bits(net: nn.Module, images: Tensor, labels: Tensor, eps: float, seed: int) -> str:
    """Return whether two evaluations with other batch sizes have the same bits, or by how much they differ."""
    attack = saplab.PGD(saplab.MonteCarlo(2), steps=2)
    found = []
    for size in (len(images), len(images) * 3 // 8):
        store = saplab.evaluate(
            net, images, labels, attack, eps, passes=4, seed=seed, batch_size=size, progress=False
        ).store
        found.append(join([store.load(cell) for cell in store.request.cells]).probs)
    difference = float(np.abs(found[0] - found[1]).max())
    return "yes" if difference == 0 else f"up to {difference:.1g} apart"


def spread(percents: Sequence[float]) -> str:
    """Return the mean of accuracies of several seeds and their range, or the only one."""
    mean = f"{statistics.mean(percents):.1f}"
    return mean if len(percents) == 1 else f"{mean} ({min(percents):.1f} to {max(percents):.1f})"


def measure(name: str, count: int, eps: float, passes: int, seeds: Sequence[int]) -> tuple[str, ...]:
    """Return the row of a network: all from the first seed, but for what attacks leave, which each seed measures."""
    case, net = CASES[name], CASES[name].make()
    images, labels = (t[:count] for t in saplab.load_cifar10("sample"))
    rules = ("mask", "relaxed") if case.by_hand else ("mask",)
    pgd = [saplab.PGD(saplab.MonteCarlo(SAMPLES, backward=rule), steps=STEPS) for rule in rules]  # type: ignore[arg-type]
    run = partial(saplab.evaluate, net, images, labels, eps=eps, passes=passes, progress=False)

    attacked = [run(attacks=pgd, seed=seed) for seed in seeds]
    clean = next(row for row in attacked[0].rows if row["eps"] == 0)
    left = [[row["averaged_percent"] for row in result.rows if row["eps"] > 0] for result in attacked]
    still = run(attacks=[Still(k) for k in (1, 2, 3)], seed=seeds[0])
    bound = still.verdict.robust[-1].accuracy.estimate * 100
    averaged = next(row["averaged_percent"] for row in still.rows if row["eps"] > 0)

    hand_left = []
    for seed in seeds:
        seed_all(seed)
        if seed == seeds[0]:
            hand_clean = accuracy_by_hand(net, images, labels, BY_HAND)
        adversarial = pgd_by_hand(case.by_hand() if case.by_hand else net, images, labels, eps)
        hand_left.append(accuracy_by_hand(net, adversarial, labels, passes))

    return (
        name, attacked[0].request.cells[0].defender.grain,
        f"{clean['averaged_percent']:.1f} [{clean['averaged_low']:.1f}, {clean['averaged_high']:.1f}]",
        f"{hand_clean:.1f}", ", ".join(spread(percents) + (f" ({rule})" if len(rules) > 1 else "")
                                       for percents, rule in zip(zip(*left, strict=True), rules, strict=True)),
        spread(hand_left) + (" (BPDA)" if case.by_hand else ""), f"{bound:.1f} / {averaged:.1f}",
        same_bits(net, images, labels, eps, seeds[0]),
    )  # fmt: skip


def main() -> None:
    """Measure the networks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=tuple(CASES), metavar="NETWORK")
    for name, default in (("images", 200), ("passes", 20), ("jobs", 1), ("seed", 0), ("seeds", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lam", type=float, default=1.0, help="radius of the attacks in pixel steps of 0..255")
    parser.add_argument("--only", choices=("accuracy", "cost"))
    options = parser.parse_args()
    if unknown := set(options.networks) - set(CASES):
        parser.error(f"NETWORK must be among {', '.join(CASES)}; got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    if options.only != "cost":
        with multiprocessing.get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
            one = partial(measure, count=options.images, eps=eps_of(options.lam), passes=options.passes,
                          seeds=range(options.seed, options.seed + options.seeds))  # fmt: skip
            show(f"{options.images} images, λ = {options.lam:g}", HEAD, pool.imap(one, options.networks, chunksize=1))
    if options.only != "accuracy":
        show(f"a pass over {TIMED} images, one thread", COST_HEAD, map(cost, options.networks))


def show(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, each row as it comes."""
    print(f"{title}\n\n{line(head)}\n|---|{'---:|' * (len(head) - 1)}", flush=True)
    for row in rows:
        print(line(row), flush=True)
    print()


def line(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
