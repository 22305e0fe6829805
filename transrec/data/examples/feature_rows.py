"""The rows of features: for every item of the catalogue once, for users and impressions block by block.

Shape letters: N items (indices 1..N; 0 pads), U items of a pool, I impressions of a block, B of a batch, k values of a
feature.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from transrec.config import ConfigError
from transrec.data.examples.exposures import Exposures
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import UserBlock
from transrec.features import FeatureConfig
from transrec.features.feature import (
    ColumnFeature,
    ContextFeature,
    ItemColumnFeature,
    ItemIdFeature,
    RequestFeature,
    TimeFeature,
    UserColumnFeature,
    UserIdFeature,
)
from transrec.features.vocabulary import Vocabulary

Ints = NDArray[np.int64]
Dropped = Callable[[Ints, float], NDArray[np.bool_]]  # which of these numbers count as unknown, given the share of them
_UNKNOWN = 7  # seed component that separates these random numbers from those of order, dropout and negatives


@dataclass(frozen=True)
class FeatureRows:
    """Features with their vocabularies, over one catalogue."""

    settings: Mapping[str, FeatureConfig]
    vocabularies: Mapping[str, Vocabulary]
    items: Mapping[str, Ints]  # by feature of items, (N + 1, k) rows

    @classmethod
    def none(cls) -> "FeatureRows":
        return cls({}, {}, {})

    @classmethod
    def of(
        cls, folder: ShardFolder, settings: Mapping[str, FeatureConfig], vocabularies: Mapping[str, Vocabulary]
    ) -> "FeatureRows":
        """The rows of every item, read once; those of users and impressions are looked up block by block."""
        values = item_values(folder, settings)
        items = {name: _rows(settings[name], vocabularies[name], column) for name, column in values.items()}
        pad = {name: np.concatenate([np.zeros((1, rows.shape[1]), np.int64), rows]) for name, rows in items.items()}
        return cls(settings, vocabularies, pad)

    @property
    def of_shown(self) -> list[str]:
        """The features of users, context and time."""
        return [name for name, feature in self.settings.items() if feature.owner != "item"]

    def of_pool(self, pool: Ints, dropped: Dropped | None = None) -> dict[str, Ints]:
        """Rows (U, k) of the features of a pool's items."""
        found = {name: rows[pool] for name, rows in self.items.items()}
        for name, rows in found.items():
            if dropped is not None and self.settings[name].unknown:
                rows[dropped(pool, self.settings[name].unknown)] = 0
        return found

    def of_block(self, users: UserBlock, shown: Exposures) -> dict[str, NDArray[np.int32]]:
        """Rows (I, k) of the features of users, context and time.

        Raises:
            ConfigError: the users or impressions have no such column.
        """
        return {name: self._of_block(name, users, shown).astype(np.int32) for name in self.of_shown}

    def with_unknown(self, rows: dict[str, Ints], dropped: Dropped | None) -> dict[str, Ints]:
        """Rows (B, k) of users, context and time, in which dropped users count as unknown."""
        for name, values in rows.items():
            feature = self.settings[name]
            if feature.owner == "user" and feature.unknown and dropped is not None:
                values[dropped(~values[:, 0], feature.unknown)] = 0  # ~: other numbers than those of items
        return rows

    def _of_block(self, name: str, users: UserBlock, shown: Exposures) -> Ints:
        feature = self.settings[name]
        if not len(shown.users):
            return np.zeros((0, 1), np.int64)
        if isinstance(feature, TimeFeature):
            return feature.rows(shown.times)[:, None]
        if isinstance(feature, RequestFeature):
            return feature.rows(shown.sizes)[:, None]
        values, owners = _values(name, feature, users, shown)
        return _rows(feature, self.vocabularies[name], values)[owners]


def item_values(folder: ShardFolder, settings: Mapping[str, FeatureConfig]) -> dict[str, pa.StringArray]:
    """The value of every item (N,), for each feature of items.

    Raises:
        ConfigError: the items have no such column.
    """
    found: dict[str, pa.StringArray] = {}
    columns = {name: feature.column for name, feature in settings.items() if isinstance(feature, ItemColumnFeature)}
    for name, feature in settings.items():
        if isinstance(feature, ItemIdFeature):
            ids = folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id"])["item_id"]
            found[name] = ids.combine_chunks()
    for name, column in columns.items():
        _column(name, "items", column, dict.fromkeys(folder.index.text_fields))
    if columns:
        records = [{column: record.get(column) or "" for column in columns.values()} for record in ItemShards(folder)]
        for name, column in columns.items():
            found[name] = pa.array([record[column] for record in records], pa.string())
    return found


def count(
    folder: ShardFolder,
    settings: Mapping[str, FeatureConfig],
    popularity: Ints,
    training: Callable[[], Iterator[tuple[UserBlock, Exposures]]],
) -> dict[str, Vocabulary]:
    """The vocabularies of features, from the training impressions and the items in them.

    Args:
        popularity: (N + 1,) training impressions of each item.
        training: the users and training impressions of each block.

    Raises:
        ConfigError: the items, users or impressions have no such column.
    """
    items, known = item_values(folder, settings), pa.array(popularity[1:] > 0)
    seen: dict[str, list[pa.StringArray]] = {name: [column.filter(known)] for name, column in items.items()}
    counted = UserIdFeature | UserColumnFeature | ContextFeature
    others = {name: feature for name, feature in settings.items() if isinstance(feature, counted)}
    for users, shown in training() if others else ():
        for name, feature in others.items() if len(shown.users) else ():
            values, owners = _values(name, feature, users, shown)
            seen.setdefault(name, []).append(pc.unique(values.take(pa.array(np.unique(owners)))))
    return {name: feature.count(seen.get(name, [])) for name, feature in settings.items()}


def _values(name: str, feature: FeatureConfig, users: UserBlock, shown: Exposures) -> tuple[pa.StringArray, Ints]:
    """The values of a feature of users or of context in a block, and the index of each impression's value, (I,).

    Raises:
        ConfigError: there is no such column.
    """
    if isinstance(feature, UserIdFeature):
        return users.user_ids, shown.users
    if isinstance(feature, UserColumnFeature):
        columns = dict(zip(users.profiles.schema.names, users.profiles.columns, strict=True))
        return _column(name, "users", feature.column, columns), shown.users
    assert isinstance(feature, ContextFeature)
    return _column(name, "impressions", feature.column, shown.context), np.arange(len(shown.users))


def _column(name: str, owners: str, column: str, known: Mapping[str, pa.StringArray]) -> pa.StringArray:
    if column not in known:
        choice = "they have no columns at all, so remove the feature"
        if known:
            choice = f"choose one of {', '.join(known)}, or remove the feature"
        raise ConfigError(
            f"`model.features.{name}.column`: the {owners} of these shards have no column {column}: {choice}"
        )
    return known[column]


def _rows(feature: FeatureConfig, vocabulary: Vocabulary, values: pa.StringArray) -> Ints:
    """(B, k) rows of the values; k is 1 except for features with several values, whose rows are padded with 0."""
    if not isinstance(feature, ColumnFeature):
        return vocabulary.rows(values)[:, None]
    distinct = values.dictionary_encode()  # columns have few distinct values, and cutting them up is slow
    lists = feature.split(distinct.dictionary)
    lengths = np.diff(lists.offsets.to_numpy())
    rows = np.zeros((1 + len(lists), max(1, int(lengths.max(initial=0)))), np.int64)  # the last is that of null
    owners = np.repeat(np.arange(len(lists)), lengths)
    within = np.arange(len(owners)) - np.repeat(lists.offsets.to_numpy()[:-1], lengths)
    rows[owners, within] = vocabulary.rows(lists.flatten())
    places = pc.fill_null(distinct.indices, len(lists)).to_numpy(zero_copy_only=False)
    found: Ints = rows[places]
    return found


def dropped_at(seed: int, step: int) -> Dropped:
    """A function that marks the numbers dropped at a step, the same on every rank and in every batch."""
    base = np.random.default_rng((_UNKNOWN, seed, step)).integers(2**63, dtype=np.uint64)

    def dropped(numbers: Ints, share: float) -> NDArray[np.bool_]:
        mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ base
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        found: NDArray[np.bool_] = (mixed ^ (mixed >> np.uint64(31))) < np.uint64(int(share * 2**64))
        return found

    return dropped
