"""Weights and scales of evidence, fitted to held-out targets, for a network that was trained without evidence.

Stacking combines predictors with weights fitted to held-out data (Breiman, "Stacked Regressions", Machine Learning,
1996). Designs considered. Weights trained with the network: the network fits its training targets better than any
others, so evidence gets too little weight; and evidence explains so much of a target that the network learns less.
Leaving evidence out at half of the training positions, and fitting its weights afterwards: better, but worse than
training the network alone (docs/results/index.md).

The fit minimises the mean cross entropy of the targets among all candidates,

    −log softmax(a ⟨h, e⟩ + Σₖ wₖ log(1 + cₖ sₖ)),    wₖ ≥ 0,

where a < 1 if the network is overconfident. A small penalty on the distance from the initial values decides where the
targets do not.

In large catalogues, a sample stands for the candidates that have no evidence for a user. The target and the candidates
with evidence are always in the sum. Designs considered: ranks of the target, which have no gradient; a sample of all
candidates, hardly any of which has evidence.

Shape letters: Q questions, D width, N items (indices 1..N; 0 pads), H history, K kinds of evidence, E pairs of a
question and a candidate that has evidence or is the target, C sampled candidates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transrec.data.batch import SparseScores

Floats = NDArray[np.float64]

QUESTIONS = 2000  # at most
CANDIDATES = 10_000  # at most, in the sum over candidates without evidence
_PENALTY = 2.0  # of a squared distance of 1, in units of the cross entropy of one question
_FARTHEST = 10.0  # largest distance of a logarithm from its initial value
_ITERATIONS = 50
_PAIRS_AT_ONCE = 2**16
_GOES_ON, _IS_DONE = 1.0, 0.0  # what the main process tells the others
_NEVER = -1e30  # logit of an excluded item; at minus infinity, the gradient would be NaN


class Fitted(NamedTuple):
    """The weight and the logarithm of the scale of a kind of evidence."""

    weight: float
    log_scale: float


class Fit(NamedTuple):
    """The numbers that `fit` finds."""

    network: float  # the factor a of the network's logits
    kinds: list[Fitted]


@dataclass(frozen=True)
class HeldOut:
    """Questions with their answers."""

    users: Tensor  # (Q, D), whose inner products with the vectors of the items are the logits of the network
    targets: Tensor  # (Q,) items
    left_out: Tensor  # (Q, H) items that are not candidates of a question, 0 where padded
    evidence: Sequence[SparseScores]  # K matrices (Q, N + 1)


@dataclass(frozen=True)
class Catalogue:
    """The items of a catalogue, and the vectors of those that the fit needs, which may be a few among millions."""

    vectors: Tensor  # (V, D)
    row_of: Tensor  # (N + 1,) int32, the row of each item in `vectors`; -1 for items without one
    candidates: Tensor  # (N + 1,) bool
    sampled: Tensor  # (C,) the candidates that stand for those without evidence

    def of(self, items: Tensor) -> Tensor:
        """The vectors of these items."""
        found: Tensor = self.vectors[self.row_of[items].long()]
        return found


def sample(candidates: Tensor, seed: int) -> Tensor:
    """At most `CANDIDATES` of the candidates (N + 1,), ascending."""
    every = candidates.nonzero().squeeze(1)
    if len(every) <= CANDIDATES:
        return every
    drawn = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:CANDIDATES]
    chosen: Tensor = every[drawn].sort().values
    return chosen


def needed(asked: Sequence[HeldOut], sampled: Tensor) -> Tensor:
    """The items whose vectors the fit reads, ascending."""
    with_evidence = [scores.columns for one in asked for scores in one.evidence]
    items: Tensor = torch.cat([sampled, *(one.targets for one in asked), *with_evidence]).unique()
    return items


class _Sums:
    """The sum of the cross entropies of some questions, as a function of the numbers that are fitted."""

    def __init__(self, asked: HeldOut, known: Catalogue) -> None:
        rows, width = torch.arange(len(asked.targets)).unsqueeze(1), len(known.candidates)
        targets, left_out = rows * width + asked.targets.unsqueeze(1), rows * width + asked.left_out
        places = torch.cat([targets.squeeze(1), *(one.rows * width + one.columns for one in asked.evidence)]).unique()
        kept = known.candidates[places % width] & ~torch.isin(places, left_out) | torch.isin(places, targets)
        self.places = places[kept]
        self.rows, columns = self.places // width, self.places % width
        pairs = zip(self.rows.split(_PAIRS_AT_ONCE), columns.split(_PAIRS_AT_ONCE), strict=True)
        self.logits = torch.cat([(asked.users[r] * known.of(c)).sum(1) for r, c in pairs])
        self.values = torch.stack([self._of(one.rows * width + one.columns, one.values) for one in asked.evidence])
        self.targets = torch.searchsorted(self.places, targets.squeeze(1))
        self.rest = self._others(asked, known, torch.cat([self.places, left_out.flatten()]))
        self.log_weight = math.log(int(known.candidates.sum()) / len(known.sampled))

    def _others(self, asked: HeldOut, known: Catalogue, excluded: Tensor) -> Tensor:
        """Logits (Q, C) of the sampled candidates without those at the `excluded` places."""
        width, logits = len(known.candidates), asked.users @ known.of(known.sampled).T
        columns = torch.full((width,), -1).index_copy(0, known.sampled, torch.arange(len(known.sampled)))
        rows, found = excluded // width, columns[excluded % width]
        logits[rows[found >= 0], found[found >= 0]] = _NEVER
        return logits

    def _of(self, places: Tensor, values: Tensor) -> Tensor:
        """A kind of evidence at every pair (E,)."""
        at = torch.searchsorted(self.places, places).clamp(max=len(self.places) - 1)
        there = self.places[at] == places
        return torch.zeros(len(self.places)).index_copy(0, at[there], values[there])

    def __call__(self, scale: Tensor, weights: Tensor, log_scales: Tensor) -> Tensor:
        terms = torch.log1p(log_scales.exp().unsqueeze(1) * self.values)
        logits = scale * self.logits + (weights.unsqueeze(1) * terms).sum(0)
        questions = len(self.targets)
        largest = torch.full((questions,), -torch.inf).scatter_reduce(0, self.rows, logits.detach(), "amax")
        sums = torch.zeros(questions).index_add(0, self.rows, (logits - largest[self.rows]).exp())
        others = torch.logsumexp(scale * self.rest + self.log_weight, dim=1)
        return (torch.logaddexp(largest + sums.log(), others) - logits[self.targets]).double().sum()


class Ranks(Protocol):
    """The processes whose questions are fitted together."""

    is_main: bool

    def total(self, numbers: Floats) -> Floats:
        """The sum of the numbers of all ranks."""
        ...

    def of_main(self, numbers: Floats) -> Floats:
        """The numbers of the main process."""
        ...


def fit(asked: Sequence[HeldOut], known: Catalogue, initial: Sequence[Fitted], ranks: Ranks) -> Fit:
    """The best numbers for the questions of all ranks; every rank must call it.

    Only the main process searches, because searches on different processors might end after different steps.

    Args:
        asked: this rank's questions.
        initial: starting point of the fit and of the penalised distance, for each kind of evidence.
    """
    parts, kinds = [_Sums(one, known) for one in asked], len(initial)
    start = np.array([0.0, *(one.weight for one in initial), *(one.log_scale for one in initial)])
    questions = max(1.0, float(ranks.total(np.array([float(sum(len(one.targets) for one in asked))]))[0]))

    def summed(numbers: Floats) -> Floats:
        """The sum of all cross entropies, and its gradient."""
        point, found = torch.from_numpy(numbers).float().requires_grad_(), np.zeros(1 + len(numbers))
        for part in parts:
            value = part(point[0].exp(), point[1 : 1 + kinds], point[1 + kinds :])
            (gradient,) = torch.autograd.grad(value, point)
            found += [value.item(), *gradient.tolist()]
        return ranks.total(found)

    def objective(numbers: Floats) -> tuple[float, Floats]:
        found, distance = summed(ranks.of_main(np.array([_GOES_ON, *numbers]))[1:]), numbers - start
        value = found[0] + _PENALTY * distance @ distance
        return value / questions, (found[1:] + 2 * _PENALTY * distance) / questions

    best = _search(objective, start, initial) if ranks.is_main else start
    message = ranks.of_main(np.array([_IS_DONE, *best]))
    while message[0] == _GOES_ON:  # on the other ranks
        summed(message[1:])
        message = ranks.of_main(message)
    best = message[1:]
    fitted = [Fitted(*pair) for pair in zip(best[1 : 1 + kinds].tolist(), best[1 + kinds :].tolist(), strict=True)]
    return Fit(math.exp(best[0]), fitted)


def _search(objective: Callable[[Floats], tuple[float, Floats]], start: Floats, initial: Sequence[Fitted]) -> Floats:
    from scipy.optimize import minimize  # late, because it takes half a second

    bounds = [(-_FARTHEST, _FARTHEST), *[(0.0, None)] * len(initial)]
    bounds += [(one.log_scale - _FARTHEST, one.log_scale + _FARTHEST) for one in initial]
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ITERATIONS})
    best: Floats = found.x
    return best
