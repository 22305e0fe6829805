"""Readings: the numbers that metrics are computed from, taken from the answer to a question.

Each kind of question has its own table of readings, such as `READINGS` for questions about one target among many.
Another kind, such as impressions with scores and labels, defines its own table; `measure` works with all of them.

Shape letters: B targets of a batch, N ranked targets (1..N; 0 pads), X targets left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from transrec.evaluation.full_ranking import Repeats, fast_chunk, rank_targets, target_losses, top_items
from transrec.evaluation.sampled_ranking import restricted, sampled_candidates
from transrec.protocols import BoundedScore, Score

Context = TypeVar("Context", contravariant=True)
Questions = TypeVar("Questions", contravariant=True)
Answers = TypeVar("Answers", contravariant=True)


@dataclass(frozen=True)
class Reading(Generic[Context, Questions, Answers]):
    """A number taken from each answer.

    Args:
        measure: returns one number for each question of a batch, (B,).
        dtype: data type of these numbers.
        of_logits: whether the scores must be logits; for other scores, such as counts, only the order has a meaning.
    """

    measure: Callable[[Context, Questions, Answers], Tensor]
    dtype: torch.dtype = torch.int64
    of_logits: bool = False


class Targets(Protocol):
    """A batch of questions for one target each."""

    @property
    def users(self) -> Tensor: ...  # (B,) a number for each user

    @property
    def targets(self) -> Tensor: ...  # (B,)

    @property
    def left_out(self) -> Tensor: ...  # (B, X) targets excluded from the ranking, 0 where padded


@dataclass(frozen=True)
class ManyTargets:
    """Several batches of questions as one."""

    users: Tensor
    targets: Tensor
    left_out: Tensor


def join_targets(asked: Sequence[Targets], scores: Sequence[Score]) -> tuple[Targets, Score]:
    """Join several batches, and the answers to them, into one, because ranking more users at a time is faster."""
    widest = max(one.left_out.shape[1] for one in asked)
    left_out = torch.cat([pad(one.left_out, (widest - one.left_out.shape[1], 0)) for one in asked])
    whole = ManyTargets(torch.cat([a.users for a in asked]), torch.cat([a.targets for a in asked]), left_out)
    first, *others = scores
    if isinstance(first, BoundedScore):
        return whole, first.joined(others)
    return whole, lambda a, b: torch.cat([score(a, b) for score in scores])


@dataclass(frozen=True)
class Ranking:
    """The vocabulary in which targets are ranked, and the readings of a ranking."""

    size: int  # N
    candidates: Tensor  # (N + 1,) bool; entry 0 is False
    repeats: Repeats
    device: torch.device
    popularity: Tensor  # (N + 1,) training interactions of each item; zeros for the targets of a task

    def rank(self, asked: Targets, score: Score) -> Tensor:
        """The rank of each target among all candidates."""
        return rank_targets(score, self.size, *self._on_device(asked), self.repeats)

    def sampled_rank(self, asked: Targets, score: Score) -> Tensor:
        """The rank of each target among sampled candidates."""
        compared = sampled_candidates(asked.users, asked.targets, asked.left_out, self.candidates)
        return self.rank(asked, restricted(score, compared.to(self.device)))

    def predicted(self, asked: Targets, score: Score) -> Tensor:
        """The best candidate of each question; nothing is left out."""
        targets, _, candidates = self._on_device(asked)
        return top_items(score, self.size, None, candidates, 1, fast_chunk(targets))[1][:, 0]

    def loss(self, asked: Targets, score: Score) -> Tensor:
        """The cross entropy of each target, in a separate pass over the vocabulary."""
        return target_losses(score, self.size, *self._on_device(asked))

    def novelty(self, asked: Targets, score: Score, k: int) -> Tensor:
        """The mean of -log2 of the popularity share of each question's k best candidates, without those left out."""
        _, left_out, candidates = self._on_device(asked)
        popularity = self.popularity.to(self.device).double()
        information = -torch.log2(popularity.clamp(min=1) / popularity.sum())
        items = top_items(score, self.size, left_out, candidates, k, fast_chunk(left_out))[1]
        found = items > 0  # fewer than k may be left
        return torch.where(found, information[items], 0).sum(1) / found.sum(1).clamp(min=1)

    def _on_device(self, asked: Targets) -> tuple[Tensor, Tensor, Tensor]:
        return asked.targets.to(self.device), asked.left_out.to(self.device), self.candidates.to(self.device)


READINGS: dict[str, Reading[Ranking, Targets, Score]] = {
    "user": Reading(lambda ranking, asked, score: asked.users),
    "target": Reading(lambda ranking, asked, score: asked.targets),
    "rank": Reading(Ranking.rank),
    "sampled_rank": Reading(Ranking.sampled_rank),
    "predicted": Reading(Ranking.predicted),
    "loss": Reading(Ranking.loss, torch.float64, of_logits=True),
}
READINGS_AT_K: dict[str, Callable[[int], Reading[Ranking, Targets, Score]]] = {
    "novelty": lambda k: Reading(lambda ranking, asked, score: ranking.novelty(asked, score, k), torch.float64)
}


def at_cutoffs(
    families: Mapping[str, Callable[[int], Reading[Any, Any, Any]]], names: Iterable[str]
) -> dict[str, Reading[Any, Any, Any]]:
    """The readings among `names` that are written NAME@K, with NAME from `families`."""
    parts = {name: name.partition("@") for name in names}
    return {name: families[family](int(k)) for name, (family, _, k) in parts.items() if family in families and k}


class Shown(Protocol):
    """A batch of impressions with their labels."""

    @property
    def users(self) -> Tensor: ...  # (I,) a number for each user

    @property
    def requests(self) -> Tensor: ...  # (I,) a number for each request

    @property
    def items(self) -> Tensor: ...  # (I,)

    @property
    def known(self) -> Tensor: ...  # (I,) whether the user has training impressions

    @property
    def labels(self) -> Tensor: ...  # (I, H), NaN where not observed; the first head is observed


OF_IMPRESSIONS: dict[str, Reading[None, Shown, Tensor]] = {
    "user": Reading(lambda _, asked, logits: asked.users),
    "request": Reading(lambda _, asked, logits: asked.requests),
    "target": Reading(lambda _, asked, logits: asked.items),
    "known": Reading(lambda _, asked, logits: asked.known, torch.bool),
    "label": Reading(lambda _, asked, logits: asked.labels[:, 0]),
    "score": Reading(lambda _, asked, logits: logits[:, 0], torch.float64),
}


def of_further_heads(heads: int) -> dict[str, Reading[None, Shown, Tensor]]:
    """The readings of heads 1, 2, … of `heads`; a label is NaN where the response was not observed."""
    return {name: reading for head in range(1, heads) for name, reading in _of_head(head).items()}


def _of_head(head: int) -> dict[str, Reading[None, Shown, Tensor]]:
    return {
        f"label_{head}": Reading(lambda _, asked, logits: asked.labels[:, head], torch.float64),
        f"score_{head}": Reading(lambda _, asked, logits: logits[:, head], torch.float64),
    }
