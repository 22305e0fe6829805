import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
import webdataset
from small_disk import SmallDisk

from data_tools.build import build
from data_tools.errors import DataToolsError
from data_tools.filters import Filters
from data_tools.rejects import StrictError
from data_tools.sources.synthetic import SyntheticSource
from data_tools.sources.tables import TablesSource
from data_tools.verify import verify
from transrec.data.shards.schema import BLOCKS_SCHEMA, CATALOGUE_SCHEMA, ShardIndex, hash_item_ids, user_order_key
from transrec.locks import BusyError, sole_owner


def samples(path: Path) -> list[dict]:
    return list(webdataset.WebDataset(str(path), shardshuffle=False))


def rejects_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_items_are_webdataset_samples(shards: Path, tmp_path: Path) -> None:
    alpha, beta, ce = samples(shards / "items-000000.tar")
    assert [sample["__key__"] for sample in (alpha, beta, ce)] == ["000000001", "000000002", "000000003"]
    assert json.loads(alpha["json"]) == {
        "item_id": "a", "title": "Alpha", "text": "First letter", "genre": "greek"
    }  # fmt: skip
    assert alpha["jpg"] == (tmp_path / "raw" / "images" / "a.jpg").read_bytes()
    assert json.loads(beta["json"])["text"] == "Beta"
    assert "jpg" not in beta
    assert "Cé".encode() in ce["json"]


def test_users_are_webdataset_samples(shards: Path) -> None:
    [sample] = samples(shards / "users-000000.tar")
    assert sample["__key__"] == "000000000"
    [batch] = pa.ipc.open_stream(sample["arrow"])
    assert batch.schema.names == ["user_id", "items", "timestamps", "ratings", "age"]
    users = {user.pop("user_id"): user for user in batch.to_pylist()}
    assert list(users) == sorted(users, key=user_order_key)
    assert users == {
        "u1": {"items": [1, 2, 3], "timestamps": [10, 20, 20], "ratings": [5.0, 4.0, 1.5], "age": "31"},
        "u2": {"items": [1], "timestamps": [30], "ratings": [None], "age": None},
        "u3": {"items": [3], "timestamps": [5], "ratings": [2.0], "age": "47"},
    }


def test_catalogue_and_blocks_point_at_the_bytes(shards: Path) -> None:
    catalogue = pq.read_table(shards / "items.parquet")
    assert catalogue.schema == CATALOGUE_SCHEMA
    for row in catalogue.to_pylist():
        data = (shards / row["shard"]).read_bytes()
        content = json.loads(data[row["json_offset"] : row["json_offset"] + row["json_bytes"]])
        assert (content["item_id"], content["title"]) == (row["item_id"], row["title"])
        if row["image_offset"] is not None:
            assert data[row["image_offset"] :][:3] == b"\xff\xd8\xff"
            assert data[row["image_offset"] :][: row["image_bytes"]][-2:] == b"\xff\xd9"
    assert catalogue["interactions"].to_pylist() == [2, 1, 2]
    assert catalogue["image_offset"].is_valid().to_pylist() == [True, False, False]
    blocks = pq.read_table(shards / "user_blocks.parquet")
    assert blocks.schema == BLOCKS_SCHEMA
    [block] = blocks.to_pylist()
    data = (shards / block["shard"]).read_bytes()[block["offset"] :][: block["bytes"]]
    [batch] = pa.ipc.open_stream(data)
    assert [len(items) for items in batch["items"].to_pylist()] == block["lengths"]


def test_index(shards: Path) -> None:
    index = ShardIndex.load(shards)
    assert index.build == {"source": "tables", "shard_bytes": 128 * 2**20}
    assert index.counts.model_dump() == {
        "users": 3, "items": 3, "interactions": 5, "impressions": 0, "images": 1,
        "rejects": {}, "dropped": {}, "cleaned": {}
    }  # fmt: skip
    assert index.text_fields == ["title", "text", "genre"]
    assert index.user_columns == ["age"]
    assert index.heads == index.context_columns == []
    assert index.item_ids_sha256 == hash_item_ids(["a", "b", "c"])
    assert [(file.name, file.kind, file.samples) for file in index.files] == [
        ("items-000000.tar", "items", 3),
        ("users-000000.tar", "users", 3),
        ("items.parquet", "catalogue", 3),
        ("user_blocks.parquet", "blocks", 3),
        ("rejects.jsonl", "rejects", 0),
    ]


def test_every_reject_has_file_line_and_reason(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_tables(
        items=b"\xef\xbb\xbfitem_id\ttitle\ttext\timage\r\n"
        b"a\tAlpha\t\tgone.jpg\r\n"
        b"a\tAgain\t\t\r\n"
        b"b\t \t\t\r\n"
        b"\tNameless\t\t\r\n"
        b"c\t\tOnly text\tbroken.jpg\r\n"
        b"d\tToo\tfew\r\n"
        b"e\t\xff\t\t\r\n",
        interactions="user_id\titem_id\ttimestamp\nu\ta\t1\nu\tb\t2\nu\tc\tnow\n\ta\t3\nu\tc\0\t1\nv\tc\t1\n",
        users="user_id\tage\nu\t1\nu\t2\n",
    )
    (folder / "images" / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    index = build(TablesSource(folder), "tables", tmp_path / "out")
    found = [(row["file"], row["line"], row["reason"]) for row in rejects_of(tmp_path / "out")]
    assert sorted(found) == sorted(
        [
            ("items.tsv", 2, "missing_image"),
            ("items.tsv", 3, "duplicate_item"),
            ("items.tsv", 4, "no_text"),
            ("items.tsv", 5, "empty_id"),
            ("items.tsv", 6, "bad_image"),
            ("items.tsv", 7, "wrong_field_count"),
            ("items.tsv", 8, "invalid_utf8"),
            ("interactions.tsv", 3, "unknown_item"),
            ("interactions.tsv", 4, "bad_timestamp"),
            ("interactions.tsv", 5, "empty_id"),
            ("interactions.tsv", 6, "nul_byte"),
            ("users.tsv", 3, "duplicate_user"),
        ]
    )
    details = {row["reason"]: row["detail"] for row in rejects_of(tmp_path / "out")}
    assert details["duplicate_item"] == "item 'a' is already on line 2"
    assert details["unknown_item"] == "item 'b' is not in the catalogue"
    assert (index.counts.items, index.counts.images, index.counts.interactions) == (2, 0, 2)
    assert index.counts.rejects["empty_id"] == 2
    assert sum(index.counts.rejects.values()) == len(found) == index.of_kind("rejects")[0].samples


def test_strict_stops_at_the_first_reject(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_tables(interactions="user_id\titem_id\ttimestamp\nu\ta\t1\nu\tzz\t2\nu\ta\tx\n")
    source = TablesSource(folder)
    with pytest.raises(StrictError, match=r"interactions\.tsv, line 4: bad_timestamp: timestamp is 'x'"):
        build(source, "tables", tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()


def test_same_input_same_bytes(write_tables: Callable[..., Path], shards: Path, tmp_path: Path) -> None:
    build(TablesSource(tmp_path / "raw"), "tables", tmp_path / "again")
    assert folder_bytes(tmp_path / "again") == folder_bytes(shards)


def test_users_and_items_are_split_into_shards(tmp_path: Path) -> None:
    source = SyntheticSource(n_users=700, n_items=60, n_interactions=4000)
    index = build(source, "synthetic", tmp_path / "out", shard_bytes=20_000)
    assert [file.samples for file in index.of_kind("users")] == [256, 256, 188]
    assert len(index.of_kind("items")) > 1
    assert sum(file.samples for file in index.of_kind("items")) == 60
    blocks = pq.read_table(tmp_path / "out" / "user_blocks.parquet").to_pylist()
    assert [len(block["lengths"]) for block in blocks] == [256, 256, 188]
    assert sum(sum(block["lengths"]) for block in blocks) == 4000
    keys = [s["__key__"] for file in index.of_kind("users") for s in samples(tmp_path / "out" / file.name)]
    assert keys == ["000000000", "000000001", "000000002"]


def test_finished_output_is_not_overwritten(shards: Path, tmp_path: Path) -> None:
    before = folder_bytes(shards)
    with pytest.raises(DataToolsError, match="choose another --output or delete it"):
        build(TablesSource(tmp_path / "raw"), "tables", shards)
    assert folder_bytes(shards) == before


def test_other_content_in_the_output_is_not_overwritten(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(DataToolsError, match="not an empty folder"):
        build(TablesSource(write_tables()), "tables", tmp_path / "out")


def test_remains_of_a_broken_build_are_removed(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "items-000007.tar").touch()
    build(TablesSource(write_tables()), "tables", tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
    assert not (tmp_path / "out" / "items-000007.tar").exists()


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"items": "item_id\ttitle\n"}, "the source has no usable item"),
        (
            {
                "interactions": "user_id\titem_id\ttimestamp\n",
                "impressions": "user_id\titem_id\ttimestamp\tclick\nu\ta\t1\t0\n",
            },
            "the source has no usable interaction",
        ),
    ],
)
def test_nothing_usable_is_an_error(
    write_tables: Callable[..., Path], tmp_path: Path, tables: dict, message: str
) -> None:
    with pytest.raises(DataToolsError, match=message):
        build(TablesSource(write_tables(**tables)), "tables", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists(), "nothing was rejected, so there is nothing to look at"


def test_a_header_without_interactions_gives_a_catalogue_of_items(
    write_tables: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_tables(interactions="user_id\titem_id\ttimestamp\n")
    index = build(TablesSource(folder), "tables", tmp_path / "out")
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (0, 3, 0)
    assert index.of_kind("users") == []
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("row", ["u\tzz\t1\n", "u\ta\tnow\n"])
def test_rows_of_which_none_is_usable_do_not(write_tables: Callable[..., Path], tmp_path: Path, row: str) -> None:
    folder = write_tables(interactions=f"user_id\titem_id\ttimestamp\n{row}")
    with pytest.raises(DataToolsError, match="the source has no usable interaction"):
        build(TablesSource(folder), "tables", tmp_path / "out")


def test_rows_that_a_filter_drops_do_not(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_tables(interactions="user_id\titem_id\ttimestamp\nu\ta\t1\n")
    with pytest.raises(DataToolsError, match="the filters drop every interaction"):
        build(TablesSource(folder), "tables", tmp_path / "out", filters=Filters(min_length=2))


@pytest.mark.parametrize(
    ("rating", "message"),
    [("", "no interaction has a rating: leave out --min-rating"), ("2", r"\(min_rating 1\): loosen")],
)
def test_a_minimum_rating_that_drops_everything_says_whether_there_are_ratings(
    write_tables: Callable[..., Path], tmp_path: Path, rating: str, message: str
) -> None:
    source = TablesSource(write_tables(interactions=f"user_id\titem_id\ttimestamp\trating\nu\ta\t1\t{rating}\n"))
    with pytest.raises(DataToolsError, match=message):
        build(source, "tables", tmp_path / "out", filters=Filters(min_rating=3))


def test_a_failed_build_says_where_its_rejects_are(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_tables(interactions="user_id\titem_id\ttimestamp\nu\tzz\t1\n")
    with pytest.raises(DataToolsError, match="no usable interaction") as raised:
        build(TablesSource(folder), "tables", tmp_path / "out")
    left = tmp_path / "out.partial"
    assert raised.value.__notes__ == [f"rows rejected before the error: {left / 'rejects.jsonl'}"]
    assert [path.name for path in left.iterdir()] == ["rejects.jsonl"]
    assert [row["reason"] for row in rejects_of(left)] == ["unknown_item"]


def test_an_output_that_is_being_built_is_refused_and_its_owner_named(tmp_path: Path) -> None:
    """Otherwise each build removes the `.partial` folder of the other."""
    output = tmp_path / "out"
    with sole_owner(tmp_path / ".out.lock", "", ""), pytest.raises(BusyError) as raised:
        build(SyntheticSource(5, 5, 30, 0), "synthetic", output)
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    assert str(raised.value) == f"{output} is being built by {owner}: wait until it ends, or choose another --output"
    (tmp_path / "link").symlink_to(tmp_path)
    with sole_owner(tmp_path / ".out.lock", "", ""), pytest.raises(BusyError, match="is being built"):
        build(SyntheticSource(5, 5, 30, 0), "synthetic", tmp_path / "link" / "out")
    build(SyntheticSource(5, 5, 30, 0), "synthetic", output)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "link"}


@pytest.fixture
def source(write_tables: Callable[..., Path]) -> TablesSource:
    return TablesSource(write_tables())


def is_whole(folder: Path) -> bool:
    """Whether the folder holds a set of shards and nothing else."""
    return verify(folder) == [] and not [path for path in folder.iterdir() if path.is_dir()]


def test_an_empty_mount_point_is_filled(source: TablesSource, tmp_path: Path) -> None:
    """A volume of a container, perhaps with what a file system has at its root; it cannot be renamed onto."""
    disk = SmallDisk(tmp_path / "volume")
    disk.path.mkdir()
    if not disk.mount():
        pytest.skip("mounting is not allowed here")
    try:
        (disk.path / "lost+found").mkdir()
        build(source, "tables", disk.path)
        assert verify(disk.path) == []
        assert sorted(path.name for path in disk.path.iterdir() if path.is_dir()) == ["lost+found"]
    finally:
        disk.unmount()


def test_an_empty_folder_stays_the_same_folder(
    source: TablesSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell may be in it, or a container may have it mounted."""
    (tmp_path / "here").mkdir()
    before = (tmp_path / "here").stat().st_ino
    monkeypatch.chdir(tmp_path / "here")
    build(source, "tables", Path())
    assert Path("items.parquet").exists()
    assert (tmp_path / "here").stat().st_ino == before
    assert is_whole(tmp_path / "here")


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(source: TablesSource, tmp_path: Path, exists: bool) -> None:
    target = tmp_path / "target"
    if exists:
        target.mkdir()
    (tmp_path / "link").symlink_to(target)
    build(source, "tables", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert is_whole(target)


def test_a_link_to_itself_is_refused_before_anything_is_built(source: TablesSource, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "link")
    with pytest.raises(DataToolsError, match="not an empty folder"):
        build(source, "tables", tmp_path / "link")


def test_what_a_build_left_that_was_cut_off_while_it_moved_its_files_is_removed(
    source: TablesSource, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(source, "tables", out)
    (out / ".partial").mkdir()
    for name in ("index.json", "items.parquet"):
        (out / name).rename(out / ".partial" / name)
    build(source, "tables", out)
    assert is_whole(out)


def test_a_failed_build_into_an_empty_folder_leaves_its_rejects(
    write_tables: Callable[..., Path], tmp_path: Path
) -> None:
    source = TablesSource(write_tables(interactions="user_id\titem_id\ttimestamp\nu\tzz\t1\n"))
    (tmp_path / "out").mkdir()
    with pytest.raises(DataToolsError, match="no usable interaction"):
        build(source, "tables", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [".partial", "rejects.jsonl"]


def test_an_image_without_its_end_marker_is_counted_and_kept(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_tables()
    image = folder / "images" / "a.jpg"
    image.write_bytes(image.read_bytes()[:-2])
    index = build(TablesSource(folder), "tables", tmp_path / "shards")
    assert (index.counts.images, index.counts.rejects) == (1, {"unfinished_image": 1})
    assert verify(tmp_path / "shards") == []


def test_a_folder_that_exists_is_locked_from_inside(tmp_path: Path) -> None:
    """It may be a volume of which two containers share nothing else."""
    output = tmp_path / "volume"
    output.mkdir()
    with sole_owner(output / ".lock", "", ""), pytest.raises(BusyError, match="is being built by process"):
        build(SyntheticSource(5, 5, 30, 0), "synthetic", output)
    build(SyntheticSource(5, 5, 30, 0), "synthetic", output)
    assert not list(output.glob(".lock*"))
    assert (output / "index.json").exists()
