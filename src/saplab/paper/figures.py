"""The paper's figures as data, and studies beyond them.

The legends of Figs. 1, 2 and 5 are lost in the paper's text; where they are, the values here span the change from no
effect to collapse on the packaged network (docs/deviations.md).
"""

from collections.abc import Mapping, Set
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


def _first(preset: Preset) -> tuple[Figure, ...]:
    noise = tuple(Line(f"SAP-{p}", defense=f"sap:{p}", attack="noise") for p in PERCENTS)
    others = tuple(Line(f"SAP-{p}", defense=f"sap:{p}") for p in PERCENTS if p != 100)
    own, transferred = "SAP-100 vs. SAP-100", "SAP-100 vs. dense"
    return (
        Figure("fig1a", "Fig. 1a: random perturbations", (Line("dense", attack="noise"), *noise), (
            Claim("Perturbations of size λ = 64 push all models to near-random outputs.", "SAP-100", "dense", "alike",
                  (64,)),
            Claim("With many samples drawn, SAP converges to the dense model.", "SAP-400", "dense", "alike", (0, 1, 2)),
        )),
        Figure("fig1b", "Fig. 1b: FGSM with Monte Carlo sampling", (_DENSE, _SAP, *others), (
            Claim("SAP-100 gains over the dense model at λ = 1, 2 and 4 (by 12.2, 16.3 and 12.8 points).", "SAP-100",
                  "dense", "higher", (1, 2, 4)),
            Claim("SAP-100 loses at λ = 0 (6.5 points).", "SAP-100", "dense", "lower", (0,)),
            Claim("SAP-100 loses at λ = 16 (5.2 points).", "SAP-100", "dense", "lower", (16,)),
            Claim("With few samples drawn, accuracy diminishes at λ = 0.", "SAP-25", "SAP-100", "lower", (0,)),
        )),
        Figure("fig1c", "Fig. 1c: the iterative attack, k = 1 (defender vs. adversary)", (
            Line("dense vs. dense", attack="iterative:stop_when_lost=false", paper=numbers.DENSE_ITERATIVE),
            Line(own, defense="sap:100", attack=f"iterative:samples={preset.a_step}", paper=numbers.SAP_100_ITERATIVE),
            Line(transferred, defense="sap:100", attack="iterative", adversary="dense",
                 paper=numbers.SAP_100_TRANSFER),
        ), (
            Claim("SAP-100 keeps more than the dense model.", own, "dense vs. dense", "higher", (1, 2, 4)),
            Claim("The attack computed on the dense model leaves less of SAP-100 than its own.", transferred, own,
                  "lower", (1, 2, 4)),
        ), (0, 1, 2, 4, 8)),
    )  # fmt: skip


def _of_dropout() -> tuple[Figure, ...]:
    claim = "Dropout models do similar to the dense model, but give no additional robustness."
    tested = tuple(Line(f"dropout-{rate}", defense=f"dropout:{rate}") for rate in FIG_2_RATES)
    both = tuple(Line(f"trained and tested-{r}", DROPOUT.format(r), f"dropout:{r}") for r in FIG_2_RATES)
    trained = tuple(Line(f"trained-{r}", DROPOUT.format(r)) for r in FIG_2_RATES)
    return (
        Figure("fig2a", "Fig. 2a: dropout on a network trained without it", (_DENSE, *tested), (
            Claim("A low dropout rate does like the dense model for small λ.", "dropout-0.05", "dense", "alike",
                  (0, 1)),
        )),
        Figure("fig2b", "Fig. 2b: trained and tested with dropout", (_DENSE, *both), (
            Claim(claim, "trained and tested-0.1", "dense", "alike", (0, 1, 2)),
        )),
        Figure("fig2c", "Fig. 2c: trained with dropout, tested without", (_DENSE, *trained), (
            Claim(claim, "trained-0.1", "dense", "alike", (0, 1, 2)),
        )),
    )  # fmt: skip


def _of_training() -> tuple[Figure, ...]:
    adv, both = "ADV", "ADV+SAP-100"
    lines = (_DENSE, _SAP, Line(adv, ADVERSARIAL, paper=ADV_FGSM), Line(both, ADVERSARIAL, "sap:100", paper={0: 74.1}))
    return (
        Figure("fig3", "Fig. 3: adversarial training and SAP", lines, (
            Claim("ADV+SAP-100 is like ADV for small λ.", both, adv, "alike", (0, 1, 2)),
            Claim("ADV+SAP-100 gains over ADV at λ = 16 and 32 (7.8 and 7.9 points).", both, adv, "higher", (16, 32)),
            Claim("For larger λ, ADV+SAP-100 is the best of all: better than SAP-100.", both, "SAP-100", "higher",
                  (8, 16)),
        )),
        Figure("fig4", "Fig. 4: calibration", lines, (
            Claim("The dense model is not calibrated for any λ > 0; SAP-100 is.", "SAP-100", "dense",
                  "better calibrated", (1, 2, 4)),
            Claim("For larger λ, ADV+SAP-100 is calibrated best.", both, adv, "better calibrated", (8, 16)),
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


def _of_baselines() -> tuple[Figure, ...]:
    text = "No robustness beyond SAP's: {} stays below SAP-100 under attack."
    figures = []
    for name, (title, kind, values) in _BASELINES.items():
        lines = tuple(Line(f"{kind.upper()}-{value:g}", defense=f"{kind}:{value:g}") for value in values)
        claims = tuple(Claim(text.format(line.label), line.label, "SAP-100", "lower", (1, 2, 4)) for line in lines)
        figures.append(Figure(name, f"Fig. {name[3:]}: {title}", (_DENSE, _SAP, *lines), claims))
    return tuple(figures)


def _of_samples(preset: Preset) -> Figure:
    budgets = tuple(
        Line(f"SAP-100, {n:,} MC", defense="sap:100", attack=f"fgsm:samples={n}", at=n) for n in preset.budgets
    )
    most, fewest, transferred = budgets[-1].label, budgets[0].label, "SAP-100 vs. dense"
    lines = (_DENSE, Line(transferred, defense="sap:100", adversary="dense"), *budgets)
    return Figure("fig6", "Fig. 6: Monte Carlo samples of the adversary", lines, (
        Claim("More samples lower SAP-100's accuracy more.", most, fewest, "lower", (2, 4, 8)),
        Claim("Even with the most samples SAP-100 stays above the dense model for λ = 1 and 2.", most, "dense",
              "higher", (1, 2)),
        Claim("Images made on the dense model lower SAP-100's accuracy.", transferred, fewest, "lower", (1, 2, 4)),
    ), against="Monte Carlo samples of the adversary")  # fmt: skip


def _architectures(outside: str) -> Figure:
    """Ask the same of networks that prune the residual stream itself: ours, and one from elsewhere."""
    post = {"post-activation": "resnet20-dense"} | ({"outside": outside} if outside else {})
    kinds = {"dense": ("", "fgsm"), "SAP-100": ("sap:100", "fgsm"), "SAP-100, identity": ("sap:100", _BPDA)}
    lines = (Line(f"{name}, {how}", post[name], *kind) for name in post for how, kind in kinds.items())
    text = "Pruning the residual stream itself costs more clean accuracy ({} network)."
    claims = tuple(Claim(text.format(name), f"{name}, SAP-100", "SAP-100", "lower", (0,)) for name in post)
    title = "The same question on the post-activation ResNet-20"
    return Figure("architectures", title, (_DENSE, _SAP, *lines), claims, (0, 1, 2, 4, 8))


def _of_erratum(preset: Preset) -> tuple[Figure, ...]:
    """Ask of SAP, and of Fig. 3's best network, what came after the paper."""
    mask, bpda, many = "MC-FGSM, mask", "MC-FGSM, identity", "PGD-20, identity"
    title = "against adversaries that came after the paper"
    return (
        Figure("erratum", f"SAP {title}", _after_the_paper("dense", _DENSE.model, preset), (
            Claim("BPDA (identity backward) takes the gain away (Dhillon & Carlini 2020).", bpda, mask, "lower",
                  (1, 2, 4, 8)),
            Claim("Under BPDA with many steps, SAP-100 keeps no more than the dense network under PGD.", many,
                  "dense, PGD-20", "alike", (8,)),
        ), (0, 1, 2, 4, 8)),
        Figure("erratum-adv", f"Adversarial training and SAP {title}", _after_the_paper("ADV", ADVERSARIAL, preset), (
            Claim("BPDA (identity backward) leaves ADV+SAP-100 less than the mask's gradient does.", bpda, mask,
                  "lower", (1, 2, 4, 8)),
            Claim("Under BPDA with many steps, ADV+SAP-100 keeps no more than ADV under PGD.", many, "ADV, PGD-20",
                  "alike", (4, 8)),
        ), (0, 1, 2, 4, 8, 16)),
    )  # fmt: skip


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
              "all sites, mask", "alike", (0,)),
        Claim("Pruning the first stage alone gains against its own adversary as pruning all sites does.",
              "stage 1 alone, mask", "all sites, mask", "alike", (1, 2, 4)),
    )  # fmt: skip
    title = "Where SAP-100 prunes: one stage of the network, or all sites"
    return Figure("r-sites", title, (_DENSE, *lines), claims, (0, 1, 2, 4, 8))


def figures(preset: Preset, outside: str = "") -> dict[str, Figure]:
    """Return every study by name: the paper's figures in order, then those beyond it.

    `outside` is a network from elsewhere for ``architectures``, such as ``resnet20@FILE``; "" for none.
    """
    papers = (*_first(preset), *_of_dropout(), *_of_training(), *_of_baselines(), _of_samples(preset))
    found = (*papers, *_of_erratum(preset), _architectures(outside), _of_percentages(), _of_stages())
    return {figure.name: _within(figure, set(preset.strengths)) for figure in found}


def _within(figure: Figure, known: Set[float]) -> Figure:
    return replace(figure, strengths=figure.strengths and tuple(s for s in figure.strengths if s in known))
