"""Networks whose randomness a rehearsal on a few images does not see, or whose inside cannot be seen."""

import random
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import random_networks as nets
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saplab
from saplab.models.initialise import initialise
from saplab.runs.networks import rehearsed

IMAGES = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(3))
IMAGES[-1] = 0.9  # the only bright one
LABELS = torch.zeros(8, dtype=torch.int64)
QUICK = {"attacks": "fgsm", "eps": 0.1, "passes": 2, "samples": 2, "progress": False}


class OnBrightImages(nets.Net):
    """Draws only where it meets a bright image, from a generator that `noise` names."""

    def before(self, x):
        return x + self.noise(x.shape) if (x.mean((1, 2, 3)) > 0.8).any() else x


class ByTorch(OnBrightImages):
    def noise(self, shape):
        return torch.randn(shape)


class ByNumPy(OnBrightImages):
    def noise(self, shape):
        return torch.from_numpy(np.random.normal(size=tuple(shape))).float()  # noqa: NPY002 - what people do


class ByItsOwn(OnBrightImages):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)

    def noise(self, shape):
        return torch.randn(shape, generator=self.generator)


@pytest.mark.parametrize("kind", [ByTorch, ByNumPy, ByItsOwn])
@pytest.mark.parametrize("call", [
    saplab.predict,
    lambda net, x: saplab.FGSM()(net, x, LABELS, 0.1),
    lambda net, x: saplab.MonteCarlo(2).score(saplab.Problem.of(net, x, LABELS)),
])  # fmt: skip
def test_draws_that_the_rehearsal_did_not_meet_are_an_error(kind, call):
    with pytest.raises(ValueError, match="drew random numbers, though not on the images on which it was found"):
        call(kind().eval(), IMAGES)


class Kept(nets.Net):
    """Draws once, for all shapes or for each, and repeats what it drew; or afresh, once it is told to."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.drawn, self.afresh = kind, {}, False

    def before(self, x):
        shape = tuple(x.shape) if self.kind == "by shape" else ()
        if self.afresh or shape not in self.drawn:
            noise = random.random() if self.kind == "Python" else torch.rand(x.shape if shape else (1,))
            self.drawn[shape] = noise if self.kind == "Python" else noise.detach()
        return x + self.drawn[shape]


REPEATS = "drew random numbers in one pass and none in the next one over as many images"


@pytest.mark.parametrize("kind", ["Python", "PyTorch", "by shape"])
def test_what_draws_once_and_repeats_it_is_refused_and_not_only_the_first_time(kind):
    net = Kept(kind).eval()
    for _ in range(2):
        with pytest.raises(ValueError, match=REPEATS):
            saplab.evaluate(net, IMAGES, LABELS, **QUICK)
    net.afresh = True
    assert saplab.evaluate(net, IMAGES, LABELS, **QUICK).request.cells[0].defender.grain


def test_lazy_layers_that_draw_their_weights_in_a_first_pass_are_not_random():
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(5)).eval()
    found = rehearsed(net, IMAGES)
    assert (found.network.grain, found.notes) == ("", ())


def test_a_mask_for_each_shape_is_found_in_another_batch_too():
    net = Kept("by shape").eval()
    net(IMAGES[:3])
    with pytest.raises(ValueError, match=REPEATS):
        saplab.predict(net, IMAGES)


def transformer():
    layer = nn.TransformerEncoderLayer(16, 2, 16, dropout=0.5, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return nn.Sequential(nn.Flatten(2), encoder, nn.Flatten(), nn.Linear(48, 5)).eval()


@pytest.fixture
def fast_path():
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def test_dropout_that_only_gradients_meet_is_refused_with_advice(fast_path):
    net = transformer()
    saplab.predict(net, IMAGES)  # nothing random in it
    for part in net.modules():
        part.train(isinstance(part, nn.Dropout))
    for call in (lambda: saplab.predict(net, IMAGES), lambda: saplab.FGSM()(net, IMAGES, LABELS, 0.1)):
        with pytest.raises(ValueError, match=r"other random numbers where gradients are taken.*set_fastpath_enabled"):
            call()
    torch.backends.mha.set_fastpath_enabled(False)
    probs = [saplab.predict(net, IMAGES, passes=1, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(probs[0], probs[1])
    assert not torch.equal(probs[0], probs[2])


class Turned(nets.Net):
    """Turns its images round where gradients are taken, or only where they are not."""

    def before(self, x):
        return x.flip(3) if torch.is_grad_enabled() else x


class TurnedNoise(nets.InputNoise):
    def before(self, x):
        return super().before(1 - x if torch.is_grad_enabled() else x)


@dataclass(frozen=True)
class TurnedBy(saplab.Defense):
    random = False

    def input(self, x, draw):
        return 1 - x if torch.is_grad_enabled() else x


@dataclass(frozen=True)
class TurnedWhenAttacked(TurnedBy):
    def input(self, x, draw):
        return 1 - x if draw.drawing.inputs_only else x


@dataclass(frozen=True)
class TurnedByRule(TurnedBy):
    rule: str = "identity"

    def input(self, x, draw):
        return 1 - x if draw.rule == self.rule else x


@pytest.mark.parametrize(
    "make",
    [
        Turned,
        TurnedNoise,
        *(lambda kind=kind: saplab.defend(nets.Net(), kind()) for kind in (TurnedBy, TurnedWhenAttacked, TurnedByRule)),
        lambda: saplab.defend(nets.Net(), TurnedByRule("probability")),
    ],
)
def test_what_is_another_network_where_gradients_are_taken_is_refused(make):
    with pytest.raises(ValueError, match="returns something else where gradients are taken"):
        saplab.evaluate(make().eval(), IMAGES, LABELS, **QUICK)


@dataclass(frozen=True)
class BySize(saplab.Defense):
    random = False

    def input(self, x, draw):
        return x if len(x) > 2 else 1 - x


@dataclass(frozen=True)
class OneForAll(saplab.Defense):
    def input(self, x, draw):
        return x + draw.normal(x.shape)[:1]


@pytest.mark.parametrize(
    ("defense", "told"), [(BySize(), True), (OneForAll(), True), (saplab.GaussianNoise(0.1), False)]
)
def test_a_defence_that_depends_on_the_batch_s_size_is_told_of(defense, told):
    net = saplab.defend(nets.Net().eval(), defense)
    assert any("depends on the batch's size" in note for note in rehearsed(net, IMAGES)[2]) == told


def test_a_network_that_writes_into_its_input_or_knows_no_gradient_can_still_be_rehearsed():
    class Centred(nets.InputNoise):
        def before(self, x):
            return super().before(x.sub_(0.5))

    class Away(nets.InputNoise):
        def before(self, x):
            return torch.from_numpy(super().before(x).numpy())

    for kind in (Centred, Away):
        probs = saplab.predict(kind().eval(), IMAGES.clone(), passes=2)
        assert torch.equal(probs, saplab.predict(kind().eval(), IMAGES.clone(), passes=2))


def test_a_random_part_inside_an_activation_checkpoint_is_refused_where_it_would_run_twice():
    class Checkpointed(nets.Net):
        def before(self, x):
            return torch.utils.checkpoint.checkpoint(lambda h: F.dropout(h, 0.5), x, use_reentrant=False)

    net = Checkpointed().eval()
    assert torch.equal(saplab.predict(net, IMAGES, passes=2), saplab.predict(net, IMAGES, passes=2))
    with pytest.raises(ValueError, match="activation checkpointing would run a random"):
        saplab.FGSM()(net, IMAGES, LABELS, 0.1)


def test_compiled_networks_are_rehearsed_as_others():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(nets.InputNoise().eval(), backend="eager")
        probs = saplab.predict(compiled, IMAGES, passes=3)
        assert torch.equal(probs, saplab.predict(nets.InputNoise().eval(), IMAGES, passes=3))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_scripted_networks_are_taken_where_nothing_must_be_put_on_them():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, random, probs = (
            torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(48, 5), last))
            for last in (nn.Identity(), nn.Dropout(0.5), nn.Softmax(1))
        )
        assert len(saplab.evaluate(plain, IMAGES, LABELS, **QUICK).rows) == 2
    for net, why in ((random, "is random"), (probs, "returns probabilities")):
        with pytest.raises(ValueError, match=f"TorchScript module that {why}.*give the Python module"):
            saplab.predict(net, IMAGES)


@pytest.mark.parametrize(("output", "kind"), [(lambda z: {"labels": z.argmax(1)}, "dict"), (str, "str"),
                                              (lambda z: z.argmax(1), "int64")])  # fmt: skip
def test_an_evaluation_of_what_has_no_logits_says_what_it_got(output, kind):
    class Other(nets.Net):
        def after(self, z):
            return output(z)

    with pytest.raises(ValueError, match=rf"must return a tensor of logits \(N, classes\), got .*{kind}"):
        saplab.evaluate(Other().eval(), IMAGES, LABELS, **QUICK)


def test_a_stochastic_part_of_a_network_is_not_evaluated_as_if_it_were_not_random():
    net = nn.Sequential(nn.Flatten(), saplab.Stochastic(nn.Dropout(0.5)), nn.Linear(48, 5))
    with pytest.raises(ValueError, match=r"holds a saplab\.Stochastic inside it"):
        saplab.evaluate(net, IMAGES, LABELS, **QUICK)
    whole = saplab.Stochastic(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 5)))
    assert len(saplab.evaluate(whole, IMAGES, LABELS, **QUICK).rows) == 2


class Noisy(nn.Module):
    """Draws for each example, and does something else in batches larger than anybody gave it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.second = kind, *(initialise(nn.Linear(48, 3), k) for k in range(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "chunks":
            return torch.cat([self.first((c + 0.1 * torch.randn_like(c)).flatten(1)) for c in x.split(8)])
        z = x.flatten(1) + 0.1 * torch.randn(len(x), 48)
        if self.kind == "votes":
            return F.one_hot(self.first(z).argmax(1), 3).float()
        if self.kind == "standardised" and len(x) > 32:
            z = (z - z.mean(0)) / (z.std(0) + 1e-3)
        return (self.second if self.kind == "other" and len(x) > 32 else self.first)(z)


def test_batches_as_attacks_stack_them_are_rehearsed() -> None:
    """Passes of eight images are attacked in batches of 128, which no prediction of eight images would meet."""
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for kind in ("chunks", "other"):
        assert rehearsed(Noisy(kind).eval(), images)[0].grain == "batch"
    with pytest.raises(ValueError, match="depends on the rest of its batch"):
        rehearsed(Noisy("standardised").eval(), images)


def test_votes_that_are_unanimous_at_first_are_probabilities() -> None:
    class Votes(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            votes = [super(Votes, self).forward(x) for _ in range(5)]
            return torch.stack(votes).mean(0)

    images = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    net = Votes("votes").eval()
    with torch.no_grad():
        split = torch.stack([net.first(images.flatten(1)).topk(2).values.diff()]).flatten().abs()
    ordered = images[split.argsort(descending=True)]  # those far from a boundary first
    assert rehearsed(net, ordered)[0].outputs == "probabilities"
