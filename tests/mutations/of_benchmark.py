"""Faults of the benchmark."""

from mutations import Fault

BOARD, CHECK, FOUND, PROOF, RUN = (f"benchmark/{name}.py" for name in ("board", "check", "found", "proof", "run"))
COMMAND, CARDS, LEADERBOARD, SENT = (
    f"benchmark/test_{name}.py" for name in ("benchmark_command", "cards", "leaderboard", "plausible")
)
PLAUSIBLE = "benchmark/plausible.py"

FAULTS = [
    Fault(
        "clean images count as attacked",
        FOUND,
        "if 0 < row.eps <= bound.eps]",
        "if row.eps <= 0]",
        f"{COMMAND}::test_every_number_is_one_of_saplabs_own_evaluation",
    ),
    Fault(
        "the strongest single attack in place of the worst on each image",
        FOUND,
        "bound.eps, bound.accuracy, bound.attack)",
        "bound.eps, rows[0].averaged, bound.attack)",
        f"{COMMAND}::test_every_number_is_one_of_saplabs_own_evaluation",
    ),
    Fault(
        "a card counts the undefended network's passes",
        RUN,
        "baseline=False",
        "baseline=True",
        f"{COMMAND}::test_every_number_is_one_of_saplabs_own_evaluation",
    ),
    Fault(
        "another seed than the protocol's",
        RUN,
        "passes=tier.passes, seed=seed,",
        "passes=tier.passes, seed=seed + 1,",
        f"{COMMAND}::test_every_number_is_one_of_saplabs_own_evaluation",
    ),
    Fault(
        "certificates of whatever lies there",
        PROOF,
        "return found if found.key ==",
        "return found if True or found.key ==",
        f"{COMMAND}::test_a_certificate_of_another_network_or_a_torn_one_is_made_anew",
    ),
    Fault(
        "machines of one kind may differ",
        CHECK,
        "allowed = 0.0 if same else",
        "allowed = 4.0 if same else",
        f"{CARDS}::test_machines_of_one_kind_must_agree_exactly",
    ),
    Fault(
        "a verdict that turns is no difference",
        CHECK,
        "    differences += () if same else _opposites(stored, found)\n",
        "",
        f"{CARDS}::test_other_machines_may_differ_by_the_tolerances",
    ),
    Fault(
        "claims may be forged",
        CHECK,
        """if not set(path) & _MEASURED or path[0] in ("claim", "network", "data"):""",
        """if path[0] in ("network", "data"):""",
        f"{CARDS}::test_what_a_computation_does_not_change_must_be_the_same_on_any_machine",
    ),
    Fault(
        "intervals may be forged",
        CHECK,
        "return 2 * points if path[-1] in _ENDS else points",
        "return 100.0 if path[-1] in _ENDS else points",
        f"{CARDS}::test_what_a_computation_does_not_change_must_be_the_same_on_any_machine",
    ),
    Fault(
        "noise that says more than it is gets a certificate",
        "benchmark/proof.py",
        "type(acting[0]) is GaussianNoise",
        "isinstance(acting[0], GaussianNoise)",
        "benchmark/test_protocol.py::test_all_entries_share_the_images_and_certificates_the_noise",
    ),
    Fault(
        "cards of other batteries are ranked",
        BOARD,
        "if is_current(card)]",
        "]",
        f"{LEADERBOARD}::test_cards_of_another_protocol_or_battery_stay_away",
    ),
    Fault(
        "a card of a tier without one is compared with itself",
        BOARD,
        "own = (entry.network, network_digest(undefended(entry.build())), defense)",
        "own = (entry.network, card.network.digest, defense)",
        f"{LEADERBOARD}::test_the_package_s_weights_decide_where_it_has_no_card_of_an_entry",
    ),
    Fault(
        "images of any data set make a card",
        PLAUSIBLE,
        "    if card.data not in known:",
        "    if card.data.images not in [one.images for one in known]:",
        f"{SENT}::test_numbers_that_no_run_writes_are_refused",
    ),
    Fault(
        "more may be left than attacks leave",
        PLAUSIBLE,
        "if left.worst.low > min(one.averaged.high for one in (clean, *found)):",
        "if left.worst.low > 100:",
        f"{SENT}::test_numbers_that_no_run_writes_are_refused",
    ),
    Fault(
        "a verdict need not follow from its checks",
        PLAUSIBLE,
        "if threat.masked not in possible_answers(outcomes):",
        "if threat.masked not in (True, False, None):",
        f"{SENT}::test_numbers_that_no_run_writes_are_refused",
    ),
    Fault(
        "certificates of few passes are as good",
        PLAUSIBLE,
        "if (proof.n0, proof.n, proof.alpha) != (tier.n0, tier.n, PROTOCOL.alpha):",
        "if proof.n0 != tier.n0:",
        f"{SENT}::test_certificates_are_of_the_tier_and_of_the_noise",
    ),
    Fault(
        "certificates need no votes",
        PROOF,
        "return (predictions, radii, votes) if ((radii > 0) == sure).all() else None",
        "return predictions, radii, votes",
        f"{COMMAND}::test_a_certificate_that_its_votes_do_not_bear_is_made_anew",
    ),
    Fault(
        "a function may return another network each time",
        RUN,
        "            if first != again:\n",
        "            if first == '':\n",
        f"{COMMAND}::test_mistakes_are_one_line",
    ),
    Fault(
        "a claim stands beside another ball",
        BOARD,
        "left = card.left(claim.norm, claim.eps)",
        "left = card.left(*PROTOCOL.second)",
        f"{LEADERBOARD}::test_claims_stand_beside_what_was_found_in_the_same_ball",
    ),
    Fault(
        "an attack that draws once draws anew",
        "attacks/gradient.py",
        "block * self.samples if self.redraw else 0",
        "block * self.samples",
        "attacks/test_gradient.py::test_each_step_sees_fresh_passes_unless_one_draw_serves_a_whole_attack",
    ),
    Fault(
        "each place of a pass has a width of its own",
        "defenses/precision.py",
        "bits = draw.everywhere.randint",
        "bits = draw.per_pass.randint",
        "defenses/test_features_and_precision.py::test_a_pass_has_one_width_and_all_are_as_likely",
    ),
    Fault(
        "weights are rounded by one range for all filters",
        "defenses/precision.py",
        "rows: Any = x.detach().reshape(len(x), math.prod(x.shape[1:])).float()",
        "rows: Any = x.detach().flatten().expand(len(x), -1).float()",
        "defenses/test_features_and_precision.py::test_weights_are_rounded_filter_by_filter",
    ),
    Fault(
        "Laplace noise has one tail",
        "defenses/features.py",
        "return -centred.sign() *",
        "return -",
        "defenses/test_features_and_precision.py::test_noise_on_features_has_its_law",
    ),
]
