"""Peak memory and rows per second of building impressions, by their number.

    python tests/benchmarks/build_impressions.py --folder /scratch/build_impressions --rows 1000000 10000000

Makes Parquet tables of that many impressions, 20 a request and 400 a user, with a click, a request id and two columns
of context, and a twentieth as many interactions, over the same 20,000 items; builds each table with one worker. Peak
memory is that of `/usr/bin/time -v`. A task holds half a million rows, whatever the size of the data, so sets smaller
than that do not predict the memory of larger ones.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from build_scale import N_ITEMS, ROW_GROUP, build

from transrec.data.shards.schema import ShardIndex

ROWS_PER_USER, ROWS_PER_REQUEST = 400, 20
COLUMNS = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("timestamp", pa.int64()),
        ("click", pa.int8()),
        ("request_id", pa.string()),
        ("position", pa.int8()),
        ("scene", pa.string()),
    ]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 10**7])
    arguments = parser.parse_args()
    print(*(f"{name:>14}" for name in ("rows", "peak MB", "peak / first", "rows/s")))
    first = None
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for rows in arguments.rows:
            raw, shards = Path(folder, "raw"), Path(folder, "shards")
            write_tables(raw, rows)
            cost = build(raw, shards, workers=1)
            assert ShardIndex.load(shards).counts.impressions == rows
            first = first or cost.peak_bytes
            figures = (f"{cost.peak_bytes / 1e6:,.0f}", f"{cost.peak_bytes / first:.2f}", f"{rows / cost.seconds:,.0f}")
            print(*(f"{value:>14}" for value in (f"{rows:,}", *figures)), flush=True)
            shutil.rmtree(raw)
            shutil.rmtree(shards)


def write_tables(folder: Path, rows: int) -> None:
    """Requests in order of time, so that every part of the table has most of the users."""
    folder.mkdir()
    rng = np.random.default_rng(rows)
    n_users = max(1, rows // ROWS_PER_USER)
    names = np.arange(N_ITEMS).astype(str)
    pq.write_table(pa.table({"item_id": names, "title": np.char.add("Item ", names)}), folder / "items.parquet")
    likes = rows // 20
    interactions = {
        "user_id": pa.array(rng.integers(n_users, size=likes)).cast(pa.string()),
        "item_id": pa.array(rng.integers(N_ITEMS, size=likes)).cast(pa.string()),
        "timestamp": pa.array(1_500_000_000 + np.arange(likes)),
    }
    pq.write_table(pa.table(interactions), folder / "interactions.parquet")
    with pq.ParquetWriter(folder / "impressions.parquet", COLUMNS) as writer:
        for start in range(0, rows, ROW_GROUP):
            row = np.arange(start, min(start + ROW_GROUP, rows))
            request = row // ROWS_PER_REQUEST
            columns = [
                pa.array(request * 7919 % n_users).cast(pa.string()),
                pa.array(rng.integers(N_ITEMS, size=len(row))).cast(pa.string()),
                pa.array(1_500_000_000 + request),
                pa.array(rng.random(len(row)) < 0.05).cast(pa.int8()),
                pa.array(request).cast(pa.string()),
                pa.array(row % ROWS_PER_REQUEST, pa.int8()),
                pa.array(np.array(["home", "search", "related"])[request % 3]),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=COLUMNS))


if __name__ == "__main__":
    main()
