import json
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rank_threads import on_ranks
from shard_sets import seal

from transrec.data.batch import Sampling
from transrec.data.content.item_store import ItemStore
from transrec.data.examples.histories import HistoryExamples
from transrec.data.peers import Peers
from transrec.data.shards.bad_samples import BadSample, digest, find_bad, warn, write_skipped
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.schema import ShardSetError
from transrec.data.shards.shard_folder import ShardFolder
from transrec.data.shards.user_shards import UserShards
from transrec.data.train_stream import TrainStream

SKIP = {"on_bad_sample": "skip", "most_bad_share": 0.2}


def flip(folder: Path, table: str, row: int, prefix: str = "") -> str:
    """Flip a bit inside a block (row of user_blocks.parquet) or an item (of items.parquet); returns the shard."""
    place = pq.read_table(folder / table).slice(row, 1).to_pylist()[0]
    with (folder / place["shard"]).open("r+b") as file:
        file.seek(place[f"{prefix}offset"] + place[f"{prefix}bytes"] // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    return place["shard"]


@pytest.fixture
def copy(synthetic_shards: Path, tmp_path: Path) -> Path:
    """13 blocks of 16 users; 60 items."""
    return Path(shutil.copytree(synthetic_shards, tmp_path / "copy"))


def users_of(interactions: HistoryExamples) -> set[str]:
    blocks = (interactions.block(number) for number in range(len(interactions.shards)))
    return {user for block in blocks for user in block.user_ids.to_pylist()}


def evaluated(interactions: HistoryExamples) -> set[str]:
    return {user for batch in interactions.questions("test") if batch for user in batch.user_ids}


def trained(stream: TrainStream) -> set[str]:
    return {user for step in range(len(stream)) for batch in stream[step] for user in batch.user_ids}


def test_a_bad_block_stops_the_run_and_names_it(copy: Path, scan: Callable[..., HistoryExamples]) -> None:
    shard = flip(copy, "user_blocks.parquet", 5)
    with pytest.raises(ShardSetError, match=rf"{shard}: block 5 cannot be read \(.*checksum.*data_tools verify.*skip"):
        scan(path=copy)


def test_a_bad_item_stops_the_run_and_names_it(
    copy: Path, tmp_path: Path, numbered_content: Callable[..., Any]
) -> None:
    shard = flip(copy, "items.parquet", 6, "json_")
    with pytest.raises(ShardSetError, match=rf"{shard}: item 7 cannot be read \(.*checksum.*data_tools verify.*skip"):
        ItemStore(ShardFolder(copy), {"text": numbered_content()}, tmp_path / "cache")


@pytest.mark.parametrize("data", [{}, {"windows": "last"}, {"split": {"name": "temporal"}}])
def test_a_skipped_block_trains_nobody_and_evaluates_nobody(
    copy: Path, scan: Callable[..., HistoryExamples], make_stream: Callable[..., TrainStream], data: dict[str, Any]
) -> None:
    gone = set(scan(path=copy).block(5).user_ids.to_pylist())
    whole = scan(path=copy, **data)
    assert gone <= users_of(whole)
    flip(copy, "user_blocks.parquet", 5)
    some = scan(path=copy, **SKIP, **data)
    assert list(some.shards.skipped) == [5]
    assert users_of(some) == users_of(whole) - gone
    assert evaluated(some) <= users_of(some)
    assert trained(make_stream(path=copy, **SKIP, **data)) <= users_of(some)
    items = np.concatenate([some.block(number).items for number in range(13)])
    if not data:
        assert some.candidates.tolist() == np.unique(items).tolist()


def test_a_fraction_is_of_all_users_whoever_is_skipped(copy: Path, scan: Callable[..., HistoryExamples]) -> None:
    """Those who train in the smaller part also train in the whole: block 5 counts as if it were there."""
    flip(copy, "user_blocks.parquet", 5)
    some = scan(path=copy, fraction=0.5, **SKIP)
    stops = [int((stop > 0).sum()) for stop in map(some.train_stops, range(len(some.shards)))]
    assert stops == [16] * 5 + [0, 4] + [0] * 6


def test_a_skipped_item_has_an_empty_text(copy: Path) -> None:
    flip(copy, "items.parquet", 6, "json_")
    items = ItemShards(ShardFolder(copy))
    items.skipped = find_bad(items, items.numbers, set)
    records = list(items)
    assert list(items.skipped) == [7]
    assert {records[6][field] for field in items.folder.index.text_fields} == {""}
    assert all(record["text"] for record in records[:6] + records[7:])


def test_more_than_the_share_stops_the_run(copy: Path, scan: Callable[..., HistoryExamples]) -> None:
    for number in (1, 5):
        flip(copy, "user_blocks.parquet", number)
    scan(path=copy, on_bad_sample="skip", most_bad_share=32 / 200)
    with pytest.raises(ShardSetError, match=r"32 of 200 users cannot be read.*most_bad_share=0\.159.*block 1"):
        scan(path=copy, on_bad_sample="skip", most_bad_share=0.159)


def test_ranks_leave_out_what_any_of_them_cannot_read(
    synthetic_shards: Path, copy: Path, scan: Callable[..., HistoryExamples], tmp_path: Path
) -> None:
    """Two nodes, each with a fault of its own on its own disk; what each finds is told to the other."""
    other = Path(shutil.copytree(synthetic_shards, tmp_path / "other"))
    flip(copy, "user_blocks.parquet", 5)
    flip(other, "user_blocks.parquet", 9)

    places = [copy, other]
    config = scan(path=synthetic_shards).config

    def read(peers: Peers) -> HistoryExamples:
        mine = config.model_copy(update={"path": places[peers.rank], **SKIP})
        return mine.scan(5, peers)  # type: ignore[return-value]

    ranks = on_ranks(2, read)
    assert [list(rank.shards.skipped) for rank in ranks] == [[5, 9], [5, 9]]
    assert ranks[0].popularity.tolist() == ranks[1].popularity.tolist()
    streams = [
        TrainStream(rank, rank.collation(ItemStore(rank.folder, {}, Path()), Sampling(), 7), 24, 7, number, 2)
        for number, rank in enumerate(ranks)
    ]
    assert [order.order.slots(3).tolist() for order in streams] == [streams[0].order.slots(3).tolist()] * 2
    reasons = [rank.shards.skipped[9].record["reason"] for rank in ranks]
    assert reasons[0] == "another process cannot read it"
    assert "checksum" in reasons[1]


def test_ranks_that_see_different_sets_do_not_start(
    synthetic_shards: Path, scan: Callable[..., HistoryExamples], build_shards: Callable[..., Path]
) -> None:
    places = [synthetic_shards, build_shards({"a": [1, 2, 3, 4, 5]}, n_items=5)]
    config = scan(path=synthetic_shards).config

    def refused(peers: Peers) -> None:
        with pytest.raises(ShardSetError, match="changed while the run was starting"):
            config.model_copy(update={"path": places[peers.rank]}).scan(5, peers)

    on_ranks(2, refused)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_turns_bad_later_stops_the_run(copy: Path, make_stream: Callable[..., TrainStream], workers: int) -> None:
    """Then nobody can be asked to leave it out; the error crosses from the loader's process as one line."""
    stream = make_stream(path=copy, **SKIP)
    stream.examples.shards.block.cache_clear()
    for path in copy.glob("users-*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BadSample, match=r"users-\d+\.tar: block \d+ cannot be read") as raised:
        next(stream.load(0, 2, workers))
    assert "\n" not in str(raised.value)


def test_what_is_skipped_is_written_down(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = UserShards(ShardFolder(copy))
    skipped = {5: shards.bad(5, "for a reason")}
    write_skipped(tmp_path, skipped, {})
    assert json.loads((tmp_path / "skipped.jsonl").read_text()) == {
        "file": shards.bad(5, "").record["file"],
        "what": "block 5",
        "reason": "for a reason",
    }
    warn(skipped, {})
    assert capsys.readouterr().err == "left out as unreadable: 1 blocks of users, 0 items\n"
    warn({}, {})
    assert capsys.readouterr().err == ""
    assert len({digest({}, {}), digest(skipped, {}), digest({}, skipped)}) == 3


def test_an_error_crosses_processes(copy: Path) -> None:
    error = UserShards(ShardFolder(copy)).bad(5, "for a reason")
    other = pickle.loads(pickle.dumps(error))
    assert (str(other), other.record) == (str(error), error.record)


def rebuild_block(folder: Path, change: Callable[[pa.RecordBatch], pa.RecordBatch]) -> None:
    """Put another block 0 in the place of the old one, with checksums that agree."""
    table = pq.read_table(folder / "user_blocks.parquet")
    rows = table.to_pylist()
    path = folder / rows[0]["shard"]
    data = path.read_bytes()
    old = data[rows[0]["offset"] : rows[0]["offset"] + rows[0]["bytes"]]
    sink = pa.BufferOutputStream()
    batch = change(pa.ipc.open_stream(old).read_next_batch())
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    new = sink.getvalue().to_pybytes()
    rows[0] |= {"offset": len(data), "bytes": len(new), "crc32": zlib.crc32(new)}
    path.write_bytes(data + new)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / "user_blocks.parquet")
    for name in (path.name, "user_blocks.parquet"):
        seal(folder, name)


def replace_column(name: str, values: Callable[[list[Any]], list[Any]]) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    def change(batch: pa.RecordBatch) -> pa.RecordBatch:
        place = batch.schema.get_field_index(name)
        column = pa.array(values(batch.column(name).to_pylist()), batch.schema.field(name).type)
        return batch.set_column(place, batch.schema.field(name), column)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda batch: batch.slice(1), "does not hold 16 users"),
        (lambda batch: batch.drop_columns(["items"]), "its columns are"),
        (lambda batch: batch.drop_columns(["pace"]), "its columns are"),
        (replace_column("items", lambda rows: [[0, *row[1:]] for row in rows]), "it has items 0 to"),
        (replace_column("items", lambda rows: [[61, *row[1:]] for row in rows]), "to 61, not 1 to 60"),
        (replace_column("items", lambda rows: [[None, *row[1:]] for row in rows]), "does not hold"),
        (replace_column("user_id", lambda rows: [None, *rows[1:]]), "does not hold"),
        (replace_column("timestamps", lambda rows: [row[1:] for row in rows]), "different numbers of items"),
        (replace_column("ratings", lambda rows: [row[1:] for row in rows]), "different numbers of items"),
        (replace_column("ratings", lambda rows: [None, *rows[1:]]), "does not hold"),
    ],
)
def test_a_block_that_is_as_written_but_would_lead_astray_is_bad(
    copy: Path, change: Callable[[pa.RecordBatch], pa.RecordBatch], reason: str
) -> None:
    rebuild_block(copy, lambda batch: batch)
    UserShards(ShardFolder(copy)).read(0)
    rebuild_block(copy, change)
    with pytest.raises(BadSample, match=reason):
        UserShards(ShardFolder(copy)).read(0)
