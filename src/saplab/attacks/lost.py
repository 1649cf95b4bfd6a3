"""Which examples are lost, so that an attack leaves them alone: beyond doubt, over all its looks together."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from scipy.special import ndtr
from torch import Tensor

from saplab.attacks.estimate import Score
from saplab.attacks.gradient import Cost, MonteCarlo
from saplab.attacks.problem import Problem

ERROR: Final = float(ndtr(-3.0))  # of ever calling lost what is right: as rare as three standard errors of a normal
ROUND: Final = 6  # passes of a question at a time
PASSES: Final = 4 * ROUND  # of a question, at most
WORTH: Final = 1 / 3  # lead of an estimate from which a question is worth its passes
BETS: Final = (0.7, 1.0)  # shares of the capital that are put on the rival

_FIRST: Final = 1 << 31  # number of the first pass of a question; those of estimates are below

Leads = Callable[[Tensor, int, int], Tensor]  # rows (n,), number of the first pass, how many -> leads (passes, n)


@dataclass(frozen=True)
class Watch:
    """Who of the examples of an attack is lost: whose averaged prediction at the present point is wrong.

    For a network that is not random the score's own lead decides. For any other one, the estimates of an attack only
    raise the question, and fresh passes at that very point answer it: the fortune of one who bets on the likeliest
    other class must reach 1 / α. Where the prediction is right, no bet gains on average, whatever the distribution of
    the bounded probabilities, so that the fortune ever gets there with a probability of at most α (Ville's inequality;
    Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting"). An example's question k has
    α = ERROR / (k(k + 1)), which adds up to ERROR: the level holds for all looks of the attack together, wherever its
    points move.

    A question that stays open is asked again when the attack has seen twice as many passes of the example.

    Attributes:
        rows: (n,) which of all N examples are watched.
        seen: (N,) passes of the estimates so far.
        due: (N,) passes of them before the next question.
        asked: (N,) questions so far.
        first: number of the first look, by which its passes are numbered.
    """

    rows: Tensor
    seen: Tensor
    due: Tensor
    asked: Tensor
    first: int = 0

    @classmethod
    def over(cls, problem: Problem) -> "Watch":
        """Begin to watch all examples."""
        nothing = torch.zeros_like(problem.everyone())
        return cls(problem.everyone(), nothing.clone(), nothing.clone(), nothing.clone())

    def part(self, which: Tensor) -> "Watch":
        """Return the watch over the examples at the positions `which` (n,) alone, which counts for the whole."""
        return replace(self, rows=self.rows[which])

    def later(self, looks: int) -> "Watch":
        """Return the same watch with its looks numbered from `looks`."""
        return replace(self, first=looks)

    def lost(self, problem: Problem, gradient: MonteCarlo, score: Score, look: int) -> Tensor:
        """Return which of the watched examples are lost at a problem's images, (n,).

        Args:
            problem: the watched examples, at their present points.
            gradient: as which passes are run.
            score: of these points.
            look: number of the look, another one for each.
        """
        if not problem.random:
            return score.lead > 0 if gradient.precision == "float32" else _confirmed(problem, gradient, score)
        if score.samples == 1:
            return torch.zeros_like(score.lead, dtype=torch.bool)
        others = score.probs.masked_fill(F.one_hot(problem.labels, score.probs.shape[1]).bool(), -torch.inf)
        rival, first = others.argmax(1), _FIRST + PASSES * (self.first + look)

        def leads(rows: Tensor, done: int, passes: int) -> Tensor:
            return gradient.leads(problem.part(rows), rival[rows], first + done, passes)

        return self.answer(score.lead > WORTH, score.samples, leads)

    def answer(self, doubtful: Tensor, samples: int, leads: Leads) -> Tensor:
        """Return who of the `doubtful` (n,) is lost, after an estimate of so many passes, asking where it is due."""
        self.seen[self.rows] += samples
        found = torch.zeros_like(doubtful)
        which = (doubtful & (self.seen[self.rows] >= self.due[self.rows])).nonzero()[:, 0]
        rows = self.rows[which]
        self.asked[rows] += 1
        self.due[rows] = 2 * self.seen[rows]
        wanted = (self.asked[rows] * (self.asked[rows] + 1)).double() / ERROR
        found[which] = reaches(wanted, lambda some, done, passes: leads(which[some], done, passes))
        return found


def _confirmed(problem: Problem, gradient: MonteCarlo, score: Score) -> Tensor:
    """Return which examples are wrong, (n,): those that look so in the gradient's precision are asked in the usual."""
    wrong = score.lead > 0
    if bool(wrong.any()):
        wrong[wrong.clone()] = gradient.score(problem.part(wrong.nonzero()[:, 0])).lead > 0
    return wrong


def reaches(wanted: Tensor, leads: Leads) -> Tensor:
    """Return whose fortune reaches what is wanted, (n,), in `PASSES` passes, for as long as it can."""
    bets = torch.tensor(BETS, dtype=torch.float64, device=wanted.device)[:, None, None]
    fortune, found = wanted.new_ones(len(BETS), len(wanted)), torch.zeros_like(wanted, dtype=torch.bool)
    rows = torch.arange(len(wanted), device=wanted.device)
    for done in range(0, PASSES, ROUND):
        if len(rows) == 0:
            break
        path = fortune[:, None, rows] * (1 + bets * leads(rows, done, ROUND)).cumprod(1)
        found[rows] = path.mean(0).amax(0) >= wanted[rows]
        fortune[:, rows] = path[:, -1]
        best = (path[:, -1] * (1 + bets[:, 0]) ** (PASSES - ROUND - done)).mean(0)  # if all that follow are wrong
        rows = rows[~found[rows] & (best >= wanted[rows])]
    return found


def cost_of(gradient: MonteCarlo, looks: int) -> Cost:
    """Return the most passes that all questions about an example take, over so many looks."""
    if gradient.samples > 1:
        return Cost(PASSES * looks.bit_length(), 0)
    return Cost(0 if gradient.precision == "float32" else looks, 0)  # a pass in the usual precision confirms
