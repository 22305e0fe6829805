"""User profiles: the last columns of a record batch of users."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_tools.executor import Executor
from data_tools.pieces import Piece, cut_pieces
from data_tools.rejects import Reason, Reject, RejectSink
from data_tools.source import Batch, SourceError
from data_tools.stage import BUCKETS, Fragments, fragment_path, write_fragment
from transrec.data.shards.schema import USER_COLUMNS

_NAME = "profiles"
_PIECE_ROWS = 2**16  # each row is a different user, of any width
_ORIGIN = [("user_id", pa.string()), ("file", pa.string()), ("line", pa.int64())]
_PREFIX = "profile."  # so that a profile can have a column called file


def stage_profiles(batches: Iterable[Batch], stage: Path, executor: Executor) -> Fragments:
    """Write batches of `user_id` and string columns as fragments."""
    rows, count, schema = np.zeros(BUCKETS, np.int64), 0, pa.schema(_ORIGIN)
    for spilled in executor.map(_Spill(stage), cut_pieces(batches, _PIECE_ROWS)):
        rows += spilled.rows
        count += 1
        schema = spilled.schema
    return Fragments(stage, _NAME, schema, rows, count)


def columns_of(profiles: Fragments) -> list[str]:
    """Names of the profile columns."""
    return [name.removeprefix(_PREFIX) for name in profiles.schema.names if name.startswith(_PREFIX)]


class _Spilled(NamedTuple):
    rows: NDArray[np.int64]
    schema: pa.Schema


@dataclass(frozen=True)
class _Spill:
    stage: Path

    def __call__(self, piece: Piece) -> _Spilled:
        rows = piece.unpack()
        columns = [name for name in rows.columns.schema.names if name != "user_id"]
        if clash := set(columns) & set(USER_COLUMNS.names):
            raise SourceError(f"user profile columns must not be called {', '.join(sorted(clash))}: rename them")
        batch_of_row = np.repeat(np.arange(len(piece.files)), np.diff(piece.ends, prepend=0))
        files = pa.array(piece.files, pa.string()).take(pa.array(batch_of_row))
        origin = [rows.columns["user_id"], files, pa.array(rows.lines)]
        schema = pa.schema([*_ORIGIN, *[(_PREFIX + name, pa.string()) for name in columns]])
        profiles = pa.RecordBatch.from_arrays([*origin, *[rows.columns[name] for name in columns]], schema=schema)
        return _Spilled(write_fragment(profiles, fragment_path(self.stage, _NAME, piece.number)), schema)


class Profiles:
    """The profiles of some users, from a table of fragments; any further profile of a user is rejected."""

    def __init__(self, table: pa.Table, reject: RejectSink) -> None:
        users = table["user_id"].combine_chunks().dictionary_encode()
        first_row = np.unique(users.indices.to_numpy(), return_index=True)[1]
        repeated = np.ones(len(table), bool)
        repeated[first_row] = False
        for row in table.select(["user_id", "file", "line"]).filter(pa.array(repeated)).to_pylist():
            detail = f"user {row['user_id']!r} already has a profile"
            reject(Reject(row["file"], row["line"], Reason.DUPLICATE_USER, detail))
        names = [name for name in table.schema.names if name.startswith(_PREFIX)]
        self._user_ids = users.dictionary
        self._table = table.select(names).take(pa.array(first_row)).combine_chunks()

    def of(self, user_ids: pa.StringArray) -> list[pa.StringArray]:
        """The profile columns of these users; null for a user without a profile."""
        rows = pc.index_in(user_ids, self._user_ids)
        return [column.take(rows).combine_chunks() for column in self._table.columns]
