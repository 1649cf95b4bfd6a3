"""The paper's figures as data, and studies beyond them.

The legends of Figs. 1, 2 and 5 are lost in the paper's text; where they are, the values here span the change from no
effect to collapse on the packaged network (docs/deviations.md).
"""

from collections.abc import Mapping, Sequence, Set
from itertools import pairwise
from typing import Final

from msgspec.structs import replace

from saplab.evaluation import paper_numbers as numbers
from saplab.paper.study import Claim, Figure, Line, Preset
from saplab.training.recipes import FIG_2_RATES

DROPOUT: Final = "preact-resnet20-dropout-{}"
ADVERSARIAL: Final = "preact-resnet20-adversarial"
PERCENTS: Final = (25, 50, 100, 200, 400)
ADV_FGSM: Final[Mapping[float, float]] = {0: 75.0, 1: 72.9, 2: 70.9, 4: 67.5}  # section 4.1.3

_DENSE = Line("dense", paper=numbers.DENSE_FGSM)
_SAP = Line("SAP-100", defense="sap:100", paper=numbers.SAP_100_FGSM)
_BPDA: Final = "fgsm:backward=identity"
_RULES: Final = {"mask": "fgsm", "identity": _BPDA}
_SMALL, _GAINS, _LARGE = (0, 1, 2), (1, 2, 4), (8, 16)  # λ that the paper speaks of together


def _first(preset: Preset) -> tuple[Figure, ...]:
    noise = tuple(Line(f"SAP-{p}", defense=f"sap:{p}", attack="noise") for p in PERCENTS)
    others = tuple(Line(f"SAP-{p}", defense=f"sap:{p}") for p in PERCENTS if p != 100)
    own, transferred, plain = "SAP-100 vs. SAP-100", "SAP-100 vs. dense", "dense vs. dense"
    every = ("dense", *(line.label for line in noise))
    return (
        Figure("fig1a", "Fig. 1a: random perturbations", (Line("dense", attack="noise"), *noise), (
            Claim("Perturbations of size λ = 64 push all models to near-random outputs.", every, "near chance", (64,)),
        )),
        Figure("fig1b", "Fig. 1b: FGSM with Monte Carlo sampling", (_DENSE, _SAP, *others), (
            Claim("With many samples drawn, SAP converges to the dense model.", "SAP-400", "alike", _SMALL, "dense"),
            Claim("With few samples drawn, accuracy diminishes for λ = 0.", "SAP-25", "lower", (0,), "dense"),
            Claim("With few samples drawn, accuracy is higher for λ ≠ 0.", "SAP-25", "higher", _GAINS, "dense"),
            Claim("SAP-100 gains over the dense model at λ = 1, 2 and 4 (by 12.2, 16.3 and 12.8 points).", "SAP-100",
                  "higher", _GAINS, "dense"),
            Claim("SAP-100 loses at λ = 0 (6.5 points).", "SAP-100", "lower", (0,), "dense"),
            Claim("SAP-100 loses at λ = 16 (5.2 points).", "SAP-100", "lower", (16,), "dense"),
        )),
        Figure("fig1c", "Fig. 1c: the iterative attack, k = 1 (defender vs. adversary)", (
            Line(plain, attack="iterative:stop_when_lost=false", paper=numbers.DENSE_ITERATIVE),
            Line(own, defense="sap:100", attack=f"iterative:samples={preset.a_step}", paper=numbers.SAP_100_ITERATIVE),
            Line(transferred, defense="sap:100", attack="iterative", adversary="dense",
                 paper=numbers.SAP_100_TRANSFER),
        ), (
            Claim("SAP-100 keeps more than the dense model.", own, "higher", _GAINS, plain),
            Claim("The attack computed on the dense model leaves less of SAP-100 than its own.", transferred, "lower",
                  _GAINS, own),
        ), (0, 1, 2, 4, 8) if preset.images else None),
    )  # fmt: skip


def _of_dropout() -> tuple[Figure, ...]:
    claim = "Dropout models do similar to the dense model, but give no additional robustness."
    tested = tuple(Line(f"dropout-{rate}", defense=f"dropout:{rate}") for rate in FIG_2_RATES)
    both = tuple(Line(f"trained and tested-{r}", DROPOUT.format(r), f"dropout:{r}") for r in FIG_2_RATES)
    trained = tuple(Line(f"trained-{r}", DROPOUT.format(r)) for r in FIG_2_RATES)
    return (
        Figure("fig2a", "Fig. 2a: dropout on a network trained without it", (_DENSE, *tested), (
            Claim("A low dropout rate does like the dense model for small λ.", "dropout-0.05", "alike", (0, 1),
                  "dense"),
        )),
        Figure("fig2b", "Fig. 2b: trained and tested with dropout", (_DENSE, *both), (
            Claim(claim, _labels(both), "alike", _SMALL, "dense"),
        )),
        Figure("fig2c", "Fig. 2c: trained with dropout, tested without", (_DENSE, *trained), (
            Claim(claim, _labels(trained), "alike", _SMALL, "dense"),
        )),
    )  # fmt: skip


def _of_training() -> tuple[Figure, ...]:
    adv, both = "ADV", "ADV+SAP-100"
    lines = (_DENSE, _SAP, Line(adv, ADVERSARIAL, paper=ADV_FGSM), Line(both, ADVERSARIAL, "sap:100", paper={0: 74.1}))
    others = ("dense", "SAP-100", adv)
    return (
        Figure("fig3", "Fig. 3: adversarial training and SAP", lines, (
            Claim("ADV+SAP-100 is like ADV for small λ.", both, "alike", _SMALL, adv),
            Claim("ADV+SAP-100 gains over ADV at λ = 16 and 32 (7.8 and 7.9 points).", both, "higher", (16, 32), adv),
            Claim("As λ gets larger (8, 16), ADV+SAP-100 does better than all other models.", both, "higher", _LARGE,
                  others),
        )),
        Figure("fig4", "Fig. 4: calibration", lines, (
            Claim("The dense model is not calibrated for any λ ≠ 0.", "dense", "not calibrated",
                  (1, 2, 4, 8, 16, 32, 64)),
            Claim("The other models are well calibrated for λ ≤ 4.", ("SAP-100", adv, both), "calibrated",
                  (0, 1, 2, 4)),
            Claim("SAP improves calibration under attack: at λ = 1, 2 and 4.", "SAP-100", "better calibrated", _GAINS,
                  "dense"),
            Claim("For larger λ (8, 16), ADV+SAP-100 is calibrated best.", both, "better calibrated", _LARGE, others),
        )),
    )  # fmt: skip


_BASELINES: Final = {
    "fig5a": ("random noisy weights", "rnw", (0.005, 0.01, 0.02, 0.05)),
    "fig5b": ("randomly scaled weights", "rsw", (0.05, 0.1, 0.2, 0.4)),
    "fig5c": ("deterministic weight pruning", "dwp", (80, 60, 40, 20)),
    "fig5d": ("stochastic weight pruning", "swp", (800, 400, 200, 100)),
    "fig5e": ("random noisy activations", "rna", (0.02, 0.05, 0.1, 0.2)),
    "fig5f": ("randomly scaled activations", "rsa", (0.1, 0.2, 0.4, 0.8)),
}


def _of_baselines(preset: Preset) -> tuple[Figure, ...]:
    figures = []
    for name, (title, kind, values) in _BASELINES.items():
        lines = tuple(Line(f"{kind.upper()}-{value:g}", defense=f"{kind}:{value:g}") for value in values)
        claims = (
            Claim(f"{title.capitalize()}: none matches SAP-100.", _labels(lines), "lower", _GAINS, "SAP-100"),
            Claim(f"{title.capitalize()}: each does worse than the dense model at most levels of perturbation.",
                  _labels(lines), "mostly lower", preset.strengths, "dense"),
        )  # fmt: skip
        figures.append(Figure(name, f"Fig. {name[3:]}: {title}", (_DENSE, _SAP, *lines), claims))
    return tuple(figures)


def _of_samples(preset: Preset) -> Figure:
    budgets = tuple(
        Line(f"SAP-100, {n:,} MC", defense="sap:100", attack=f"fgsm:samples={n}", at=n) for n in preset.budgets
    )
    most, transferred = budgets[-1].label, "SAP-100 vs. dense"
    lines = (_DENSE, Line(transferred, defense="sap:100", adversary="dense"), *budgets)
    more = (
        Claim(f"More samples lower the accuracy more: {two.at:,} than {one.at:,}.", two.label, "lower", (2, 4, 8),
              one.label)
        for one, two in pairwise(budgets)
    )  # fmt: skip
    return Figure("fig6", "Fig. 6: Monte Carlo samples of the adversary", lines, (
        *more,
        Claim(f"Even with {preset.budgets[-1]:,} samples SAP-100 stays above the dense model for λ = 1 and 2.", most,
              "higher", (1, 2), "dense"),
        Claim("Images made on the dense model lower SAP-100's accuracy more than its own, from one sample.",
              transferred, "lower", _GAINS, budgets[0].label),
    ), against="Monte Carlo samples of the adversary")  # fmt: skip


def _architectures(outside: str) -> Figure:
    """Ask the same of networks that prune the residual stream itself: ours, and one from elsewhere."""
    post = {"post-activation": "resnet20-dense"} | ({"outside": outside} if outside else {})
    kinds = {"dense": ("", "fgsm"), "SAP-100": ("sap:100", "fgsm"), "SAP-100, identity": ("sap:100", _BPDA)}
    lines = (Line(f"{name}, {how}", post[name], *kind) for name in post for how, kind in kinds.items())
    text = "Where the residual stream itself is pruned, SAP-100 keeps less clean accuracy ({} network)."
    claims = tuple(Claim(text.format(name), f"{name}, SAP-100", "lower", (0,), "SAP-100") for name in post)
    title = "The same question on the post-activation ResNet-20"
    return Figure("architectures", title, (_DENSE, _SAP, *lines), claims, (0, 1, 2, 4, 8))


def _of_erratum(preset: Preset) -> tuple[Figure, ...]:
    """Ask of SAP, and of Fig. 3's best network, what came after the paper."""
    mask, bpda, many = "MC-FGSM, mask", "MC-FGSM, identity", "PGD-20, identity"
    title = "against adversaries that came after the paper"
    return (
        Figure("erratum", f"SAP {title}", _after_the_paper("dense", _DENSE.model, preset), (
            Claim("BPDA (identity backward) leaves SAP-100 less than the mask's gradient does.", bpda, "lower",
                  (1, 2, 4, 8), mask),
            Claim("Under BPDA in one step, SAP-100 keeps no more than the dense network under FGSM.", bpda,
                  "not higher", (1, 2, 4, 8), "dense, FGSM"),
            Claim("Under BPDA in many steps, SAP-100 keeps no more than the dense network under PGD, at λ = 1 and 2.",
                  many, "not higher", (1, 2), "dense, PGD-20"),
            Claim("The same at λ = 4 and 8 (Dhillon & Carlini 2020: 0.1 % at 8).", many, "not higher", (4, 8),
                  "dense, PGD-20"),
        ), (0, 1, 2, 4, 8)),
        Figure("erratum-adv", f"Adversarial training and SAP {title}", _after_the_paper("ADV", ADVERSARIAL, preset), (
            Claim("BPDA (identity backward) leaves ADV+SAP-100 less than the mask's gradient does.", bpda, "lower",
                  (1, 2, 4, 8), mask),
            Claim("Under BPDA in many steps, ADV+SAP-100 keeps no more than ADV under PGD, at λ = 4 and 8.", many,
                  "not higher", (4, 8), "ADV, PGD-20"),
        ), (0, 1, 2, 4, 8, 16)),
    )  # fmt: skip


def _labels(lines: Sequence[Line]) -> tuple[str, ...]:
    return tuple(line.label for line in lines)


def _after_the_paper(name: str, model: str, preset: Preset) -> tuple[Line, ...]:
    """Return a network's lines without SAP, and with SAP-100 under the paper's adversary and later ones."""
    pgd = f"pgd:steps=20,samples={preset.a_step}"
    alone = {"FGSM": "fgsm", "PGD-20": "pgd:steps=20"}
    aware = {
        "MC-FGSM, mask": "fgsm",
        "MC-FGSM, identity": _BPDA,
        "PGD-20, mask": pgd,
        "PGD-20, identity": f"{pgd},backward=identity",
        "APGD-20, identity": f"a{pgd},backward=identity",
    }
    return (
        *(Line(f"{name}, {attack}", model, attack=text) for attack, text in alone.items()),
        *(Line(label, model, "sap:100", text) for label, text in aware.items()),
        *(Line(f"{attack} from {name}", model, "sap:100", text, "dense") for attack, text in alone.items()),
    )


def _of_percentages() -> Figure:
    lines = (
        Line(f"SAP-{percent}, {rule}", defense=f"sap:{percent}", attack=attack, at=percent, series=f"{rule} backward")
        for percent in (25, 50, 75, 100, 150, 200, 400, 800)
        for rule, attack in _RULES.items()
    )
    title, against = "Accuracy against the percentage of samples drawn", "samples drawn, in % of the activations"
    return Figure("r-sweep", title, (_DENSE, *lines), (), (0, 1, 2, 4, 8), against)


def _of_stages() -> Figure:
    lines = (
        Line(f"{where}, {rule}", defense=f"sap:{sites}100", attack=attack)
        for where, sites in (*((f"stage {k} alone", f"stage{k}.*=") for k in (1, 2, 3)), ("all sites", ""))
        for rule, attack in _RULES.items()
    )
    claims = (
        Claim("Pruning the first stage alone costs clean accuracy as pruning all sites does.", "stage 1 alone, mask",
              "alike", (0,), "all sites, mask"),
        Claim("Pruning the first stage alone gains against its own adversary as pruning all sites does.",
              "stage 1 alone, mask", "alike", _GAINS, "all sites, mask"),
    )  # fmt: skip
    title = "Where SAP-100 prunes: one stage of the network, or all sites"
    return Figure("r-sites", title, (_DENSE, *lines), claims, (0, 1, 2, 4, 8))


def figures(preset: Preset, outside: str = "") -> dict[str, Figure]:
    """Return every study by name: the paper's figures in order, then those beyond it.

    `outside` is a network from elsewhere for ``architectures``, such as ``resnet20@FILE``; "" for none.
    """
    papers = (*_first(preset), *_of_dropout(), *_of_training(), *_of_baselines(preset), _of_samples(preset))
    found = (*papers, *_of_erratum(preset), _architectures(outside), _of_percentages(), _of_stages())
    return {figure.name: _within(figure, set(preset.strengths)) for figure in found}


def _within(figure: Figure, known: Set[float]) -> Figure:
    return replace(figure, strengths=figure.strengths and tuple(s for s in figure.strengths if s in known))
