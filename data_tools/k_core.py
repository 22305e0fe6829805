"""The k-core: the largest part of the data in which every user and every item has a minimum number of interactions.

Users and items are dropped in turn until none has too few. The remaining items determine which users are dropped, so
only the items are kept between rounds; the users of each task are numbered in a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from data_tools.executor import Executor
from data_tools.progress import step
from data_tools.stage import Fragments

_COLUMNS = pa.schema([("user", pa.int32()), ("item", pa.int32())])


def find_core(
    interactions: Fragments,
    tasks: Sequence[range],
    n_items: int,
    user_minimum: int,
    item_minimum: int,
    executor: Executor,
) -> NDArray[np.bool_]:
    """A mask of the items in the core: (n_items + 1,), by index."""
    core = np.ones(n_items + 1, bool)
    with step("k-core rounds") as advance:
        paths = list(executor.map(_NumberUsers(interactions), list(enumerate(tasks))))
        while True:
            counts = np.zeros(n_items + 1, np.int64)
            for found in executor.map(_CountItems(core, user_minimum), paths):
                counts += found
            advance(1)
            smaller = core & (counts >= item_minimum)
            if np.array_equal(smaller[1:], core[1:]):
                break
            core = smaller
    for path in paths:
        path.unlink()
    return core


@dataclass(frozen=True)
class _NumberUsers:
    """Writes the (user, item) pairs of a task; each task numbers its users from 0."""

    interactions: Fragments

    def __call__(self, task: tuple[int, range]) -> Path:
        number, buckets = task
        table = self.interactions.read(buckets, ["user_id", "item"]).combine_chunks()
        users = table["user_id"].combine_chunks().dictionary_encode().indices
        path = self.interactions.folder / f"core-{number:06d}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _COLUMNS) as writer:
            writer.write_batch(pa.RecordBatch.from_arrays([users, table["item"].combine_chunks()], schema=_COLUMNS))
        return path


@dataclass(frozen=True)
class _CountItems:
    """Counts each item's interactions (n_items + 1,) with users who have enough interactions with items of the core."""

    core: NDArray[np.bool_]
    user_minimum: int

    def __call__(self, path: Path) -> NDArray[np.int64]:
        with pa.OSFile(str(path)) as file:
            users, items = (column.to_numpy() for column in pa.ipc.open_file(file).get_batch(0))
        inside = self.core[items]
        users, items = users[inside], items[inside]
        enough = np.bincount(users) >= self.user_minimum
        return np.bincount(items[enough[users]], minlength=len(self.core))
