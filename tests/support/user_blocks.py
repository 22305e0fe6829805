"""Blocks of users written by hand, without shards."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from transrec.data.shards.user_shards import Shown, UserBlock

Interaction = tuple[int, int] | tuple[int, int, float]  # (item, time), or (item, time, rating)


def user_block(
    histories: Mapping[str, Sequence[Interaction]],
    profiles: Mapping[str, Mapping[str, str]] | None = None,
    shown: Shown | None = None,
) -> UserBlock:
    rows = [(*entry, np.nan)[:3] for history in histories.values() for entry in history]
    items, times, ratings = zip(*rows, strict=True) if rows else ((), (), ())
    lengths = [len(history) for history in histories.values()]
    columns = sorted({name for profile in (profiles or {}).values() for name in profile})
    values = {name: [(profiles or {}).get(user, {}).get(name) for user in histories] for name in columns}
    return UserBlock(
        user_ids=pa.array(list(histories), pa.string()),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.array(items, np.int32),
        timestamps=np.array(times, np.int64),
        ratings=np.array(ratings, np.float32),
        profiles=pa.record_batch({name: pa.array(column, pa.string()) for name, column in values.items()}),
        shown=shown,
    )
