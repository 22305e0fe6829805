"""The best next items for a user.

Shape letters: B users, N items of the catalogue (indices 1..N), X items that are left out.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transrec.data.examples.evidence import of_questions
from transrec.data.examples.questions import Histories, left_padded, newest
from transrec.evaluation.evaluator import inference
from transrec.evaluation.full_ranking import top_items
from transrec.protocols import Score, Scorer
from transrec.runs.answers.click_scores import Visit
from transrec.runs.answers.query import Query, Row
from transrec.runs.encoded_catalogue import EncodedCatalogue
from transrec.runs.evaluate import data_of
from transrec.runs.evidence import look_up


class HistoryAnswers:
    """Answers that are computed from a history, which every user must therefore have."""

    needs_history = True

    def __init__(self, encoded: EncodedCatalogue) -> None:
        self.encoded = encoded

    def prepare(self) -> None:
        _ = self.scorer, self._examples

    @cached_property
    def scorer(self) -> Scorer:
        return self.encoded.model.scorer(self.encoded.vectors)

    @cached_property
    def _examples(self) -> Any | None:
        """The users of the catalogue's shards, with the evidence of the model; None for a model without evidence."""
        encoded, experiment = self.encoded, self.encoded.channel.experiment
        if not experiment.model.looked_up():
            return None
        data = experiment.data if encoded.place is None else data_of(encoded.channel, encoded.place)
        examples = data.scan(experiment.model.max_length, encoded.world)
        look_up(experiment.model, examples, encoded.world)
        return examples

    def scores(self, queries: Sequence[Query]) -> Score:
        """The scores of all B users; to be called within `inference`."""
        catalogue, examples = self.encoded.catalogue, self._examples
        seen = [np.array(catalogue.indices(query.history), np.int32) for query in queries]
        inputs = newest(left_padded(seen), self.encoded.channel.experiment.model.max_length)
        evidence = () if examples is None else of_questions(examples.evidence, seen, examples.popularity)
        score: Score = self.scorer(Histories(inputs, evidence))
        return score

    def check_visit(self, visit: Visit) -> None:
        """Does nothing: these models do not read visits."""

    def check_vectors(self) -> None:
        """Does nothing: the scores are inner products."""


class NextItems(HistoryAnswers):
    """The items with the highest scores."""

    def to(self, queries: Sequence[Query]) -> list[list[Row]]:
        catalogue = self.encoded.catalogue
        left_out = [query.excluded(catalogue) for query in queries]
        allowed = [query.allowed(catalogue) for query in queries]
        with inference(self.encoded.model):
            return best_items(self.encoded, self.scores(queries), left_out, [query.top for query in queries], allowed)

    def check_first_stage(self) -> None:
        """Does nothing: another model can rank the next items."""


def best_items(
    encoded: EncodedCatalogue,
    score: Score,
    left_out: Sequence[Sequence[int]],
    tops: Sequence[int],
    allowed: Sequence[Tensor | None],
) -> list[list[Row]]:
    """The items with the highest scores for each of B users.

    Args:
        left_out: for each user, indices of the items that are not recommended.
        tops: for each user, the maximum number of results.
        allowed: for each user, a mask (N + 1,) of the items to choose from; None: all items.

    Returns:
        `{"item_id", "title", "score"}` for each item.
    """
    catalogue, device = encoded.catalogue, encoded.vectors.device
    num_items = len(catalogue.item_ids)
    every = torch.ones(num_items + 1, dtype=torch.bool)
    every[0] = False
    limited = any(one is not None for one in allowed)
    candidates = torch.stack([every if one is None else one for one in allowed]) if limited else every
    excluded = left_padded([np.array(items, np.int32) for items in left_out])
    scores, items = top_items(score, num_items, excluded.to(device), candidates.to(device), min(max(tops), num_items))
    return [
        [catalogue.row(i) | {"score": round(s, 6)} for s, i in zip(row[:top], indices[:top], strict=True) if i > 0]
        for row, indices, top in zip(scores.tolist(), items.tolist(), tops, strict=True)
    ]
