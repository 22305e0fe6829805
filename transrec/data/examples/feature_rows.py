"""The rows of features: for every item of the catalogue once, for users and impressions as they come.

Shape letters: N items (indices 1..N; 0 pads), B impressions, k values of a feature.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transrec.config import ConfigError
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
        """The rows of every item, read once; those of users and impressions are looked up as they come."""
        values = item_values(folder, settings)
        items = {name: _rows(settings[name], vocabularies[name], column) for name, column in values.items()}
        pad = {name: np.concatenate([np.zeros((1, rows.shape[1]), np.int64), rows]) for name, rows in items.items()}
        return cls(settings, vocabularies, pad)

    def of_pool(self, pool: Ints, dropped: Dropped | None = None) -> dict[str, Ints]:
        """Rows (U, k) of the features of a pool's items."""
        found = {name: rows[pool] for name, rows in self.items.items()}
        for name, rows in found.items():
            if dropped is not None and self.settings[name].unknown:
                rows[dropped(pool, self.settings[name].unknown)] = 0
        return found

    def of_impressions(self, impressions: Sequence[Any], dropped: Dropped | None = None) -> dict[str, Ints]:
        """Rows (B, k) of the features of users, context and time."""
        found: dict[str, Ints] = {}
        for name, feature in self.settings.items():
            if feature.owner != "item":
                found[name] = self._of_impressions(name, feature, impressions)
            if feature.owner == "user" and dropped is not None and feature.unknown:
                found[name][dropped(found[name][:, 0], feature.unknown)] = 0
        return found

    def _of_impressions(self, name: str, feature: FeatureConfig, impressions: Sequence[Any]) -> Ints:
        if isinstance(feature, TimeFeature):
            return feature.rows(np.array([i.time for i in impressions], np.int64))[:, None]
        if isinstance(feature, UserIdFeature):
            values = [i.user_id for i in impressions]
        elif isinstance(feature, UserColumnFeature):
            values = [i.profile.get(feature.column) for i in impressions]
        else:
            assert isinstance(feature, ContextFeature)
            values = [i.context.get(feature.column, feature.when_serving) for i in impressions]
        return _rows(feature, self.vocabularies[name], pa.array(values, pa.string()))


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
        if column not in folder.index.text_fields:
            known = ", ".join(folder.index.text_fields)
            raise ConfigError(f"`model.features.{name}.column`: the items have no column {column}, only {known}")
    if columns:
        records = [{column: record.get(column) or "" for column in columns.values()} for record in ItemShards(folder)]
        for name, column in columns.items():
            found[name] = pa.array([record[column] for record in records], pa.string())
    return found


def count(
    folder: ShardFolder,
    settings: Mapping[str, FeatureConfig],
    popularity: Ints,
    training: Callable[[], Iterator[tuple[UserBlock, Any]]],
) -> dict[str, Vocabulary]:
    """The vocabularies of features, from the training impressions and the items in them.

    Args:
        popularity: (N + 1,) training impressions of each item.
        training: the users and training impressions of each block.
    """
    values = item_values(folder, settings)
    known = pa.array(popularity[1:] > 0)
    found: dict[str, Vocabulary] = {}
    for name, feature in settings.items():
        if feature.owner == "item":
            found[name] = feature.count([values[name].filter(known)])
        else:
            found[name] = feature.count(_values(name, feature, training()))
    return found


def _values(name: str, feature: FeatureConfig, training: Iterable[tuple[UserBlock, Any]]) -> Iterator[pa.StringArray]:
    """The values of a feature of users or impressions in training, block by block."""
    for users, shown in training:
        who = pa.array(np.unique(shown.users))
        if isinstance(feature, UserIdFeature):
            yield users.user_ids.take(who)
        elif isinstance(feature, UserColumnFeature):
            if feature.column not in users.profiles.schema.names:
                known = ", ".join(users.profiles.schema.names) or "none"
                raise ConfigError(
                    f"`model.features.{name}.column`: users have no column {feature.column}, only {known}"
                )
            yield users.profiles.column(feature.column).take(who)
        elif isinstance(feature, ContextFeature):
            if feature.column not in shown.context:
                known = ", ".join(shown.context) or "none"
                raise ConfigError(
                    f"`model.features.{name}.column`: impressions have no column {feature.column}, only {known}"
                )
            yield shown.context[feature.column]


def _rows(feature: FeatureConfig, vocabulary: Vocabulary, values: pa.StringArray) -> Ints:
    """(B, k) rows of the values; k is 1 but for features of several values, which 0 fills up."""
    if not isinstance(feature, ColumnFeature):
        return vocabulary.rows(values)[:, None]
    lists = feature.split(values)
    lengths = np.diff(lists.offsets.to_numpy())
    rows = np.zeros((len(lists), max(1, int(lengths.max(initial=0)))), np.int64)
    owners = np.repeat(np.arange(len(lists)), lengths)
    rows[owners, np.arange(len(owners)) - np.repeat(lists.offsets.to_numpy()[:-1], lengths)] = vocabulary.rows(
        lists.flatten()
    )
    return rows


def dropped_at(seed: int, step: int) -> Dropped:
    """Tells which numbers are dropped at a step; the same on every rank, and whatever other numbers are asked for."""
    base = np.random.default_rng((_UNKNOWN, seed, step)).integers(2**63, dtype=np.uint64)

    def dropped(numbers: Ints, share: float) -> NDArray[np.bool_]:
        mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ base
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        found: NDArray[np.bool_] = (mixed ^ (mixed >> np.uint64(31))) < np.uint64(int(share * 2**64))
        return found

    return dropped
