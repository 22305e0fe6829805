"""The cost of building as the data grows: peak memory, rows per second, and two workers against one.

    python tests/benchmarks/build_scale.py --folder /scratch/build_scale --rows 1000000 10000000 50000000

Makes Parquet tables of that many interactions, 50 a user over the same 20,000 items, and builds each. Peak memory is
that of `/usr/bin/time -v` for one worker, which is one process; for two, it is the sum of their memory (PSS, so that
shared pages count once), sampled ten times a second.

The last two columns compare a build with `webdataset.ShardWriter` as it is commonly used: the interactions are already
in memory and grouped by user, and each user is a sample, with the id as key and three arrays (`items.npy`,
`timestamps.npy`, `ratings.npy`). The writer's time is that of encoding and writing these samples and nothing else: no
reading, checks, grouping or profiles, all of which a build does. Its speed does not change with the number of users, so
it writes only the first 50,000. The ratio is the build's rows per second over the writer's.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from numpy.typing import NDArray

from data_tools.shard_reader import read_block_table

N_ITEMS = 20_000
ROWS_PER_USER = 50
ROW_GROUP = 2**20
PLAIN_USERS = 50_000


class Cost(NamedTuple):
    seconds: float
    peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 10**7, 5 * 10**7])
    arguments = parser.parse_args()
    columns = ("rows", "workers", "peak MB", "peak / first", "rows/s", "rows/s / first", "ShardWriter rows/s", "ratio")
    print(*(f"{name:>18}" for name in columns))
    first = None
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for rows in arguments.rows:
            raw, shards = Path(folder, "raw"), Path(folder, "shards")
            write_tables(raw, rows)
            written = None
            for workers in (1, 2):
                cost = build(raw, shards, workers)
                speed = rows / cost.seconds
                first = first or (cost.peak_bytes, speed)
                written = written or write_with_webdataset(shards, Path(folder, "baseline"))
                peak = (f"{cost.peak_bytes / 1e6:,.0f}", f"{cost.peak_bytes / first[0]:.2f}")
                speeds = (f"{speed:,.0f}", f"{speed / first[1]:.2f}", f"{written:,.0f}", f"{speed / written:.2f}")
                print(*(f"{value:>18}" for value in (f"{rows:,}", workers, *peak, *speeds)), flush=True)
                shutil.rmtree(shards)
            shutil.rmtree(raw)


def write_tables(folder: Path, rows: int) -> None:
    """Interactions in order of time, so that every part of the table has most of the users."""
    folder.mkdir()
    rng = np.random.default_rng(rows)
    n_users = max(1, rows // ROWS_PER_USER)
    names = np.arange(N_ITEMS).astype(str)
    pq.write_table(pa.table({"item_id": names, "title": np.char.add("Item ", names)}), folder / "items.parquet")
    users = pa.array(np.arange(n_users)).cast(pa.string())
    pq.write_table(
        pa.table({"user_id": users, "age": pa.array(rng.integers(99, size=n_users))}), folder / "users.parquet"
    )
    schema = pa.schema(
        [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64()), ("rating", pa.float32())]
    )
    with pq.ParquetWriter(folder / "interactions.parquet", schema) as writer:
        for start in range(0, rows, ROW_GROUP):
            count = min(ROW_GROUP, rows - start)
            item = (N_ITEMS * rng.random(count) ** 2).astype(np.int64)
            columns = [
                pa.array(rng.integers(n_users, size=count)).cast(pa.string()),
                pa.array(item).cast(pa.string()),
                pa.array(1_500_000_000 + np.arange(start, start + count)),
                pa.array(rng.integers(1, 6, size=count), pa.float32()),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def build(raw: Path, shards: Path, workers: int) -> Cost:
    command = [sys.executable, "-m", "data_tools", "build", "--source", "tables", "--input", str(raw)]
    command += ["--output", str(shards), "--workers", str(workers)]
    start = time.perf_counter()
    process = subprocess.Popen(
        ["/usr/bin/time", "-v", *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_proportional_bytes, psutil.Process(process.pid).children(recursive=True))))
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    assert process.stderr is not None
    report = process.stderr.read()
    assert process.returncode == 0, report
    [resident] = re.findall(r"Maximum resident set size \(kbytes\): (\d+)", report)
    return Cost(seconds, int(resident) * 1024 if workers == 1 else peak)


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.NoSuchProcess:
        return 0


def write_with_webdataset(shards: Path, folder: Path) -> float:
    """Rows per second of the plain writer, for users of `shards`, with a sample for each."""
    folder.mkdir()
    users = list(islice(_read_users(shards), PLAIN_USERS))
    start = time.perf_counter()
    with webdataset.ShardWriter(str(folder / "users-%06d.tar"), maxsize=128 * 2**20, verbose=0) as writer:
        for user_id, *arrays in users:
            names = ("items.npy", "timestamps.npy", "ratings.npy")
            writer.write({"__key__": user_id, **dict(zip(names, arrays, strict=True))})
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return sum(len(items) for _, items, *_ in users) / seconds


def _read_users(shards: Path) -> Iterator[tuple[str, *tuple[NDArray[Any], ...]]]:
    """(user id, items, timestamps, ratings) of every user; ratings NaN where there are none."""
    for row in read_block_table(shards).select(["shard", "offset", "bytes"]).to_pylist():
        with (shards / row["shard"]).open("rb") as file:
            file.seek(row["offset"])
            [block] = pa.ipc.open_stream(file.read(row["bytes"]))
        columns = [block[name] for name in ("items", "timestamps", "ratings")]
        cuts = columns[0].offsets.to_numpy()[1:-1] - columns[0].offsets[0].as_py()
        arrays = [np.split(column.flatten().to_numpy(zero_copy_only=False), cuts) for column in columns]
        yield from zip(block["user_id"].to_pylist(), *arrays, strict=True)


if __name__ == "__main__":
    main()
