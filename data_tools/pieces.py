"""Cuts the rows of a source into pieces that can be sent to a worker."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from data_tools.rejects import Reason, Reject
from data_tools.source import Batch

PIECE_ROWS = 2**18


@dataclass(frozen=True)
class Piece:
    """Consecutive rows, packed because the pickle of an Arrow slice would contain the whole underlying array."""

    number: int
    files: list[str]  # of each batch
    ends: list[int]  # end row of each batch, exclusive
    packed: pa.Buffer  # Arrow IPC stream of the rows; the last column is the line

    def unpack(self) -> "Rows":
        table = pa.ipc.open_stream(self.packed).read_all()
        [rows] = table.combine_chunks().to_batches()
        last = rows.num_columns - 1
        columns = pa.RecordBatch.from_arrays(rows.columns[:last], schema=rows.schema.remove(last))
        return Rows(self, columns, rows.column(last).to_numpy())


@dataclass(frozen=True)
class Rows:
    """The rows of a piece, with the line that each came from."""

    piece: Piece
    columns: pa.RecordBatch
    lines: np.ndarray

    def reject(self, row: int, reason: Reason, detail: str) -> Reject:
        file = self.piece.files[int(np.searchsorted(self.piece.ends, row, side="right"))]
        return Reject(file, int(self.lines[row]), reason, detail)


def cut_pieces(batches: Iterable[Batch], rows: int = PIECE_ROWS) -> Iterator[Piece]:
    """Join consecutive batches into pieces of at least `rows` rows; no batch is split, and the last may be smaller."""
    number, gathered, count = 0, [], 0
    for batch in batches:
        if len(batch.rows):
            gathered.append(batch)
            count += len(batch.rows)
        if count >= rows:
            yield _pack(number, gathered)
            number, gathered, count = number + 1, [], 0
    if gathered:
        yield _pack(number, gathered)


def _pack(number: int, batches: list[Batch]) -> Piece:
    sink = pa.BufferOutputStream()
    schema = batches[0].rows.schema.append(pa.field("line", pa.int64()))
    with pa.ipc.new_stream(sink, schema) as stream:
        for batch in batches:
            stream.write_batch(pa.RecordBatch.from_arrays([*batch.rows.columns, batch.lines], schema=schema))
    ends = np.cumsum([len(batch.rows) for batch in batches]).tolist()
    return Piece(number, [batch.file for batch in batches], ends, sink.getvalue())
