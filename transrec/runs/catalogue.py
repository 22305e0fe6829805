"""The items of a set of shards: ids, titles, columns to filter by, and pictures.

Shape letters: N items of the catalogue (indices 1..N).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transrec.config import ConfigError
from transrec.data.shards.bad_samples import BadSample
from transrec.data.shards.item_shards import ItemMembers, ItemShards
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA
from transrec.data.shards.shard_folder import ShardFolder
from transrec.terminal import shortened

Filters = Mapping[str, Sequence[str]]  # column -> allowed values


@dataclass(frozen=True)
class Catalogue:
    """The items of a set of shards, in the order of their indices, which start at 1."""

    folder: ShardFolder
    item_ids: list[str]
    titles: list[str]

    @classmethod
    def read(cls, folder: ShardFolder) -> "Catalogue":
        columns = folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id", "title"]).to_pydict()
        return cls(folder, columns["item_id"], columns["title"])

    @cached_property
    def index_of(self) -> dict[str, int]:
        return {item_id: i for i, item_id in enumerate(self.item_ids, start=1)}

    def row(self, item: int) -> dict[str, Any]:
        """The id and the title of an item, by its index, with which a result begins."""
        return {"item_id": self.item_ids[item - 1], "title": self.titles[item - 1]}

    def title(self, item_id: str) -> str:
        return self.titles[self.index_of[item_id] - 1]

    def missing(self, history: Sequence[str]) -> list[str]:
        """The ids of a history that the catalogue lacks."""
        return [item_id for item_id in history if item_id not in self.index_of]

    def known(self, ids: Sequence[str]) -> list[str]:
        """The ids that the catalogue has."""
        return [item_id for item_id in ids if item_id in self.index_of]

    def check(self, history: Sequence[str], where: str = "") -> None:
        """
        Args:
            where: the beginning of the error message.

        Raises:
            ConfigError: an id is not in the catalogue, or the history is empty.
        """
        check_ids(history)
        missing = self.missing(history)
        if missing or not len(history):
            unknown = f"unknown item ids: {', '.join(map(str, missing[:5]))}"
            problem = unknown if missing else "a history needs at least one item"
            such = f"the catalogue has ids such as {', '.join(self.item_ids[:3])}"
            raise ConfigError(f"{where}{': ' if where else ''}{problem}; {such}")

    def indices(self, history: Sequence[str]) -> list[int]:
        """
        Raises:
            ConfigError: see `check`.
        """
        self.check(history)
        return [self.index_of[item_id] for item_id in history]

    @property
    def columns(self) -> list[str]:
        """The names of the items' text fields, by which they can be filtered."""
        return list(self.folder.index.text_fields)

    def where(self, filters: Filters) -> NDArray[np.bool_]:
        """(N + 1,) a mask of the items that have an allowed value in every given column; entry 0 is False.

        The first call reads the records of all items.

        Raises:
            ConfigError: see `check_filters`.
        """
        self.check_filters(filters)
        allowed = np.ones(len(self.item_ids) + 1, np.bool_)
        allowed[0] = False
        for name, values in filters.items():
            allowed[1:] &= np.isin(self._values[name], list(values))
        return allowed

    def check_filters(self, filters: Filters) -> None:
        """
        Raises:
            ConfigError: the items have no such column, or its values are not a list.
        """
        if not isinstance(filters, Mapping):
            raise ConfigError(f"filters: give each column a list of values, found {shortened(repr(filters))}")
        for name, values in filters.items():
            if isinstance(values, str):  # also a sequence: of its characters
                raise ConfigError(f"filters: give a list of values, as in {{{name!r}: [{values!r}]}}")
            if name not in self.columns:
                raise ConfigError(f"the items have no column {name!r}, only {', '.join(self.columns)}")

    def prepare(self) -> None:
        """Read the data for filters and searches now instead of on first use."""
        _ = self._values, self._images, self._folded

    @cached_property
    def _values(self) -> dict[str, NDArray[np.object_]]:
        """Column -> (N,) texts of the items; a text is empty if the item has none or its record is unreadable."""
        records, values = ItemShards(self.folder), {name: [""] * len(self.item_ids) for name in self.columns}
        for item in records.numbers:
            try:
                record = records.read(item)
            except BadSample:
                continue
            for name in self.columns:
                values[name][item - 1] = record.get(name) or ""
        return {name: np.array(texts, dtype=object) for name, texts in values.items()}

    @cached_property
    def _images(self) -> ItemMembers:
        return ItemMembers(self.folder, "image")

    def has_picture(self, item_id: str) -> bool:
        return bool(self._images.present[self.index_of[item_id] - 1])

    def picture(self, item_id: str) -> bytes:
        """The JPEG picture of an item that has one.

        Raises:
            BadSample: the shards cannot be read.
        """
        return self._images.read(self.index_of[item_id])

    def find(self, text: str, most: int) -> list[str]:
        """Ids of at most `most` items whose id is `text` or whose title contains it, ignoring case in titles.

        An item with this id comes first, then titles that begin with the text, then titles with a word that begins
        with it, then all others; each group is in the order of the catalogue.
        """
        wanted = text.casefold().strip()
        if not wanted:
            return []
        exact = [text.strip()] if text.strip() in self.index_of else []
        places: dict[int, list[str]] = {0: exact, 1: [], 2: [], 3: []}
        for item_id, title in zip(self.item_ids, self._folded, strict=True):
            place = title.find(wanted)
            if place >= 0 and item_id not in exact:
                rank = 1 if place == 0 else 2 if f" {wanted}" in title else 3
                places[rank].append(item_id)
        return [item_id for rank in places.values() for item_id in rank][:most]

    @cached_property
    def _folded(self) -> list[str]:
        return [title.casefold() for title in self.titles]


def check_ids(ids: Sequence[str], what: str = "a history") -> None:
    """
    Args:
        what: the beginning of the error message.

    Raises:
        ConfigError: `ids` is not a list of strings.
    """
    if isinstance(ids, str):  # also a sequence: of its characters
        raise ConfigError(f"{what} is a list of item ids, found the string {ids!r}")
    try:
        others = [item for item in ids if not isinstance(item, str)]
    except TypeError:
        raise ConfigError(f"{what} is a list of item ids, found {ids!r}") from None
    if others:
        raise ConfigError(f"item ids are strings, found {shortened(repr(others[0]))}")


def check_top(top: int, name: str = "top") -> None:
    """
    Raises:
        ConfigError: `top`, which the message calls `name`, is not a whole number of at least 1.
    """
    if not isinstance(top, Integral) or isinstance(top, bool):
        raise ConfigError(f"{name} {top!r}: expected a whole number")
    if top < 1:
        raise ConfigError(f"{name} {top}: ask for at least 1 result")
