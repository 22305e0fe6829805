"""A request for the best items for a user, and the interface of every kind of answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from transrec.runs.answers.click_scores import Visit
from transrec.runs.catalogue import Catalogue, Filters

Row = dict[str, Any]  # one result
NOBODY = Visit()


@dataclass(frozen=True)
class Query:
    """A request for the best items for a user; see `Recommender.recommend`."""

    history: Sequence[str]
    top: int = 10
    candidates: Sequence[str] | None = None
    visit: Visit = NOBODY
    left_out: Sequence[str] = ()  # ids of items not to recommend, in addition to the history
    filters: Filters = field(default_factory=dict)

    def allowed(self, catalogue: Catalogue) -> Tensor | None:
        """(N + 1,) a mask of the N items to choose from, by `candidates` and `filters`; None: all.

        Raises:
            ConfigError: a candidate is not in the catalogue, or the items have no column of a filter's name.
        """
        if self.candidates is None and not self.filters:
            return None
        allowed = torch.from_numpy(catalogue.where(self.filters))
        if self.candidates is None:
            return allowed
        chosen = torch.zeros_like(allowed)
        if self.candidates:
            chosen[catalogue.indices(self.candidates)] = True
        return allowed & chosen

    def excluded(self, catalogue: Catalogue) -> list[int]:
        """Indices of `left_out`; items that the catalogue lacks are not recommended anyway."""
        return [catalogue.index_of[item_id] for item_id in catalogue.known(self.left_out)]


class Answers(Protocol):
    """The answers of one kind of model."""

    needs_history: bool  # whether there are no answers for a user without a history

    def prepare(self) -> None:
        """Load and compute everything that the answers need."""

    def to(self, queries: Sequence[Query]) -> list[list[Row]]:
        """The results for each query, best first, from as few passes of the model as possible.

        Raises:
            ConfigError: an id is not in the catalogue, or there is no column to filter by.
        """

    def check_visit(self, visit: Visit) -> None:
        """
        Raises:
            ConfigError: the visit names a column that the model does not read and that looks misspelt.
        """

    def check_vectors(self) -> None:
        """
        Raises:
            ConfigError: the model's scores are not, even in part, inner products of user and item vectors.
        """

    def check_first_stage(self) -> None:
        """
        Raises:
            ConfigError: the answers are not items for another model to rank.
        """
