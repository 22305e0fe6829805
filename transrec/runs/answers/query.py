"""A request for the best items for a user, and the interface of every kind of answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from transrec.runs.answers.click_scores import Visit
from transrec.runs.catalogue import Catalogue, Filters, check_ids
from transrec.terminal import shortened

Row = dict[str, Any]  # one result
NOBODY = Visit()


@dataclass(frozen=True)
class Query:
    """A request for the best items for a user; see `Recommender.recommend`."""

    history: Sequence[str]
    top: int = 10
    candidates: Sequence[str] | None = None
    visit: Visit = NOBODY
    exclude: Sequence[str] = ()  # ids of items not to recommend, in addition to the history
    filters: Filters = field(default_factory=dict)
    repeats: bool = False  # whether items of the history may be recommended again; `candidates` always may

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
        """Indices of `exclude` and, unless they may be recommended, of the history; unknown ids are passed over.

        Raises:
            ConfigError: the history or `exclude` is not a list of strings.
        """
        check_ids(self.history)
        check_ids(self.exclude, "`exclude`")
        history = () if self.repeats or self.candidates is not None else self.history
        return [catalogue.index_of[item_id] for item_id in catalogue.known([*self.exclude, *history])]


def why_none(query: Query, history: Sequence[str], catalogue: Catalogue, needs_history: bool) -> str:
    """The reason why a query without results has none.

    Args:
        query: the query, with only those ids of the user's history and the candidates that the catalogue has.
        history: all ids of the user's history.
    """
    if needs_history and not query.history:
        return "no item of the history is in the catalogue" if history else "the history is empty"
    if query.candidates is not None and not query.candidates:
        return "no candidate is in the catalogue"
    for column, values in query.filters.items():
        if not catalogue.where({column: values}).any():
            return f"no item has {column} {' or '.join(map(shortened, values[:5]))}"
    return "candidates, filters and exclusions leave no item"


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
