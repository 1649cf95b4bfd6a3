"""The rehearsal says which activations no defence can see, while it sees others."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import saplab
from saplab.defenses.rehearsal import unseen

IMAGES = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])


class Rectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x + x.abs()) / 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


class Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.mean(1, keepdim=True)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.expand(-1, 8) / 8


def assigned(x):
    y = x.clone()
    y[y < 0] = 0
    return y


class Net(nn.Module):
    """A network with an activation function, and another activation in the module `act`."""

    def __init__(self, act):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(48, 8), Calls(act), nn.LazyLinear(3)
        self.frozen = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.last(self.act(F.relu(self.first(x.flatten(1)))))


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x - 0.5)


def net(act):
    torch.manual_seed(0)
    model = Net(act).eval()
    model(IMAGES)
    return model


HIDDEN = {
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "max": lambda x: torch.max(x, 0.2 * x),
    "mul": lambda x: x * (x > 0),
    "mul of floats": lambda x: (x >= 0).float() * x,
    "masked_fill": lambda x: x.masked_fill(~(x > 0), 0.0),
    "clamp": lambda x: x.clamp(-1, 1),
    "x[…] = …": assigned,
    "glu": F.glu,
    "sin": torch.sin,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_no_call_of_an_activation_function_is_named_with_its_place(name):
    word = name.removesuffix(" of floats")
    assert unseen(net(HIDDEN[name]), IMAGES) == (
        f"Not defended, since these are no calls of activation functions: {word} in act.",
    )


def test_recurrent_layers_are_named():
    model = nn.Sequential(nn.Flatten(2), nn.ReLU(), nn.LSTM(16, 4, batch_first=True))
    assert unseen(model.eval(), IMAGES) == (
        "Not defended, since these are no calls of activation functions: lstm in 2.",
    )


def test_functions_below_autograd_are_named_where_they_keep_the_shape():
    assert unseen(net(Rectifier.apply), IMAGES) == (
        "Autograd functions of its own hide activations from defences, or defences from the gradient: Rectifier.",
    )
    assert unseen(net(Mean.apply), IMAGES) == ()


SEEN = {
    "relu": F.relu,
    "clamp": lambda x: x.clamp(min=0),
    "a constant mask": lambda x: torch.where(torch.arange(8) > 3, x, 0.0) * (torch.arange(8) < 6),
    "a random mask": lambda x: x * (torch.rand_like(x) > 0.5) + x * torch.bernoulli(torch.full_like(x, 0.5)),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "a norm": lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=1e-12),
    "softmax": lambda x: x.softmax(1) * x.sigmoid(),
    "pooling": lambda x: F.max_pool1d(x.unsqueeze(1), 2).flatten(1) + x.amax(1, keepdim=True),
}


@pytest.mark.parametrize("name", SEEN)
def test_nothing_is_said_of_what_is_seen_or_is_no_activation(name):
    model = net(SEEN[name])
    state = torch.get_rng_state()
    assert unseen(model, IMAGES) == ()
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_that_are_compared_are_no_activations():
    model = net(F.relu)
    model.act.function = lambda x: x * torch.where(model.frozen > 0, model.frozen, 0.0)
    assert unseen(model, IMAGES) == ()


def test_many_are_counted():
    calls = nn.Sequential(nn.Flatten(), nn.ReLU(), *(Calls(HIDDEN["where"]) for _ in range(8)))
    (note,) = unseen(calls, IMAGES)
    assert note.endswith("where in 2, where in 3, where in 4, where in 5, where in 6 and 3 more.")


def test_an_evaluation_says_it_of_defended_activations_alone():
    asked = {"attacks": "fgsm", "eps": 8 / 255, "passes": 2, "samples": 1, "batch_size": 4}
    said = "where in act."
    model = net(HIDDEN["where"])

    def told(network):
        return [note for note in saplab.evaluate(network, IMAGES, LABELS, **asked).request.notes if said in note]

    assert len(told(saplab.defend(model, saplab.SAP(50.0)))) == 1
    assert told(saplab.defend(model, saplab.SAP(50.0), sites="relu")) == []
    assert told(saplab.defend(model, saplab.RandomNoisyWeights(0.1))) == []
    assert told(model) == []
