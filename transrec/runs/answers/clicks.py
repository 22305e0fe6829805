"""The items that a user most probably clicks on, by a ranking model."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from transrec.config import ConfigError
from transrec.data.examples.feature_rows import FeatureRows
from transrec.evaluation.evaluator import inference
from transrec.evaluation.full_ranking import top_items
from transrec.models.ranking_model import RankingModelConfig
from transrec.protocols import Scorer
from transrec.runs.answers.click_scores import Request, Visit, check_visit, click_scores, probability
from transrec.runs.answers.query import Query, Row
from transrec.runs.encoded_catalogue import EncodedCatalogue


class Clicks:
    """Scores of each candidate by the first head; a user needs no history, because the model has other features."""

    needs_history = False

    def __init__(self, encoded: EncodedCatalogue, settings: RankingModelConfig) -> None:
        self.encoded, self._settings = encoded, settings

    def prepare(self) -> None:
        _ = self.scorer, self._features

    @cached_property
    def scorer(self) -> Scorer:
        return self.encoded.model.scorer(self.encoded.vectors)

    @cached_property
    def _features(self) -> FeatureRows:
        return FeatureRows.of(self.encoded.catalogue.folder, self._settings.features, self._settings.vocabularies)

    def to(self, queries: Sequence[Query]) -> list[list[Row]]:
        requests = (self._request(query) for query in queries)
        settings = self._settings
        with inference(self.encoded.model):
            heads = len(settings.objective.heads)
            scored = click_scores(self.scorer, self._features, requests, settings.max_length, heads)
            return [
                self._best_shown(request, logits, query.top)
                for query, (request, logits) in zip(queries, scored, strict=True)
            ]

    def _request(self, query: Query) -> Request:
        catalogue = self.encoded.catalogue
        seen = catalogue.indices(query.history) if query.history else []
        if query.candidates is not None and not query.filters:  # without a pass over the catalogue
            items = np.unique(np.array(catalogue.indices(query.candidates) if query.candidates else [], np.int64))
        else:
            allowed = query.allowed(catalogue)
            every = np.arange(1, len(catalogue.item_ids) + 1)
            items = every if allowed is None else np.flatnonzero(allowed.numpy())
        return Request(seen, query.visit, items[~np.isin(items, query.excluded(catalogue))], shown=len(items))

    def _best_shown(self, request: Request, logits: Tensor, top: int) -> list[Row]:
        """The items of a request with the highest logits (n,)."""
        count = len(request.items)
        if not count:
            return []
        every = torch.ones(count + 1, dtype=torch.bool)
        every[0] = False
        scores, places = top_items(lambda a, b: logits[None, a - 1 : b - 1], count, None, every, min(top, count))
        found = request.items[places[0].numpy() - 1].tolist()
        return [
            self.encoded.catalogue.row(item) | {"probability": probability(score)}
            for item, score in zip(found, scores[0].tolist(), strict=True)
        ]

    def check_visit(self, visit: Visit) -> None:
        check_visit(visit, self._settings.features)

    def check_vectors(self) -> None:
        raise ConfigError(
            f"{self.encoded.channel.folder} is a ranking model, which reads a history anew for each candidate and has "
            "no user vectors: find candidates with another run, and rank them with `transrec recommend --first-stage`"
        )

    def check_first_stage(self) -> None:
        raise ConfigError(
            f"{self.encoded.channel.folder} is a ranking model, so it cannot be a first stage: name a run that "
            "recommends the next item"
        )
