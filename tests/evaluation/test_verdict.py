import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

import saplab
from saplab.attacks import APGD, FGSM, PGD, Iterative, MonteCarlo, RandomNoise, Square, ThreatModel, parse_attackers
from saplab.evaluation.advice import Advice
from saplab.evaluation.evidence import Evidence
from saplab.evaluation.text import verdict_text
from saplab.evaluation.thresholds import median_interval, share_interval
from saplab.evaluation.verdict import verdict
from saplab.metrics import mean_interval, worst_case

STRENGTHS = (1.0, 2.0, 4.0, 8.0)
IMAGES = 1000
DLR = MonteCarlo(10, loss="dlr")
STEPS = {"noise": 1, "fgsm": 1, "pgd": 20, "apgd": 20, "square": 1000}


def scores(accuracies, images=IMAGES):
    """Images in order of difficulty: the first share of them is right."""
    return (np.arange(images) + 0.5) / images < np.array(accuracies)[:, None]


def attack_of(kind, gradient, steps, largest):
    if kind == "iterative":
        return Iterative(largest / steps, gradient)
    makers = {"noise": RandomNoise, "fgsm": lambda: FGSM(gradient), "pgd": lambda: PGD(gradient, steps),
              "apgd": lambda: APGD(gradient, steps), "square": lambda: Square(steps)}  # fmt: skip
    return makers[kind]()


def evidence(kind, accuracies, *, adversary="own", backward="mask", samples=10, steps=None, images=IMAGES, **more):
    strengths = more.pop("strengths", STRENGTHS[: len(accuracies)])
    steps = STEPS.get(kind, int(strengths[-1])) if steps is None else steps
    gradient = MonteCarlo(samples, backward or "mask", loss=more.pop("loss", "cross-entropy"))
    attack = more.pop("attack", None) or attack_of(kind, gradient, steps, strengths[-1])
    label = more.pop("label", " ".join(filter(None, [kind, adversary, backward, f"{samples}x{steps}"])))
    right = scores(accuracies, images).astype(float)
    return Evidence(label, attack, adversary, radii(*strengths), right, backward != "", **more)


def radii(*strengths):
    return tuple(strength / 255 for strength in strengths)


def noise(accuracies=(0.85, 0.85, 0.84, 0.8), **more):
    return evidence("noise", accuracies, adversary="none", backward="", samples=1, **more)


def transfer(accuracies, kind="fgsm", **more):
    return evidence(kind, accuracies, adversary="transfer", backward="", samples=1, **more)


def square(accuracies, **more):
    return evidence("square", accuracies, adversary="none", backward="", samples=1, **more)


def plain(attack, accuracies, **more):
    return evidence(attack, accuracies, backward="", samples=1, **more)


def check(key, defended, dense=(), **settings):
    return next(check for check in saplab.verdict(defended, dense, **settings).checks if check.key == key)


def outcomes(verdict):
    return {check.key: check.outcome for check in verdict.checks}


def binomial_ends(right, confidence=0.975):
    """Wilson's interval, by default for the best of two candidates."""
    return binomtest(right, IMAGES).proportion_ci(confidence, method="wilson")


MASK = evidence("pgd", (0.7, 0.6, 0.5, 0.46))
IDENTITY = evidence("pgd", (0.4, 0.2, 0.05, 0.031), backward="identity")
CLEAN = [plain("fgsm", (0.4, 0.22, 0.1, 0.09)), plain("pgd", (0.2, 0.01, 0.0, 0.0)), square((0.5, 0.3, 0.1, 0.03)),
         noise(), transfer((0.6, 0.4, 0.2, 0.15))]  # fmt: skip


# What fits which network


@pytest.mark.parametrize(
    ("backward", "random", "of_rules", "of_draws"),
    [("mask", True, True, True), ("mask", False, True, False), ("mask", None, True, True),
     ("", True, False, True), ("", False, False, False), ("", None, False, False)],
)  # fmt: skip
def test_questions_about_rules_and_about_draws_are_asked_where_they_fit(backward, random, of_rules, of_draws):
    """Gaussian noise has draws but no rules, rounding rules but no draws."""
    found = outcomes(saplab.verdict([evidence("pgd", (0.4, 0.2), backward=backward, random=random)]))
    assert found.keys() >= {"transfer", "one-step", "black-box", "noise", "steps", "rises", "unbounded"}
    assert {"identity", "norm"} & found.keys() == ({"identity", "norm"} if of_rules else set())
    assert {"samples", "cosine"} & found.keys() == ({"samples", "cosine"} if of_draws else set())


# The whole verdict


def test_a_masked_gradient_is_flagged():
    paper = evidence("iterative", (0.7, 0.6, 0.5, 0.46))
    found = saplab.verdict([paper, evidence("iterative", (0.4, 0.2, 0.1, 0.031), backward="identity")])
    assert found.masked is True
    low, high = (100 * end for end in binomial_ends(31, confidence=1 - 0.05 / 8))  # two attacks at four radii
    assert found.sentence == (
        f"Robust accuracy at λ = 8 is at most 3.1 % [{low:.1f}, {high:.1f}]; the 46.0 % under the paper's adversary is "
        "due to a masked gradient."
    )
    assert outcomes(found)["identity"] == "failed"
    assert found.headline.attack == "iterative own identity 10x8"


def test_an_undefended_network_is_cleared():
    found = saplab.verdict(CLEAN)
    assert found.masked is False
    assert found.sentence.startswith("Robust accuracy at λ = 8 is at most 0.0 % [0.0, ")
    assert found.sentence.endswith("]: the attacks break every image.")
    assert found.meaning == "At this radius the network has no robustness, real or masked."
    assert outcomes(found) == {
        "transfer": "passed", "one-step": "passed", "black-box": "passed", "noise": "passed", "steps": "not run",
        "rises": "passed", "unbounded": "passed", "relaxed": "not run", "flat": "not run", "loss": "not run",
    }  # fmt: skip


def test_randomness_is_not_asked_of_an_undefended_network():
    assert {"identity", "samples", "cosine", "norm"} & set(outcomes(saplab.verdict(CLEAN))) == set()
    assert {"identity", "samples", "cosine", "norm"} <= set(outcomes(saplab.verdict([MASK])))


def test_the_gap_is_shown_where_it_is_widest():
    broken = evidence("pgd", (0.5, 0.1, 0.0, 0.0), backward="identity")
    found = saplab.verdict([evidence("pgd", (0.7, 0.6, 0.2, 0.05)), broken])
    assert found.sentence.endswith(
        "; at λ = 2, 50.0 points of the 60.0 % under PGD with mask backward are due to a masked gradient: PGD with"
        " identity backward leaves 10.0 %."
    )


@pytest.mark.parametrize(
    ("defended", "end"),
    [
        ([evidence("fgsm", (0.7, 0.6))],
         "; the paper's adversary alone cannot tell robustness from a masked gradient: more attacks are needed."),
        ([evidence("fgsm", (0.7, 0.6)), noise((0.8, 0.8))],
         "; what was run cannot tell robustness from a masked gradient: more attacks are needed."),
        ([transfer((0.7, 0.6))],
         "; FGSM made on another network alone cannot tell robustness from a masked gradient: more attacks are "
         "needed."),
        ([evidence("iterative", (0.7, 0.6), backward="probability")],
         "; the iterative attack with probability backward alone cannot tell robustness from a masked gradient: more "
         "attacks are needed."),
        ([square((0.7, 0.6))],
         "; the Square attack alone cannot tell robustness from a masked gradient: more attacks are needed."),
        ([noise()], "; random noise searches for nothing, so an attack is needed to tell more."),
        ([plain("fgsm", (0.2, 0.1))], "; one step bounds it loosely: more steps are needed."),
        ([plain("pgd", (0.2, 0.1))], "]."),
        ([evidence("pgd", (0.5, 0.7))],
         "; accuracy rises with λ, so the attack fails somewhere: stronger attacks are needed to tell."),
        ([evidence("pgd", (0.5, 0.7)), transfer((0.9, 0.9))],
         "; accuracy rises with λ, so the attack fails somewhere: stronger attacks are needed to tell."),
        ([evidence("pgd", (0.7, 0.6), strengths=(8.0, 127.5))],
         "; an unbounded attack does not reach chance, so it fails somewhere: stronger attacks are needed to tell."),
        ([evidence("pgd", (0.6, 0.5), images=20), transfer((0.6, 0.5), images=20)],
         "; 20 images are too few to tell whether a gradient is masked."),
        ([evidence("pgd", (0.6, 0.5)), evidence("pgd", (0.6, 0.5), backward="identity")],
         "; 2 checks passed, none shows a masked gradient."),
    ],
)  # fmt: skip
def test_sentence_says_what_it_cannot_say(defended, end):
    found = saplab.verdict(defended)
    assert found.sentence.endswith(end)
    assert found.sentence.startswith("Robust accuracy at λ = ")


def test_sentence_without_an_attack():
    found = saplab.verdict([noise((0.9,), strengths=(0.0,))])
    assert found.sentence == "Accuracy without an attack is 90.0 % [88.0, 91.7]; no λ > 0 was run."
    assert found.masked is None


def test_sentence_tells_of_what_still_helps_and_of_the_undefended_network():
    defended = [evidence("pgd", (0.6, 0.5), backward=rule) for rule in ("mask", "identity")]
    defended.append(evidence("pgd", (0.5, 0.4), samples=100))
    found = saplab.verdict(defended, [plain("pgd", (0.1, 0.0))])
    assert outcomes(found)["samples"] == "failed"
    assert found.sentence.endswith(
        "2 checks passed, none shows a masked gradient, but more Monte Carlo samples still help: it may be lower yet; "
        "the undefended network: 0.0 % [0.0, 0.5]."
    )


def averaged(accuracies, samples=20, backward="mask"):
    attack = PGD(MonteCarlo(samples, backward, loss="margin"), 40, momentum=0.9)
    return evidence("pgd", accuracies, samples=samples, backward=backward, attack=attack, label="averaged")


def test_a_gradient_that_is_noise_for_the_most_part_is_not_called_sound():
    """Its attacks clear nothing where it is the number of passes averaged that decides what they leave."""
    few = [evidence("pgd", (0.9, 0.9)), evidence("pgd", (0.95, 0.95), backward="identity"), transfer((0.95, 0.95))]
    sound = saplab.verdict([*few, averaged((0.85, 0.8))])
    assert sound.masked is False
    found = saplab.verdict([*few, averaged((0.7, 0.5))])
    assert found.masked is None
    assert "what is left depends on how many passes a gradient averages: PGD with mask backward ×10 leaves 90.0 %," in (
        found.sentence
    )
    assert found.sentence.endswith(
        "PGD with mask backward ×20 with momentum 50.0 %, so more samples are needed to tell."
    )
    assert saplab.verdict([*few, averaged((0.7, 0.5))], eps=1 / 255).masked is None
    assert saplab.verdict([*few, averaged((0.85, 0.5))], eps=1 / 255).masked is False  # not at this radius


def test_averaging_tells_only_beside_fewer_samples_by_the_same_rule():
    base = [evidence("pgd", (0.9, 0.9), backward="identity"), transfer((0.95, 0.95))]
    assert saplab.verdict([*base, averaged((0.7, 0.5), backward="identity")]).masked is not False
    own = evidence("pgd", (0.9, 0.9), samples=20)
    assert saplab.verdict([own, transfer((0.95, 0.95)), averaged((0.7, 0.5))]).masked is False


def test_a_few_points_less_by_averaging_are_no_matter():
    few = [evidence("pgd", (0.10, 0.10)), transfer((0.5, 0.5))]
    assert saplab.verdict([*few, averaged((0.05, 0.05))]).masked is False


def test_chance_alone_seldom_flags_a_network():
    """Attacks that leave the same accuracy, on 400 images anew 200 times: flagged at most 5 % and 4 standard errors."""
    rng = np.random.default_rng(0)
    alike = {"accuracies": (0.5, 0.5), "images": 400}
    runs = [evidence("fgsm", **alike), evidence("pgd", **alike), evidence("pgd", backward="identity", **alike)]
    runs += [noise(**alike), transfer(**alike), square(**alike)]
    flagged = 0
    for _ in range(200):
        easy = rng.random(400)
        drawn = [replace(run, right=(rng.random((2, 400)) < easy).astype(float)) for run in runs]
        flagged += saplab.verdict(drawn).masked is True
    assert flagged / 200 <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)


# Each check, in each outcome


OWN = evidence("pgd", (0.6, 0.5))
CASES = {
    "transfer": ([transfer((0.5, 0.4))], [transfer((0.7, 0.6))]),
    "one-step": ([evidence("fgsm", (0.5, 0.4), samples=100)], [evidence("fgsm", (0.7, 0.6), samples=100)]),
    "identity": ([IDENTITY], [evidence("pgd", (0.6, 0.5), backward="identity")]),
    "black-box": ([square((0.5, 0.4))], [square((0.6, 0.6))]),
    "noise": ([noise((0.6, 0.4))], [noise((0.6, 0.6))]),
    "samples": ([evidence("pgd", (0.5, 0.4), samples=100)], [evidence("pgd", (0.6, 0.5), samples=100)]),
    "steps": ([evidence("pgd", (0.5, 0.4), steps=100)], [evidence("pgd", (0.6, 0.5), steps=100)]),
    "rises": ([evidence("apgd", (0.5, 0.6))], [evidence("apgd", (0.5, 0.5))]),
}  # fmt: skip


@pytest.mark.parametrize("key", CASES)
def test_check_fails_where_what_should_be_weaker_is_stronger(key):
    assert check(key, [OWN, *CASES[key][0]]).outcome == "failed"


@pytest.mark.parametrize("key", CASES)
def test_check_passes_where_it_is_not(key):
    found = check(key, [OWN, *CASES[key][1]])
    assert (found.outcome, found.how) == ("passed", None)


@pytest.mark.parametrize("key", CASES)
def test_check_is_unclear_on_few_images(key):
    few = [replace(e, right=e.right[:, ::50]) for e in (OWN, *CASES[key][1])]
    found = check(key, few)
    assert (found.outcome, found.how.more_than) == ("unclear", 20)


@pytest.mark.parametrize("key", CASES)
def test_as_many_images_as_are_said_to_be_enough_decide_and_half_of_them_do_not(key):
    few = [replace(e, right=e.right[:, ::50]) for e in (OWN, *CASES[key][1])]
    enough = check(key, few).how.enough
    assert enough % 20 == 0
    for times, clear in ((enough // 20, True), (max(enough // 40, 1), False)):
        more = check(key, [replace(e, right=np.tile(e.right, times)) for e in few])
        assert (more.outcome != "unclear") is clear


@pytest.mark.parametrize("key", [key for key in CASES if key != "rises"])
def test_check_is_not_run_without_a_challenger(key):
    assert (check(key, [OWN]).outcome, check(key, [OWN]).evidence) == ("not run", "")


def test_evidence_of_a_check_by_hand():
    """One comparison at each of two λ, and one of neighbours: 3 intervals in all, 98.33 % each."""
    found = check("transfer", [OWN, transfer((0.55, 0.5))])
    difference = saplab.metrics.paired_difference(scores([0.6])[0], scores([0.55])[0], confidence=1 - 0.05 / 3)
    ends = f"{100 * difference.low:.1f}, {100 * difference.high:.1f}"
    assert found.evidence == (
        f"λ = 1: pgd own mask 10x20 leaves 60.0 %, fgsm transfer 1x1 leaves 55.0 %; difference 5.0 points [{ends}]"
    )


def test_more_comparisons_need_clearer_evidence():
    edge = [evidence("pgd", (0.1, 0.08), images=500), transfer((0.078, 0.078), images=500)]
    more = [noise((0.9, 0.9), label=f"noise {k}", images=500) for k in range(200)]
    assert check("transfer", edge).outcome == "failed"
    assert check("transfer", [*edge, *more]).outcome == "unclear"


@pytest.mark.parametrize(
    ("key", "defended"),
    [
        ("transfer", [evidence("fgsm", (0.6,)), transfer((0.1,), "pgd")]),  # more steps than any rival
        ("transfer", [evidence("iterative", (0.6,) * 4), transfer((0.1,), "iterative", steps=9, strengths=(8.0,))]),
        ("identity", [evidence("pgd", (0.6,), samples=5), evidence("pgd", (0.1,), backward="identity")]),
        ("identity", [evidence("pgd", (0.6,), steps=10), evidence("pgd", (0.1,), backward="identity")]),
        ("black-box", [evidence("fgsm", (0.6,)), square((0.1,))]),
        ("one-step", [evidence("pgd", (0.6,), samples=1), evidence("fgsm", (0.1,), samples=100)]),
        ("one-step", [evidence("pgd", (0.6,)), evidence("fgsm", (0.1,), backward="identity")]),
        ("samples", [evidence("pgd", (0.6,)), evidence("pgd", (0.1,), samples=100, loss="dlr")]),
        ("samples", [evidence("pgd", (0.6,)), evidence("apgd", (0.1,), samples=100)]),
        ("steps", [evidence("pgd", (0.6,)), evidence("apgd", (0.1,), steps=100)]),
        ("steps", [evidence("pgd", (0.6,)), evidence("pgd", (0.1,), attack=PGD(MonteCarlo(10), 40, targets=9))]),
        ("samples", [evidence("pgd", (0.6,)), evidence("pgd", (0.1,), attack=PGD(MonteCarlo(99), 20, targets=9))]),
        ("loss", [evidence("pgd", (0.6,)), evidence("apgd", (0.1,), attack=APGD(DLR, 20, targets=9))]),
        ("transfer", [evidence("pgd", (0.6,)), transfer((0.1,), attack=PGD(MonteCarlo(), 20, restarts=2))]),
    ],
)
def test_unequal_budgets_are_not_compared(key, defended):
    assert check(key, defended).outcome == "not run"


def test_the_paper_takes_fewer_steps_at_smaller_strengths():
    """Section 4.5: ⌈λ/k⌉ steps; at λ = 1 it is one step, and no iterative rival to anything."""
    iterative = evidence("iterative", (0.6, 0.6, 0.6, 0.6), steps=8)
    assert [iterative.steps_at(eps) for eps in radii(*STRENGTHS)] == [1, 2, 4, 8]
    assert [OWN.steps_at(eps) for eps in radii(*STRENGTHS)] == [20] * 4
    assert check("black-box", [iterative, square((0.1,))]).outcome == "not run"
    assert check("black-box", [iterative, square((0.7, 0.1))]).outcome == "not run"
    told = {"strengths": (1.0, 16.0)}
    runs = [evidence("iterative", (0.6, 0.6), steps=16, **told), square((0.7, 0.1), **told)]
    assert check("black-box", runs).outcome == "failed"


def test_a_rival_may_use_what_it_found_in_a_smaller_ball():
    own = evidence("fgsm", (0.3, 0.5))
    assert check("transfer", [own, transfer((0.6, 0.4))]).outcome == "passed"
    stronger = evidence("fgsm", (0.6, 0.1))
    assert check("transfer", [stronger, transfer((0.3, 0.1))]).outcome == "failed"
    found = check("noise", [own, noise((0.6, 0.2))])
    assert found.evidence.startswith("λ = 2: fgsm own mask 10x1 at λ = 1 leaves 30.0 %, noise none 1x1 leaves 20.0 %")


def test_convergence_is_judged_by_the_two_largest_budgets():
    runs = [evidence("pgd", (left,), samples=n) for n, left in ((1, 0.8), (100, 0.6), (10, 0.6), (1000, 0.6))]
    assert check("samples", runs).outcome == "passed"
    assert check("samples", runs[:3]).outcome == "passed"
    assert check("samples", runs[:2]).outcome == "failed"


@pytest.mark.parametrize("order", [1, -1])
def test_a_run_at_one_strength_does_not_hide_one_at_many(order):
    runs = [evidence("pgd", (0.6, 0.4), steps=20), evidence("pgd", (0.0,), steps=20, strengths=(64.0,)),
            evidence("pgd", (0.6, 0.2), steps=40)]  # fmt: skip
    assert check("steps", runs[::order]).outcome == "failed"


@pytest.mark.parametrize(
    ("run", "outcome"),
    [(evidence("fgsm", (0.3, 0.5)), "not run"), (square((0.3, 0.5)), "not run"), (noise((0.3, 0.5)), "not run"),
     (transfer((0.3, 0.5), "pgd"), "not run"), (evidence("pgd", (0.3, 0.5)), "failed")],
)  # fmt: skip
def test_only_iterative_attacks_along_a_gradient_may_not_rise(run, outcome):
    assert check("rises", [run]).outcome == outcome


def test_identity_is_the_white_box_attack_where_it_is_the_only_one():
    identity = evidence("pgd", (0.5, 0.4), backward="identity")
    assert check("transfer", [identity, transfer((0.3, 0.3))]).outcome == "failed"
    assert check("transfer", [identity, OWN, transfer((0.55, 0.45))]).outcome == "failed"


@pytest.mark.parametrize(
    ("left", "strength", "images", "outcome"),
    [(0.5, 127.5, 1000, "failed"), (0.0, 127.5, 1000, "passed"), (0.1, 127.5, 1000, "passed"),
     (0.13, 127.5, 100, "unclear"), (0.1, 8.0, 1000, "passed"), (0.5, 8.0, 1000, "not run"),
     (0.9, 76.5, 1000, "not run")],  # 0.3 of MNIST, where a network may be right
)  # fmt: skip
def test_an_unbounded_attack_should_reach_chance(left, strength, images, outcome):
    run = evidence("pgd", (0.6, left), strengths=(1.0, strength), images=images, classes=10)
    found = check("unbounded", [run])
    assert found.outcome == outcome
    assert "chance is 10.0 %" in found.evidence or outcome == "not run"


@pytest.mark.parametrize(("cosine", "outcome"), [(0.1, "failed"), (0.6, "passed"), (0.34, "unclear")])
def test_halves_of_the_samples_should_agree(cosine, outcome):
    values = cosine + 0.2 * np.linspace(-1, 1, IMAGES)
    found = check("cosine", [evidence("pgd", (0.6,), half_cosine=values)])
    assert found.outcome == outcome
    assert f"mean cosine {cosine:.2f} [" in found.evidence


def test_the_largest_number_of_samples_is_asked_for_its_cosine():
    runs = [evidence("fgsm", (0.6,), samples=s, half_cosine=np.full(IMAGES, c)) for s, c in ((1000, 0.9), (10, 0.05))]
    assert check("cosine", runs).outcome == "passed"
    runs.append(evidence("fgsm", (0.6,), backward="identity", half_cosine=np.full(IMAGES, 0.05)))
    assert check("cosine", runs).outcome == "failed"


@pytest.mark.parametrize(
    ("ratio", "outcome"), [(0.01, "failed"), (0.0, "failed"), (0.08, "failed"), (3.0, "passed"), (0.12, "passed")]
)
def test_a_gradient_should_not_vanish(ratio, outcome):
    norms = np.linspace(1, 2, IMAGES)
    norms[:10] = 0
    found = check(
        "norm", [evidence("fgsm", (0.6,), gradient_norm=ratio * norms)], [plain("pgd", (0.1,), gradient_norm=norms)]
    )
    assert found.outcome == outcome
    assert f"median norm over the undefended network's {ratio:.2f} [{ratio:.2f}, {ratio:.2f}]" in found.evidence


def test_few_gradients_bound_no_median():
    own, dense = (
        evidence("fgsm", (0.6,), images=4, gradient_norm=np.ones(4)),
        plain("pgd", (0.1,), images=4, gradient_norm=np.ones(4)),
    )
    assert check("norm", [own], [dense]).outcome == "unclear"


def test_where_the_undefended_network_was_run_it_is_not_asked_for_again():
    """Its attacks of many steps have no norm to compare: one step has."""
    found = check("norm", [evidence("pgd", (0.6,))], [plain("pgd", (0.1,))])
    assert (found.outcome, found.how) == ("not run", Advice("paper"))


@pytest.mark.parametrize(
    ("images", "confidence", "ends"),
    [
        (5, 0.95, (0, math.inf)),  # both tails: 2 · 1/32 = 0.0625
        (6, 0.95, (1, 6)),  # 2 · 1/64 = 0.031
        (10, 0.95, (2, 9)),  # 2 · (1 + 10)/1024 = 0.021, 2 · (1 + 10 + 45)/1024 = 0.109
        (10, 0.88, (3, 8)),
        (11, 0.95, (2, 10)),  # 2 · (1 + 11)/2048 = 0.012, 2 · (1 + 11 + 55)/2048 = 0.065
    ],
)
def test_the_median_lies_between_two_order_statistics(images, confidence, ends):
    """The interval misses where fewer than k of n fair coins fall on one side: no more than both tails together."""
    values = np.random.default_rng(0).permutation(np.arange(1.0, images + 1))
    found = median_interval(values, confidence)
    assert (found.low, found.high, found.n) == (*ends, images)
    assert found.estimate == (images + 1) // 2


def test_checks_that_were_not_run_say_what_to_run():
    largest = evidence("pgd", (0.6,), samples=10, steps=30)
    found = {check.key: check.how for check in saplab.verdict([largest]).checks}
    assert found == {
        "transfer": Advice("paper"),
        "one-step": Advice("paper"),
        "identity": Advice("pgd:samples=10,backward=identity,steps=30"),
        "relaxed": Advice("pgd:samples=10,backward=relaxed,steps=30"),
        "flat": Advice("pgd:samples=10,backward=relaxed,steps=30"),
        "loss": Advice("pgd:samples=10,loss=dlr,steps=30"),
        "black-box": Advice("adaptive"),
        "noise": Advice("paper"),
        "samples": Advice("pgd:samples=100,steps=30"),
        "steps": Advice("pgd:samples=10,steps=150"),
        "rises": Advice("adaptive", radii(1, 2, 4, 8)),
        "unbounded": Advice("pgd:samples=10,steps=30", radii(127.5)),
        "cosine": Advice("fgsm:samples=10"),  # which alone notes what halves of its samples say
        "norm": Advice(baseline=True),
    }
    assert all(parse_attackers(how.attack) for how in found.values() if how.attack)


@pytest.mark.parametrize(("shift", "asked"), [(0, False), (1, True)])
def test_labels_that_belong_to_other_images_are_asked_about(shift, asked):
    labels = np.arange(100) % 10
    probs = np.full((2, 100, 10), 0.05)
    probs[:, np.arange(100), labels] = 0.55
    found = saplab.verdict({"pgd": dict(zip((0.0, 8 / 255), probs, strict=True))}, labels=np.roll(labels, shift))
    assert ("do the labels belong to these images?" in found.meaning) == asked


def test_what_to_run_after_fgsm_and_after_noise():
    fgsm = {c.key: c.how for c in saplab.verdict([evidence("fgsm", (0.6,), samples=20)]).checks}
    assert fgsm["identity"] == Advice("fgsm:samples=20,backward=identity")
    assert fgsm["samples"] == Advice("fgsm:samples=200")
    assert fgsm["steps"] == fgsm["black-box"] == Advice("adaptive")
    assert fgsm["unbounded"] == Advice("adaptive", radii(127.5))
    single = {c.key: c.how for c in saplab.verdict([evidence("fgsm", (0.6,), samples=1)]).checks}
    assert (fgsm["cosine"], single["cosine"]) == (Advice("fgsm:samples=20"), Advice("fgsm:samples=10"))
    straight = saplab.verdict([evidence("pgd", (0.6,), backward="identity")]).checks[2]
    assert (straight.key, straight.how) == ("identity", Advice("adaptive"))
    most = [evidence("pgd", (0.6,), steps=40, samples=n) for n in (2, 4)] + [evidence("pgd", (0.6,), samples=100)]
    assert check("identity", most).how == Advice("pgd:samples=4,backward=identity,steps=40")
    assert {c.outcome for c in saplab.verdict([noise()]).checks} == {"not run"}
    assert saplab.verdict([noise()]).checks[2].how == Advice("adaptive")


@pytest.mark.parametrize(
    ("advice", "text"),
    [
        (Advice("adaptive"), 'attacks="adaptive"'),
        (Advice("pgd", radii(0.5, 64)), 'attacks="pgd", eps=[0.5/255, 64/255]'),
        (Advice(more_than=20), "more images: 20 images are too few"),
        (
            Advice(more_than=20, enough=60),
            "more images: 20 images are too few, about 60 would be enough if shares stayed the same",
        ),
        (Advice(baseline=True), "baseline=True"),
    ],
)
def test_advice_in_python(advice, text):
    assert advice.in_python() == text


# Whether the gradient is masked


EXPOSED = {
    "transfer": [transfer((0.5, 0.4))],
    "identity": [evidence("pgd", (0.5, 0.4), backward="identity")],
    "black-box": [square((0.5, 0.4))],
    "one-step": [evidence("fgsm", (0.5, 0.4))],
    "noise": [noise((0.5, 0.4))],
}


@pytest.mark.parametrize("key", EXPOSED)
def test_each_exposing_check_alone_shows_a_masked_gradient(key):
    found = saplab.verdict([OWN, *EXPOSED[key]])
    assert found.masked is True
    assert [name for name, outcome in outcomes(found).items() if outcome == "failed"] == [key]
    told = "10.0 points of the 50.0 % under PGD with mask backward are due to a masked gradient."
    assert found.sentence.endswith(f"; {told}")
    assert "a part of the robustness that it seems to have is not real" in found.meaning


def test_of_two_gaps_as_wide_the_one_is_told_of_that_leaves_less():
    own, straight = evidence("pgd", (0.65, 0.36, 0.0)), evidence("pgd", (0.29, 0.0, 0.0), backward="identity")
    told = "; at λ = 2, the 36.0 % under PGD with mask backward is due to a masked gradient: PGD with identity backward"
    assert saplab.verdict([own, straight]).sentence.endswith(f"{told} leaves 0.0 %.")


@pytest.mark.parametrize(
    ("left", "due", "real"),
    [
        (0.05, "the 50.0 % under PGD with mask backward is", "so the robustness that it seems to have is not real"),
        (0.1, "40.0 points of the 50.0 % under PGD with mask backward are", "so most of the robustness that it seems"),
        (
            0.3,
            "20.0 points of the 50.0 % under PGD with mask backward are",
            "so a part of the robustness that it seems",
        ),
    ],
)
def test_no_more_is_called_masked_than_the_stronger_attack_takes(left, due, real):
    found = saplab.verdict([evidence("pgd", (0.5, 0.5)), evidence("pgd", (0.5, left), backward="identity")])
    assert found.sentence.endswith(f"; {due} due to a masked gradient.")
    assert real in found.meaning


def test_another_loss_or_algorithm_by_identity_is_no_evidence_of_a_masked_gradient():
    straight = evidence("pgd", (0.6, 0.5), backward="identity")
    dlr = evidence("apgd", (0.5, 0.4), backward="identity", loss="dlr")
    assert check("identity", [OWN, straight, dlr]).outcome == "passed"
    assert check("identity", [OWN, dlr]).outcome == "failed"  # where nothing else can be compared
    one_step = evidence("fgsm", (0.5, 0.4), loss="dlr")
    assert check("one-step", [OWN, one_step]).outcome == "not run"


def test_a_difference_that_counts_for_nothing_is_no_evidence_of_a_masked_gradient():
    many = 100_000
    own, box = (evidence("pgd", (0.5,), images=many), square((0.49,), images=many))
    found = saplab.verdict([own, box])
    assert (outcomes(found)["black-box"], found.masked) == ("passed", False)
    for left, masked in ((0.03, False), (0.015, True)):  # of 4 points; two points count where they are a fifth of all
        found = saplab.verdict([evidence("pgd", (0.04,), images=many), square((left,), images=many)])
        assert found.masked is masked


def test_an_attack_that_needs_more_steps_is_no_masked_gradient():
    runs = [evidence("pgd", (0.7,), steps=10), evidence("pgd", (0.55,), steps=20)]
    found = saplab.verdict([*runs, square((0.4,))])
    assert (outcomes(found)["steps"], outcomes(found)["black-box"]) == ("failed", "failed")
    assert found.masked is None
    assert "the attack has not converged: more steps or samples are needed to tell" in found.sentence
    straight = evidence("pgd", (0.3,), steps=4, backward="identity")
    assert saplab.verdict([*runs, square((0.4,)), straight]).masked is True


def test_a_gradient_that_vanishes_beside_the_undefended_one_is_not_cleared():
    short = evidence("pgd", (0.6, 0.5), gradient_norm=np.full(IMAGES, 1e-6))
    usual = plain("pgd", (0.6, 0.5), gradient_norm=np.ones(IMAGES))
    found = saplab.verdict([short, transfer((0.9, 0.9))], [usual])
    assert (outcomes(found)["norm"], outcomes(found)["transfer"], found.masked) == ("failed", "passed", None)
    assert "far shorter than the undefended network's" in found.sentence


def test_one_step_alone_clears_nothing():
    found = saplab.verdict([evidence("fgsm", (0.4,)), transfer((0.8,))])
    assert (outcomes(found)["transfer"], found.masked) == ("passed", None)


def test_what_clears_a_gradient_is_named():
    found = saplab.verdict([OWN, evidence("pgd", (0.7, 0.6), backward="identity")])
    assert found.masked is False
    assert found.meaning.startswith("Attacks that pass the defence straight through find no more than")
    found = saplab.verdict([OWN, square((0.7, 0.6)), transfer((0.7, 0.6))])
    assert found.meaning.startswith("Attacks made on another network and a black box find no more than")


def test_a_gap_is_told_at_its_own_radius():
    found = saplab.verdict([evidence("pgd", (0.3, 0.5)), noise((0.9, 0.1))])
    assert found.sentence.endswith(
        "; at λ = 1, 20.0 points of the 30.0 % under PGD with mask backward are due to a masked gradient: random noise"
        " leaves 10.0 % at λ = 2."
    )


def test_chance_is_among_the_classes_there_are_and_not_the_labels():
    probs = np.zeros((2, 40, 10))
    probs[0, :38, 0] = probs[0, 38:, 1] = probs[1, :, 1] = 1  # all images are of class 0
    one = Evidence.of(PGD(steps=5), radii(0, 64), probs, np.zeros(40, int))
    found = saplab.verdict([one], labels=np.zeros(40, int))
    assert "chance" not in found.meaning
    assert "chance is 10.0 %" in next(check.evidence for check in found.checks if check.key == "unbounded")


def test_shares_near_nothing_have_exact_intervals():
    few = share_interval(np.eye(1, 50)[0], confidence=0.95)
    exact = binomtest(1, 50).proportion_ci(0.95, "exact")
    assert (few.low, few.high) == pytest.approx((exact.low, exact.high))
    halves = np.full(50, 0.5)
    assert share_interval(halves, 0.95) == mean_interval(halves, 1, 0.95)


def test_an_attack_is_not_compared_with_itself_at_radii_of_equal_steps():
    short, long = (
        evidence("iterative", (0.5,) * len(strengths), attack=Iterative(1.0), strengths=strengths)
        for strengths in ((4.0, 8.0), (4.0, 8.0, 127.5))
    )
    assert check("steps", [short, long]).outcome == "not run"


@pytest.mark.parametrize("key", ["one-step", "noise"])
def test_only_the_decisive_checks_clear_a_gradient(key):
    found = saplab.verdict([OWN, *CASES[key][1]])
    assert (outcomes(found)[key], found.masked) == ("passed", None)


def test_one_passed_and_one_unclear_decisive_check_leave_it_open():
    """The black box takes as many images as it leaves, others than the own gradient: no difference, wide interval."""
    right = np.zeros((2, IMAGES))
    right[:, ::2] = 1
    other = replace(square((0.5, 0.5)), right=right[:, ::-1])
    own = replace(OWN, right=right)
    wide = [replace(e, right=e.right[:, :400]) for e in (own, replace(transfer((0.9, 0.9)), right=right), other)]
    found = saplab.verdict(wide)
    assert (outcomes(found)["transfer"], outcomes(found)["black-box"]) == ("passed", "unclear")
    assert found.masked is None
    assert found.sentence.endswith("; 400 images are too few to tell whether a gradient is masked.")
    assert saplab.verdict(wide[:2]).masked is False


@pytest.mark.parametrize("symptom", [{"accuracies": (0.4, 0.6)}, {"accuracies": (0.7, 0.6), "strengths": (8.0, 127.5)}])
def test_a_symptom_leaves_it_open(symptom):
    run = evidence("pgd", **symptom)
    found = saplab.verdict([run, replace(run, adversary="transfer")])
    assert (outcomes(found)["transfer"], found.masked) == ("passed", None)
    assert "it fails somewhere" in found.sentence or "the attack fails somewhere" in found.sentence


def test_no_word_of_the_command_line():
    runs = (
        [OWN],
        [noise()],
        [evidence("fgsm", (0.6,))],
        [evidence("pgd", (0.5, 0.7), images=20)],
        CLEAN,
        [MASK, IDENTITY],
    )
    assert not [run for run in runs if "--" in repr(saplab.verdict(run))]


# The bound


def halves_of(margin):
    """Evidence whose halves have the label, class 0, lead by `margin` (2, L, N)."""
    return np.stack([0.5 + margin / 2, 0.5 - margin / 2], axis=-1)


def with_halves(rng, label, means, images=300):
    easy = np.array(means)[:, None] + rng.uniform(-0.3, 0.3, images)
    margin = np.clip(easy + rng.normal(0, 0.1, (2, len(means), images)), -1, 1)
    right = margin.mean(axis=0) > 0
    eps = radii(*STRENGTHS[: len(means)])
    return Evidence(label, PGD(), "own", eps, right.astype(float), has_rules=True, halves=halves_of(margin))


def test_bound_is_the_cross_fitted_worst_case():
    rng = np.random.default_rng(1)
    runs = [with_halves(rng, name, means) for name, means in (("a", (0.3, 0.1)), ("b", (0.2, 0.2)))]
    labels = np.zeros(300, int)
    found = saplab.verdict(runs, labels=labels).robust
    expected = worst_case(np.stack([run.halves for run in runs], axis=1), (1, 2), labels)
    assert [bound.accuracy for bound in found] == [mean_interval(row) for row in expected]
    assert [(bound.strength, bound.attack) for bound in found] == [(1, "b"), (2, "a")]


def test_bound_takes_attacks_of_smaller_strengths_along():
    rng = np.random.default_rng(2)
    strong, late = with_halves(rng, "strong", (-0.9,)), with_halves(rng, "late", (0.5, 0.5))
    found = saplab.verdict([strong, late], labels=np.zeros(300, int)).robust
    assert [(bound.strength, bound.accuracy.estimate, bound.attack) for bound in found] == [
        (1, 0.0, "strong"), (2, 0.0, "strong"),
    ]  # fmt: skip


def test_bound_names_an_attack_that_it_is_of():
    """The single attack alone leaves least, but together the two others leave less."""
    right = np.arange(300) < 200
    margin = np.stack([np.where(right, 0.5, -0.5), np.where(right[::-1], 0.5, -0.5)])
    halves = [halves_of(np.stack([m, m])[:, None]) for m in margin]
    pair = [Evidence(f"half {k}", PGD(), "own", radii(1), (m > 0)[None].astype(float), halves=h)
            for k, (m, h) in enumerate(zip(margin, halves, strict=True))]  # fmt: skip
    single = evidence("pgd", (0.5,), images=300, label="single")
    found = saplab.verdict([single, *pair], labels=np.zeros(300, int)).robust
    assert [(bound.accuracy.estimate, bound.attack) for bound in found] == [(pytest.approx(1 / 3), "half 0")]


def judged(own, halves):
    """The verdict on one attack that leaves `own` of four images by all passes, and these margins by half of them."""
    right = np.asarray(own, float)[None]
    margin = np.asarray(halves, float)[:, None]
    one = Evidence("one", PGD(), "own", radii(8), right, has_rules=True, halves=halves_of(margin))
    return saplab.verdict([one], labels=np.zeros(4, int))


def test_a_bound_above_the_attacks_own_number_says_which_passes_judged():
    """One attack: all passes call two of four images right, each half three of them."""
    found = judged([1, 1, 0, 0], [[0.4, 0.4, 0.4, -0.4], [0.4, 0.4, -0.4, 0.4]])
    assert found.headline.accuracy.estimate == 0.75
    assert found.headline.alone == 0.5
    why = ", judged by half of the passes at a time (by all at once, one attack alone leaves 50.0 %)"
    assert f"{found.headline.accuracy.percent()}{why}" in found.sentence
    shown = verdict_text(found)
    assert "(strongest: one, alone 50.0 %)" in shown
    assert "one half of the passes chooses" in " ".join(shown.split())


def test_a_bound_that_is_the_attacks_own_number_says_nothing_of_halves():
    found = judged([1, 1, 1, 0], [[0.4, 0.4, 0.4, -0.4], [0.4, 0.4, -0.4, 0.4]])
    assert found.headline.alone == 0.75
    assert found.headline.less_alone is None
    assert "half" not in found.sentence
    assert "(strongest: one)" in verdict_text(found)


def test_a_bound_never_rises_with_the_radius():
    """Each half finds the attack worst at λ = 8 or 2 that the other half finds harmless."""
    margin = np.array([[[0.1], [0.05]], [[-0.1], [0.3]]])  # by half, radius and image
    one = Evidence("one", PGD(), "own", radii(2, 8), np.ones((2, 1)), halves=halves_of(margin))
    at_8 = Evidence("other", PGD(), "own", radii(8), np.ones((1, 1)), halves=halves_of(margin[:, 1:]))
    alone, both = (saplab.verdict(some, labels=np.zeros(1, int)).robust for some in ([one], [one, at_8]))
    for found in (alone, both):
        assert [bound.accuracy.estimate for bound in found] == [0.5, 0.5]
        assert found[0].accuracy == found[1].accuracy


def test_all_passes_judge_what_is_left_without_an_attack():
    """Half of the passes are wrong on the second image, all together are right."""
    right, margin = np.ones((2, 2)), np.array([[[0.4, 0.4], [0.4, 0.4]], [[0.4, -0.4], [0.4, -0.4]]])
    one = Evidence("one", PGD(), "own", radii(0, 8), right, halves=halves_of(margin))
    found = saplab.verdict([one, one], labels=np.zeros(2, int)).robust
    assert [bound.accuracy.estimate for bound in found] == [1.0, 0.75]
    assert found[0].accuracy == mean_interval(np.ones(2))


def test_bound_without_halves_is_the_strongest_attack_with_a_wider_interval():
    runs = [evidence("pgd", (0.5, 0.45)), evidence("fgsm", (0.6, 0.4))]
    found = saplab.verdict(runs).robust
    chosen = zip((0.5, 0.4), (2, 4), strict=True)  # the least, of so many attacks and radii
    expected = [mean_interval(scores([share])[0], confidence=1 - 0.05 / count) for share, count in chosen]
    assert [bound.accuracy for bound in found] == expected


def test_what_breaks_in_a_smaller_ball_counts_in_a_larger_one_without_halves_too():
    gone, left = np.zeros(60), np.ones(60)
    both = saplab.verdict({"pgd": {2 / 255: gone}, "square": {8 / 255: left}})
    one = saplab.verdict({"pgd": {2 / 255: gone, 8 / 255: left}})
    for found in (both, one):
        assert [bound.accuracy.estimate for bound in found.robust] == [0, 0]
        assert found.headline.strength == 8
        assert found.headline.attack == one.headline.attack
        assert found.fails(50)


@pytest.mark.parametrize("eps", [float(np.float32(8 / 255)), 8 / 255])
def test_a_radius_that_went_through_float32_is_still_the_usual_one(eps):
    found = saplab.verdict({"pgd": {2 / 255: np.ones(20), eps: np.zeros(20)}})
    assert found.headline.eps == eps


def test_what_is_left_in_an_unbounded_ball_of_unknown_classes_tells_nothing_below_half():
    few, most = (check("unbounded", {"pgd": {0.5: np.arange(60) < right}}) for right in (18, 58))
    assert (few.outcome, most.outcome) == ("not run", "failed")
    assert "the number of classes is not known" in few.evidence


@pytest.mark.parametrize("values", [3 * 32 * 32, 3 * 64 * 64, 28 * 28])
def test_the_advised_radius_of_an_unbounded_ball_is_not_below_it(values):
    threat = ThreatModel("l2")
    level = threat.unbounded(values)
    (written,) = Advice("pgd", (level,), threat=threat).radii
    assert level <= float(written) < level * 1.001


def test_strength_of_the_sentence():
    runs = [evidence("pgd", (0.5, 0.4, 0.3), strengths=(1.0, 8.0, 64.0))]
    assert saplab.verdict(runs).headline.strength == 8
    assert saplab.verdict(runs, eps=64 / 255).headline.accuracy.estimate == 0.3
    assert saplab.verdict([evidence("pgd", (0.5, 0.4), strengths=(0.0, 16.0))]).headline.strength == 16
    with pytest.raises(ValueError, match=r"`eps` must be one of the radii that were run, \[0.0039.*\], got 4"):
        saplab.verdict(runs, eps=4)


def test_the_lower_end_decides():
    low = 100 * mean_interval(scores([0.4])[0]).low
    found = saplab.verdict([evidence("pgd", (0.4,))])
    assert (found.fails(low - 0.1), found.fails(low + 0.1)) == (False, True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: saplab.verdict([]), "`defended` must hold at least one"),
        (lambda: saplab.verdict([OWN], [plain("pgd", (0.1,), images=7)]), r"same images, got \[7, 1000\]"),
        (lambda: saplab.verdict([OWN], labels=[0] * 7), r"same images, got \[7, 1000\]"),
        (lambda: saplab.verdict([with_halves(np.random.default_rng(0), "a", (0.1,))]), "`labels` must be given"),
        (lambda: evidence("pgd", (0.1,), adversary="self"), "`adversary` must be one of own, transfer, none, got 's"),
        (lambda: evidence("pgd", (0.1,), adversary="none"), "`adversary` must be own or transfer"),
        (lambda: evidence("pgd", (0.1, 0.2), strengths=(2.0, 1.0)), "`eps` must ascend"),
        (lambda: evidence("pgd", (0.1, 0.2), strengths=(1.0,)), r"`right` must have the shape \(1, N\)"),
        (lambda: Evidence("a", PGD(), "own", (0.1,), np.array([[1.5]])), r"`right` must be in \[0, 1\]"),
        (lambda: evidence("pgd", (0.1,), halves=np.zeros((2, 1, 5, 2))), r"`halves` must have the shape \(2, 1, 1000"),
        (lambda: evidence("pgd", (0.1,), half_cosine=np.full(IMAGES, math.nan)), "`half_cosine` must be"),
        (lambda: evidence("pgd", (0.1,), gradient_norm=np.full(IMAGES, -1.0)), "`gradient_norm` must be"),
    ],
)  # fmt: skip
def test_verdict_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Attackers who go on trying


def test_what_an_attacker_leaves_who_goes_on_trying():
    """Right passes of 20 at two radii; the weaker attack's smaller ball counts for the larger one too."""
    labels, probs = np.zeros(2, int), np.tile([0.9, 0.1], (2, 2, 1))
    eps = (2 / 255, 8 / 255)
    weak = Evidence.of(FGSM(), eps, probs, labels, label="weak", hits=[[20, 12], [20, 20]], passes=20)
    strong = Evidence.of(PGD(), eps, probs, labels, label="strong", hits=[[20, 20], [20, 15]], passes=20)
    (left,) = verdict([strong, weak], labels=labels).persistent
    assert (left.eps, left.tries, left.attack) == (8 / 255, 10, "weak")
    assert left.accuracy.estimate == pytest.approx((1 + 66 / 184756) / 2)  # C(12, 10) / C(20, 10)
    (small,) = verdict([strong], labels=labels, eps=2 / 255).persistent
    assert small.accuracy.estimate == 1
    alike = Evidence.of(PGD(), eps, probs, labels, hits=np.full((2, 2), 18), passes=20)
    (left,) = verdict([alike], labels=labels).persistent
    chance = 43758 / 184756  # C(18, 10) / C(20, 10); 20 passes hold two tries of 10
    assert left.accuracy == mean_interval([left.accuracy.estimate] * 2, 2, confidence=0.975)  # of two radii
    assert left.accuracy.estimate == pytest.approx(chance)
    text = verdict_text(verdict([strong, weak], labels=labels))
    assert "λ = 8: an attacker who may try 10 times leaves 50.0 % [" in text
    assert "100 times" not in text


def test_nothing_is_said_of_tries_that_the_passes_do_not_tell_of():
    labels, probs = np.zeros(2, int), np.tile([0.9, 0.1], (1, 2, 1))
    few = Evidence.of(PGD(), [0.1], probs, labels, hits=[[9, 9]], passes=9)
    assert verdict([few], labels=labels).persistent == ()
    assert verdict([Evidence.of(PGD(), [0.1], probs, labels)], labels=labels).persistent == ()
    with pytest.raises(ValueError, match=r"`hits` must be \(1, 2\) numbers in 0..9"):
        Evidence.of(PGD(), [0.1], probs, labels, hits=[[9, 10]], passes=9)


def flat(share, images=IMAGES):
    """Where a share of the images meets a flat gradient."""
    return (np.arange(images) < share * images).astype(float)


def test_a_flat_gradient_alone_cannot_tell():
    blind = plain("pgd", (0.9, 0.9, 0.9, 0.9), flat=flat(0.8))
    found = saplab.verdict([blind, *[transfer((0.9, 0.9, 0.9, 0.9))], square((0.9, 0.9, 0.9, 0.9))])
    assert outcomes(found)["flat"] == "failed"
    assert found.masked is None
    assert "the gradient is flat" in found.sentence
    assert "no gradient for 80.0 %" in check("flat", [blind]).evidence
    seeing = plain("pgd", (0.9, 0.9, 0.9, 0.9), flat=flat(0.0))
    assert check("flat", [seeing]).outcome == "passed"
    assert saplab.verdict([seeing, square((0.9, 0.9, 0.9, 0.9))]).masked is not None


def test_images_that_were_wrong_are_not_flat():
    known = np.where(np.arange(IMAGES) < 0.9 * IMAGES, np.nan, 0.0)
    assert check("flat", [plain("pgd", (0.1,), flat=known)]).outcome == "passed"
    known[-IMAGES // 20 :] = 1
    assert check("flat", [plain("pgd", (0.1,), flat=known)]).outcome == "failed"


def test_relaxed_backward_that_beats_the_plain_gradient_shows_a_masked_one():
    blind = plain("pgd", (0.9, 0.9, 0.9, 0.9), flat=flat(0.8))
    smooth = evidence("pgd", (0.3, 0.2, 0.1, 0.0), backward="relaxed", samples=1, flat=flat(0.0))
    found = saplab.verdict([blind, smooth])
    assert (outcomes(found)["relaxed"], found.masked) == ("failed", True)
    assert "90.0 % under PGD is due to a masked gradient" in found.sentence
    equal = evidence("pgd", (0.9, 0.9, 0.9, 0.9), backward="relaxed", samples=1, flat=flat(0.0))
    cleared = saplab.verdict([blind, equal, square((0.9, 0.9, 0.9, 0.9))])
    assert (outcomes(cleared)["relaxed"], outcomes(cleared)["flat"]) == ("passed", "failed")
    unseeing = evidence("pgd", (0.9, 0.9, 0.9, 0.9), backward="relaxed", samples=1, flat=flat(0.5))
    assert outcomes(saplab.verdict([blind, unseeing]))["relaxed"] == "not run"


def test_another_loss_shows_what_a_flat_cross_entropy_hides():
    dlr = plain("apgd", (0.3, 0.2, 0.1, 0.0), loss="dlr", steps=20)
    ce = {share: plain("apgd", (0.9, 0.9, 0.9, 0.9), steps=20, flat=flat(share)) for share in (0.0, 0.9)}
    found = saplab.verdict([ce[0.9], dlr])
    assert (outcomes(found)["loss"], found.masked) == ("failed", True)
    assert "90.0 % under APGD is due to a masked gradient" in found.sentence
    assert saplab.verdict([ce[0.0], dlr]).masked is None
    longer = plain("apgd", (0.3, 0.2, 0.1, 0.0), loss="dlr", steps=40)
    assert outcomes(saplab.verdict([ce[0.9], longer]))["loss"] == "not run"


def test_lengths_of_gradients_are_compared_for_one_loss():
    short, long = np.full(100, 0.5), np.full(100, 10.0)
    own = evidence("fgsm", (0.5, 0.4), images=100, gradient_norm=short)
    same = evidence("fgsm", (0.5, 0.4), images=100, gradient_norm=short, backward="")
    dlr = evidence("fgsm", (0.5, 0.4), images=100, gradient_norm=long, backward="", loss="dlr")
    for dense in ([same, dlr], [dlr, same]):
        assert check("norm", [own], dense).outcome == "passed"
    assert check("norm", [own], [dlr]).outcome == "not run"


def test_a_masked_gradient_fails_whatever_its_bound():
    found = saplab.verdict([evidence("pgd", (0.9, 0.9)), transfer((0.7, 0.7), "pgd")])
    assert (found.masked, found.fails(0.0), found.fails(50.0)) == (True, True, True)
    assert not replace(found, masked=False).fails(50.0)


@pytest.mark.parametrize(("left", "masked"), [(0.22, False), (0.19, True)])
def test_a_difference_of_a_fifth_counts_however_few_points_it_is(left, masked):
    """Of 25 % that the own gradient leaves, a black box takes 3 points or 6."""
    runs = [evidence("pgd", (0.25,), images=100_000), square((left,), images=100_000)]
    assert (verdict(runs).masked is True) == masked


@pytest.mark.parametrize(("right", "asks"), [(15, True), (25, False)])
def test_labels_are_asked_about_where_accuracy_may_be_chance(right, asks):
    """15 of 100 at ten classes may be 9 %."""
    runs = [evidence("pgd", (right / 100, 0.0), strengths=(0.0, 8.0), images=100, classes=10)]
    assert ("do the labels belong to these images?" in verdict(runs).meaning) == asks


@pytest.mark.parametrize(
    ("random", "average", "left", "masked"),
    [
        (True, "loss", 0.84, None), (True, "loss", 0.6, True), (True, "probabilities", 0.84, True),
        (False, "loss", 0.84, True), (True, "logits", 0.84, None),
    ],
)  # fmt: skip
def test_attacks_on_the_mean_tell_where_others_get_a_little_further(random, average, left, masked):
    """The own attack climbs the mean loss of single passes, the judge takes the mean of their probabilities."""
    own = evidence("pgd", (0.91,), attack=PGD(MonteCarlo(10, average=average)), random=random)
    found = saplab.verdict([own, transfer((left,), "pgd", steps=20, random=random)])
    assert (found.masked, outcomes(found)["transfer"]) == (masked, "failed")
    assert ("average=probabilities" in found.sentence) == (masked is None)


@pytest.mark.parametrize(("steps", "outcome"), [(1, "not run"), (3, "not run"), (9, "not run"), (10, "failed")])
def test_a_black_box_of_many_queries_is_no_match_for_a_few_steps(steps, outcome):
    runs = [evidence("pgd", (0.6,), steps=steps), square((0.4,))]
    found = check("black-box", runs)
    assert found.outcome == outcome
    more = f",steps={5 * steps}" if 5 * steps > 20 else ""  # 20 are the usual
    assert outcome == "failed" or found.how.attack == f"pgd:samples=10{more}"


def test_the_loss_that_is_advised_can_be_computed():
    """The difference of logits ratio needs a third class."""
    runs = {classes: [evidence("pgd", (0.9, 0.6), strengths=(0.0, 8.0), classes=classes)] for classes in (2, 10)}
    assert [check("loss", runs[classes]).how.attack for classes in (2, 10)] == [
        "pgd:samples=10,loss=margin", "pgd:samples=10,loss=dlr"
    ]  # fmt: skip


@pytest.mark.parametrize(("right", "images", "asks"), [(3, 3, False), (8, 8, False), (4, 8, True)])
def test_a_few_images_that_are_right_ask_nothing_of_their_labels(right, images, asks):
    """Three of three at two classes may be luck, and may be right."""
    runs = [evidence("pgd", (right / images, 0.0), strengths=(0.0, 8.0), images=images, classes=2)]
    assert ("do the labels belong to these images?" in saplab.verdict(runs).meaning) == asks


def test_no_attack_is_no_robustness_whatever_the_accuracy():
    found = saplab.verdict([evidence("pgd", (1.0,), strengths=(0.0,))])
    assert found.fails(0.0)
