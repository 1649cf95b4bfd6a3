import copy
import io
import logging
import pickle
import random
import types
import warnings

import numpy as np
import pytest
import random_networks as nets
import torch
from torch import nn

import saplab
from saplab.defenses import defend, is_random, shares_draws
from saplab.defenses.drawing import drawing
from saplab.defenses.generators import _is_of_user
from saplab.defenses.rehearsal import observe
from saplab.models.initialise import initialise
from saplab.rng.streams import pass_streams, stream_key
from saplab.runs.networks import rehearsed

IMAGES = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(3))
OWN = [
    nets.InputNoise, nets.OwnGenerator, nets.Dropped, nets.Transposed, nets.Doubled, nets.Distributed, nets.NumPyNoise,
    nets.NumPyGenerator, nets.ProjectedNoise,
]  # fmt: skip
OF_A_PASS = [nets.PixelNoise, nets.Either, nets.Listed, nets.Mapped, nets.InTuple, nets.InObject]
SEEDED = [
    nets.Projected, nets.SeededForAll, nets.SeededNumPy, nets.SeededNumPyGenerator, nets.SeededPython,
    nets.SeededByContents,
]  # fmt: skip
PLACED = [nets.SeededForEachPlace, nets.SeededNumPyForEachPlace, nets.ByTheirNumber]
MANY = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(4))


def passed(net, key=5, pass_=0, examples=None, images=IMAGES):
    examples = torch.arange(len(images)) if examples is None else examples
    with torch.no_grad(), drawing(pass_streams(key, pass_, examples)):
        return net(images)


@pytest.mark.parametrize(("kind", "grain"), [
    (nets.Net, None), (nets.InputNoise, "example"), (nets.OwnGenerator, "example"), (nets.Dropped, "example"),
    (nets.Transposed, "example"), (nets.Doubled, "example"), (nets.Distributed, "example"),
    (nets.PixelNoise, "pass"), (nets.Either, "pass"), (nets.NumPyNoise, "pass"), (nets.NumPyGenerator, "pass"),
    (nets.Shuffled, "batch"), (nets.Hardware, "unkeyed"), (nets.InChunks, "batch"), (nets.OnDarkImages, "batch"),
    (nets.ProjectedNoise, "example"), (nets.Listed, "pass"), (nets.Mapped, "pass"), (nets.InTuple, "pass"),
    (nets.InObject, "pass"), (nets.ListedForExamples, "pass"),
])  # fmt: skip
def test_the_rehearsal_finds_whose_the_draws_are(kind, grain):
    own = observe(kind().eval(), MANY).randomness
    assert (own and own.grain) == grain


@pytest.mark.parametrize("kind", [*OWN, *OF_A_PASS])
def test_the_same_key_gives_the_same_bits_and_other_passes_others(kind):
    net = saplab.Stochastic(kind().eval(), example=IMAGES)
    assert torch.equal(passed(net), passed(net))
    assert not torch.equal(passed(net), passed(net, pass_=1))
    assert not torch.equal(passed(net), passed(net, key=6))


@pytest.mark.parametrize("kind", OWN)
def test_an_example_has_its_own_draws_in_any_batch_and_order(kind):
    net, whole = saplab.Stochastic(kind().eval(), example=IMAGES), torch.arange(8)
    order = torch.tensor([5, 2, 7, 0])
    some = passed(net, examples=whole[order], images=IMAGES[order])
    assert torch.allclose(some, passed(net)[order], atol=1e-6)
    alone = passed(net, examples=whole[3:4], images=IMAGES[3:4])
    assert torch.allclose(alone[0], passed(net)[3], atol=1e-6)
    twice = passed(net, images=IMAGES[:1].expand(8, 3, 4, 4))  # one image eight times, as eight examples
    assert len(twice.unique(dim=0)) > 5


@pytest.mark.parametrize("kind", OF_A_PASS)
def test_a_draw_of_a_pass_is_the_same_for_every_part_of_it(kind):
    net, whole = saplab.Stochastic(kind().eval(), example=IMAGES), torch.arange(8)
    assert shares_draws(net)
    for pass_ in range(4):
        parts = [
            passed(net, pass_=pass_, examples=e, images=x) for e, x in zip(whole.split(3), IMAGES.split(3), strict=True)
        ]
        assert torch.allclose(torch.cat(parts), passed(net, pass_=pass_), atol=1e-6)


def test_one_pattern_of_noise_serves_all_images_of_a_pass():
    net = saplab.Stochastic(nets.PixelNoise().eval(), example=IMAGES)
    same = passed(net, images=IMAGES[:1].expand(8, 3, 4, 4))
    assert torch.allclose(same, same[:1].expand_as(same), atol=1e-6)


@pytest.mark.parametrize("kind", [*SEEDED, *PLACED])
def test_what_a_network_seeds_itself_in_every_pass_is_no_randomness(kind):
    net, labels = kind().eval(), torch.zeros(40, dtype=torch.int64)
    with torch.no_grad(), torch.random.fork_rng():
        alone = torch.cat([net(image[None]) for image in MANY]).softmax(1)
    assert not is_random(saplab.Stochastic(net, example=MANY))
    probs = [
        saplab.predict(net, MANY, passes=3, seed=seed, batch_size=size) for seed, size in ((0, 40), (1, 40), (0, 7))
    ]
    for found in probs:
        torch.testing.assert_close(found, alone)
    x = saplab.FGSM()(net, MANY, labels, 0.1)
    assert torch.equal(x, saplab.FGSM()(net, MANY, labels, 0.1, seed=1))


@pytest.mark.parametrize("kind", PLACED)
def test_a_network_that_knows_places_runs_on_one_image_at_a_time_without_defences(kind, caplog):
    with caplog.at_level(logging.WARNING, "saplab"):
        saplab.predict(kind().eval(), MANY)
    assert "on one image at a time" in caplog.text

    class Relu(kind):
        def after(self, z):
            return z.relu()

    sap = defend(Relu().eval(), saplab.SAP(50))
    with pytest.raises(ValueError, match="depends on its place in the batch"):
        saplab.predict(sap, MANY)
    with pytest.raises(ValueError, match="depends on its place in the batch"):
        saplab.evaluate(sap, MANY, torch.zeros(40, dtype=torch.int64), "fgsm", 0.1, progress=False)


def test_a_seeded_pattern_stays_beside_noise_that_is_keyed():
    class Still(nets.ProjectedNoise):
        def before(self, x):
            return nets.Projected.before(self, x) + 0.0 * torch.randn_like(x)

    net = saplab.Stochastic(Still().eval(), example=MANY)
    torch.manual_seed(4)  # the state that the network seeds: an outer generator there is not the network's choice
    with torch.no_grad():
        torch.testing.assert_close(passed(net, images=MANY), nets.Projected().eval()(MANY))
    noisy = saplab.Stochastic(nets.ProjectedNoise().eval(), example=MANY)
    torch.manual_seed(4)
    first = passed(noisy)
    torch.manual_seed(5)
    assert torch.equal(first, passed(noisy))
    assert not torch.equal(first, passed(noisy, pass_=1))


def test_noise_before_the_network_seeds_is_noise_whatever_the_user_has_seeded():
    class Late(nets.Net):
        def before(self, x):
            noisy = x + torch.randn_like(x)
            torch.manual_seed(4)
            return noisy + torch.randn(x.shape[1:])

    net = Late().eval()
    torch.manual_seed(4)
    probs = [saplab.predict(net, MANY, passes=1, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(probs[0], probs[1])
    assert not torch.allclose(probs[0], probs[2])


@pytest.mark.parametrize("kind", [nets.InChunks, nets.OnDarkImages])
def test_draws_by_a_place_are_never_stacked_and_come_again(kind):
    net = saplab.Stochastic(kind().eval(), example=MANY)
    assert shares_draws(net)
    assert torch.equal(saplab.predict(net, MANY, passes=3), saplab.predict(net, MANY, passes=3))


def test_draws_of_an_example_that_come_otherwise_later_are_an_error():
    net = saplab.Stochastic(nets.OnDarkImages().eval(), example=0.1 * MANY)  # all dark: each draws
    with pytest.raises(ValueError, match="drew random numbers, though not on the images"):
        saplab.predict(net, MANY, passes=2)


def test_statistics_of_a_batch_are_found_where_only_large_ones_have_them():
    net = nets.ByManyImages().eval()
    assert saplab.predict(net, MANY[:8]).shape == (8, 5)
    with pytest.raises(ValueError, match="depends on the rest of its batch"):
        saplab.predict(net, MANY)
    with pytest.raises(ValueError, match="depends on the rest of its batch"):
        saplab.evaluate(net, MANY, torch.zeros(40, dtype=torch.int64), "fgsm", 0.1, progress=False)


@pytest.mark.parametrize("noisy", [False, True])
def test_a_few_images_that_rounding_decides_are_no_dependence_on_the_batch(noisy):
    class Noisy(nets.Signs, nets.InputNoise if noisy else nets.Net):
        pass

    own = observe(Noisy().eval(), MANY).randomness
    assert (own and own.grain) == ("example" if noisy else None)


@pytest.mark.parametrize("kind", [*OWN, *OF_A_PASS, *SEEDED, *PLACED, nets.Shuffled])
def test_generators_of_others_are_left_as_they_were(kind):
    net = saplab.Stochastic(kind().eval())
    states = [torch.get_rng_state(), str(random.getstate()), repr(np.random.mtrand._rand.get_state())]
    saplab.predict(net, IMAGES, passes=3)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == [str(random.getstate()), repr(np.random.mtrand._rand.get_state())]


@pytest.mark.parametrize("kind", OWN)
def test_predictions_and_attacks_stack_passes_without_changing_their_draws(kind):
    net, labels = saplab.Stochastic(kind().eval(), example=IMAGES), torch.zeros(8, dtype=torch.int64)
    a = saplab.predict(net, IMAGES, passes=6, seed=2)
    assert torch.allclose(a, saplab.predict(net, IMAGES, passes=6, seed=2, batch_size=3), atol=1e-6)
    gradient = saplab.MonteCarlo(samples=4)
    stacked, single = (
        gradient.estimate(saplab.Problem.of(net, IMAGES, labels, batch_size=size)).gradient for size in (None, 8)
    )
    assert torch.allclose(stacked, single, atol=1e-6)


def test_a_random_network_is_wrapped_by_predict_and_attacks_which_say_so(caplog):
    net, labels = nets.InputNoise().eval(), torch.zeros(8, dtype=torch.int64)
    with caplog.at_level(logging.WARNING, "saplab"):
        first = saplab.predict(net, IMAGES, passes=5, seed=1)
        again = saplab.predict(net, IMAGES, passes=5, seed=1)
        x = saplab.PGD(saplab.MonteCarlo(samples=3), steps=2)(net, IMAGES, labels, 0.1, seed=1)
    assert torch.equal(first, again)
    assert torch.equal(first, saplab.predict(saplab.Stochastic(net), IMAGES, passes=5, seed=1))
    assert torch.equal(x, saplab.PGD(saplab.MonteCarlo(samples=3), steps=2)(net, IMAGES, labels, 0.1, seed=1))
    assert [record.message[:33] for record in caplog.records] == ["The network is random by itself; "]


def test_the_average_over_passes_is_that_of_the_bare_network():
    net = nets.InputNoise().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        bare = torch.stack([net(IMAGES).softmax(1) for _ in range(3000)])
    wrapped = saplab.predict(net, IMAGES, passes=3000, seed=0)
    error = bare.std(0) * (2 / 3000) ** 0.5
    assert ((wrapped - bare.mean(0)).abs() < 4.5 * error).all()  # 4.5 standard errors, 40 numbers


def test_a_stochastic_network_is_of_its_own_class_and_shares_its_parameters():
    net = nets.InputNoise().eval()
    mine = saplab.Stochastic(net)
    assert isinstance(mine, nets.InputNoise)
    assert mine.state_dict().keys() == net.state_dict().keys()
    assert mine.linear.weight is net.linear.weight
    assert not hasattr(net, "_saplab_key")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), lambda net: saved(net)])
def test_a_stochastic_network_can_be_copied_and_saved(copied):
    net = saplab.Stochastic(nets.InputNoise().eval(), example=IMAGES)
    assert torch.equal(passed(copied(net)), passed(net))


def saved(net):
    torch.save(net, file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_direct_calls_are_fresh_passes_from_a_seed():
    net = nets.InputNoise().eval()
    one, other = saplab.Stochastic(net, seed=4), saplab.Stochastic(net, seed=4)
    first, second = one(IMAGES), one(IMAGES)
    assert not torch.equal(first, second)
    assert torch.equal(first, other(IMAGES))
    assert not torch.equal(first, saplab.Stochastic(net, seed=5)(IMAGES))


def test_threads_give_the_same_draws():
    net = saplab.Stochastic(nets.InputNoise().eval(), example=IMAGES)
    one = saplab.predict(net, IMAGES, passes=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.allclose(saplab.predict(net, IMAGES, passes=3), one, atol=1e-6)
    finally:
        torch.set_num_threads(threads)


def test_draws_by_place_in_the_batch_are_the_same_with_any_number_of_threads():
    class Backwards(nets.Net):
        """Draws a row for each image, and gives the last image the first."""

        def before(self, x):
            return x + torch.randn_like(x).flip(0)

    net = saplab.Stochastic(Backwards().eval(), example=IMAGES)
    assert net._saplab_randomness.grain == "batch"
    one, threads = saplab.predict(net, IMAGES, passes=3), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(saplab.predict(net, IMAGES, passes=3), one)
    finally:
        torch.set_num_threads(threads)


def test_saplabs_defences_go_on_top_of_a_networks_own_randomness():
    class Relu(nets.InputNoise):
        def after(self, z):
            return z.relu()

    sap = defend(saplab.Stochastic(Relu().eval(), example=IMAGES), saplab.SAP(50), seed=0)
    assert is_random(sap)
    assert torch.equal(passed(sap), passed(sap))
    plain = saplab.undefended(sap)
    assert torch.equal(passed(plain), passed(saplab.Stochastic(Relu().eval(), example=IMAGES)))


def test_layers_left_random_stay_random_and_the_mode_is_the_authors():
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Dropout(0.5)).eval()
    net[2].train()
    assert observe(net, IMAGES).randomness.grain == "example"
    assert observe(nn.Sequential(*net).eval(), IMAGES).randomness is None
    net[2].train()
    probs = [saplab.predict(net, IMAGES, passes=1, seed=s) for s in (0, 1)]
    assert not torch.equal(*probs)
    assert net[2].training


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(5), nn.BatchNorm1d(5, track_running_stats=False).eval()])
def test_a_network_whose_examples_depend_on_their_batch_is_refused(norm):
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), norm)
    before = copy.deepcopy(net.state_dict())
    for call in (lambda: saplab.predict(net, IMAGES), lambda: saplab.FGSM()(net, IMAGES, torch.zeros(8).long(), 0.1)):
        with pytest.raises(ValueError, match=r"depends on the rest of its batch.*\.eval\(\)"):
            call()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())  # nothing was counted


def test_a_network_that_others_images_change_is_refused_though_fewer_do_not():
    class Least(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :5] - x.amin()

    images = 0.5 + IMAGES / 2
    images[0] = 0.95  # not the least, unless it is darkened
    with pytest.raises(ValueError, match="depends on the rest of its batch"):
        saplab.predict(Least().eval(), images)


def test_probabilities_are_taken_as_what_they_are():
    logits = nets.Net().eval()
    probabilities = nn.Sequential(logits, nn.Softmax(1)).eval()
    assert observe(probabilities, IMAGES).probabilities
    assert not observe(logits, IMAGES).probabilities
    assert torch.allclose(saplab.predict(probabilities, IMAGES), saplab.predict(logits, IMAGES), atol=1e-6)


def test_probabilities_of_a_wrapped_network_are_taken_as_what_they_are_too():
    class Votes(nets.Net):
        def forward(self, x):
            certain = torch.rand(len(x), 1) < 0.45
            return torch.where(certain, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.82, 0.18])) + 0 * x.sum()

    net = Votes().eval()
    wrapped = saplab.Stochastic(net)
    for given in (wrapped, saplab.Stochastic(net, example=IMAGES)):
        found = saplab.predict(given, IMAGES, passes=400)
        assert torch.allclose(found.sum(1), torch.ones(len(IMAGES)))
        assert torch.allclose(found.mean(0), torch.tensor([0.45, 0.451, 0.099]), atol=0.05)
        network, runs, *_ = rehearsed(given, IMAGES)
        assert network.outputs == "probabilities"
        assert torch.equal(saplab.predict(runs, IMAGES, passes=400), found)
    assert float(wrapped(IMAGES).max()) <= 1  # a direct call returns what the network does


def test_a_network_that_draws_where_the_rehearsal_did_not_see_it_is_refused():
    class Sometimes(nets.Net):
        def before(self, x):
            return x + torch.randn_like(x) if len(x) > 5 else x

    with pytest.raises(ValueError, match=r"saplab\.Stochastic\(model, example=images\)"):
        saplab.predict(Sometimes().eval(), IMAGES)


def test_a_defence_that_draws_from_pytorch_is_refused_with_advice():
    class Careless(saplab.Defense):
        def input(self, x, draw):
            return x + torch.randn_like(x)

    with pytest.raises(ValueError, match=r"Careless\.input draws from a generator of its own.*draw\.normal"):
        saplab.predict(defend(nets.Net().eval(), Careless()), IMAGES)


def test_an_operator_without_a_keyed_form_is_named():
    with torch.library._scoped_library("saplab_test", "DEF") as library:
        library.define("noise(Tensor x) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
        library.impl("noise", lambda x: x + torch.randn(x.shape), "CompositeExplicitAutograd")

        class Foreign(nets.Net):
            def before(self, x):
                return torch.ops.saplab_test.noise(x)

        with pytest.raises(ValueError, match="saplab_test::noise has no keyed form"):
            saplab.predict(Foreign().eval(), IMAGES)


def test_wrong_use_is_refused():
    with pytest.raises(TypeError, match=r"must be an nn\.Module, got function"):
        saplab.Stochastic(lambda x: x)
    with pytest.raises(ValueError, match="already"):
        saplab.Stochastic(saplab.Stochastic(nets.InputNoise()))
    with pytest.raises(ValueError, match=r"cannot take torch\.float32 images of shape \(3, 5, 5\)"):
        saplab.predict(nets.Net().eval(), torch.rand(2, 3, 5, 5))
    with pytest.raises(ValueError, match=r"must be of float32 or float64, got torch\.float16"):
        saplab.predict(nets.Net().half().eval(), IMAGES)


def test_what_cannot_be_seeded_is_run_pass_by_pass_and_never_stacked():
    net = saplab.Stochastic(nets.Hardware().eval(), example=IMAGES)
    assert is_random(net)
    assert shares_draws(net)
    probs = saplab.predict(net, IMAGES, passes=4)
    assert torch.isfinite(probs).all()


@pytest.mark.parametrize("kind", [nets.InputNoise, nets.PixelNoise, nets.Either, nets.NumPyNoise])
def test_a_frozen_draw_is_the_same_in_every_pass_and_for_every_example(kind):
    from saplab.defenses.stochastic import frozen

    net = frozen(saplab.Stochastic(kind().eval(), example=IMAGES))
    assert not is_random(net)
    same = passed(net, images=IMAGES[:1].expand(8, 3, 4, 4))
    assert torch.allclose(same, same[:1].expand_as(same), atol=1e-6)
    assert torch.equal(passed(net), passed(net, pass_=9, key=1))
    assert not torch.allclose(passed(net), passed(nets.Net().eval()), atol=1e-3)


@pytest.mark.parametrize("kind", [*OWN, *OF_A_PASS, nets.Shuffled, nets.InChunks])
def test_the_whole_battery_attacks_every_kind_of_randomness(kind):
    """Also from the network's frozen draw, which no attack of its own needs."""
    labels = torch.arange(8) % 3
    found = saplab.evaluate(kind().eval(), IMAGES, labels, "standard", 0.05, passes=2, samples=1, progress=False)
    assert {"transfer"} <= {row["curve"].split()[1] for row in found.rows}


def test_compiled_networks_draw_the_same_keys():
    net = saplab.Stochastic(nets.InputNoise().eval(), example=IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(net, backend="eager")
        streams = pass_streams(stream_key(0), 0, torch.arange(8))
        with torch.no_grad(), drawing(streams):
            assert torch.equal(compiled(IMAGES), net(IMAGES))


@pytest.mark.parametrize(("name", "of_user"), [("torchnets", True), ("numpy_noise", True), ("torch.nn", False)])
def test_a_users_file_may_be_named_like_a_library(name: str, of_user: bool) -> None:
    assert _is_of_user(types.ModuleType(name)) is of_user


@pytest.mark.parametrize("ready", [lambda net: net, saplab.Stochastic], ids=["bare", "stochastic"])
def test_a_random_network_behind_a_defence_that_is_not_stays_random(ready):
    class Noisy(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.linear, self.shape = initialise(nn.Linear(192, 4), 0), shape

        def forward(self, x):
            noise = torch.randn_like(x) if self.shape else torch.randn(x.shape[1:])
            return self.linear((x + 0.1 * noise).flatten(1))

    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for own, defense in ((True, saplab.BitDepth(4)), (False, saplab.BitDepth(4)), (False, saplab.GaussianNoise(0.01))):
        net = saplab.defend(ready(Noisy(own).eval()), defense)
        one, other = (saplab.predict(net, x, 3, seed=seed) for seed in (0, 1))
        assert not torch.equal(one, other)
        assert torch.equal(one, saplab.predict(net, x, 3, seed=0))
        found = saplab.evaluate(net, x, one.argmax(1), "pgd:steps=2", 8 / 255, passes=4, samples=2, progress=False)
        assert found.verdict is not None
