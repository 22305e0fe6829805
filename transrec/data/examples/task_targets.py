"""Sources of a task's targets. Choose one by `name:`.

A task gives users targets from its own vocabulary 1..K: the classes of a user column, the items of another catalogue,
or the labels in a file. Each (user, target) pair is an instance.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from transrec.config import Config, ConfigError, MayDiffer, UserPath
from transrec.data.shards.remote import Place
from transrec.data.shards.schema import CATALOGUE_FILE, CATALOGUE_SCHEMA, user_order_key
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import UserBlock, UserShards

OpenFolder = Callable[[Place], ShardFolder]
_CHUNK_USERS = 4096
_LABEL_COLUMNS = ["user_id", "target"]
_EXACT = 2.0**53  # from here on a double skips whole numbers


class Pairs(NamedTuple):
    """Distinct (user, target) instances of a block of users, in the order of the users."""

    user: NDArray[np.int32]  # position in the block
    target: NDArray[np.int32]  # 1..K


Read = tuple[list[str], list[Pairs]]  # names, where target t is names[t - 1]; the pairs of each block


def _ascending(bands: list[float] | None) -> list[float] | None:
    if bands is not None and bands != sorted(set(bands)):
        raise ValueError(f"`bands` must be strictly ascending, without duplicates; found {bands}")
    return bands


class ProfileConfig(Config):
    """Predict a user column of the shards, whose values are the classes; users without a value are left out."""

    name: Literal["profile"] = Field("profile", description="the source of targets")
    column: str = Field(description="user column of the shards whose values are the classes")
    bands: Annotated[list[float] | None, AfterValidator(_ascending)] = Field(
        None,
        min_length=1,
        description="bounds between the classes of a numeric column; a value equal to a bound is in the class above",
    )

    def read(self, users: UserShards, open_folder: OpenFolder) -> Read:
        """The class names and the instances of each block.

        Raises:
            ConfigError: the column is missing, or is not numeric although there are bands.
        """
        known = users.index.user_columns
        if self.column not in known:
            advice = f"choose one of {', '.join(known)}" if known else "it has none at all, so choose another task"
            raise ConfigError(
                f"`data.examples.targets.column`: {users.folder} has no user column {self.column!r}; {advice}"
            )
        columns = [self._values(users.block(number)) for number in range(len(users))]
        if self.bands is not None:
            return _band_names(self.bands), [_pairs_of(self._band(column, self.bands)) for column in columns]
        names = sorted(pa.chunked_array(columns, pa.string()).unique().drop_null().to_pylist())
        return names, [_pairs_of(_codes(column, names)) for column in columns]

    def _values(self, block: UserBlock) -> pa.StringArray:
        """The value of each user, or null."""
        if not len(block):
            return pa.array([], pa.string())
        column = pc.utf8_trim_whitespace(block.profiles[self.column])
        return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)

    def _band(self, column: pa.StringArray, bands: list[float]) -> NDArray[np.int64]:
        try:
            numbers = column.cast(pa.float64()).fill_null(np.nan).to_numpy()
        except pa.ArrowInvalid as error:
            raise ConfigError(
                f"`data.examples.targets.bands`: column {self.column!r} does not hold numbers ({error}); remove `bands`"
            ) from None
        return np.where(np.isnan(numbers), 0, np.digitize(numbers, bands) + 1)


class ColdStartConfig(Config):
    """Predict the items that a user has in another set of shards, from the history in this one.

    The two sets share user ids, but not items.
    """

    name: Literal["cold_start"] = Field("cold_start", description="the source of targets")
    target: Annotated[Place, MayDiffer()] = Field(description="folder or URL of the shards whose items are predicted")

    def read(self, users: UserShards, open_folder: OpenFolder) -> Read:
        """The item ids of the other set and the instances of each block."""
        target = UserShards(open_folder(self.target))
        names = target.folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["item_id"])["item_id"].to_pylist()
        return names, list(_join(users, map(_histories, map(target.block, range(len(target))))))


class FileConfig(Config):
    """Predict the labels in a file with the columns `user_id` and `target`, one row per target."""

    name: Literal["file"] = Field("file", description="the source of targets")
    path: Annotated[UserPath, MayDiffer()] = Field(
        description="tab-separated or Parquet table with the columns user_id and target"
    )

    def read(self, users: UserShards, open_folder: OpenFolder) -> Read:
        """The label names and the instances of each block.

        Raises:
            ConfigError: the file cannot be read, or its columns are wrong.
        """
        table = self._table()
        names = sorted(table["target"].unique().to_pylist())
        targets = pa.array(_codes(table["target"].combine_chunks(), names), pa.int32())
        users_of = pa.table({"user_id": table["user_id"], "target": targets}).group_by("user_id")
        return names, list(_join(users, _in_order(users_of.aggregate([("target", "distinct")]))))

    def _table(self) -> pa.Table:
        strings = dict.fromkeys(_LABEL_COLUMNS, pa.string())
        try:
            if self.path.suffix == ".parquet":
                table = pq.read_table(self.path, columns=_LABEL_COLUMNS)
            else:
                table = pa.csv.read_csv(
                    self.path,
                    parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False),
                    convert_options=pa.csv.ConvertOptions(column_types=strings, include_columns=_LABEL_COLUMNS),
                )
            texts = [_to_texts(table[name]) for name in _LABEL_COLUMNS]
            return pa.table(texts, names=_LABEL_COLUMNS).drop_null()
        except (OSError, KeyError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"`data.examples.targets.path`: {self.path} is not a table with the columns user_id and target "
                f"({reason})"
            ) from None


def _to_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values as texts; null for NaN. Whole floats become integers again, which missing values turn into floats.

    Raises:
        pa.ArrowInvalid: a float too large to tell whole numbers apart.
    """
    if not pa.types.is_floating(column.type):
        return column.cast(pa.string())
    numbers = column.cast(pa.float64())
    if pc.any(pc.greater_equal(pc.abs(numbers), _EXACT)).as_py():
        raise pa.ArrowInvalid("a float above 2^53 is not exact: write integers or strings")
    whole = pc.if_else(pc.equal(numbers, pc.floor(numbers)), numbers, None).cast(pa.int64()).cast(pa.string())
    others = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.string()), column.cast(pa.string()))
    return pc.coalesce(whole, others)


TargetsConfig = Annotated[ProfileConfig | ColdStartConfig | FileConfig, Field(discriminator="name")]


class _Chunk(NamedTuple):
    """Users in hash order, and their targets."""

    user_ids: pa.StringArray
    targets: pa.ListArray

    @property
    def last(self) -> tuple[bytes, str]:
        return _order(self.user_ids[-1].as_py())


def _join(users: UserShards, chunks: Iterable[_Chunk]) -> Iterator[Pairs]:
    """The pairs of each block; both sides are in hash order, so each is read once and little is held in memory."""
    coming, held = (chunk for chunk in chunks if len(chunk.user_ids)), list[_Chunk]()
    for number in range(len(users)):
        user_ids = users.block(number).user_ids
        last = _order(user_ids[-1].as_py()) if len(user_ids) else (b"", "")
        while (not held or held[-1].last < last) and (chunk := next(coming, None)):
            held.append(chunk)
        yield _match(user_ids, held)
        held = [chunk for chunk in held if chunk.last > last]


def _match(user_ids: pa.StringArray, held: list[_Chunk]) -> Pairs:
    if not held:
        return _pairs_of(np.zeros(len(user_ids), np.int64))
    there = pa.concat_arrays([chunk.user_ids for chunk in held])
    lists = pa.concat_arrays([chunk.targets for chunk in held]).take(pc.index_in(user_ids, there))
    pairs = np.stack([pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists).to_numpy()])
    user, target = np.unique(pairs, axis=1).astype(np.int32)
    return Pairs(user, target)


def _histories(block: UserBlock) -> _Chunk:
    return _Chunk(block.user_ids, pa.ListArray.from_arrays(pa.array(block.offsets, pa.int32()), pa.array(block.items)))


def _in_order(grouped: pa.Table) -> Iterator[_Chunk]:
    user_ids = grouped["user_id"].to_pylist()
    ordered = grouped.take(sorted(range(len(user_ids)), key=lambda row: _order(user_ids[row])))
    for start in range(0, len(ordered), _CHUNK_USERS):
        rows = ordered.slice(start, _CHUNK_USERS)
        yield _Chunk(rows["user_id"].combine_chunks(), rows["target_distinct"].combine_chunks())


def _order(user_id: str) -> tuple[bytes, str]:
    return user_order_key(user_id), user_id


def _codes(column: pa.StringArray, names: list[str]) -> NDArray[np.int64]:
    """Codes 1..K of the values, 0 for null."""
    found: NDArray[np.int64] = pc.index_in(column, pa.array(names, pa.string())).fill_null(-1).to_numpy() + np.int64(1)
    return found


def _pairs_of(codes: NDArray[np.int64]) -> Pairs:
    """Pairs from one code per user; 0 means no target."""
    user = np.flatnonzero(codes)
    return Pairs(user.astype(np.int32), codes[user].astype(np.int32))


def _band_names(bands: list[float]) -> list[str]:
    between = [f"{low:g} to {high:g}" for low, high in pairwise(bands)]
    return [f"under {bands[0]:g}", *between, f"{bands[-1]:g} and over"]
