import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from data_tools.shard_writer import ShardWriter, hash_file


def write(folder: Path, contents: list[bytes], shard_bytes: int = 10**9) -> ShardWriter:
    with ShardWriter(folder, "items", shard_bytes) as writer:
        for number, content in enumerate(contents):
            writer.write([(f"{number:09d}.json", content)])
    return writer


def test_plain_webdataset_reads_the_samples(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "items", 10**9) as writer:
        writer.write([("000000001.json", b"{}"), ("000000001.jpg", b"pixels")])
        writer.write([("000000002.json", b"[]")])
    samples = list(webdataset.WebDataset(str(tmp_path / "items-000000.tar"), shardshuffle=False))
    assert [(s["__key__"], s["json"], s.get("jpg")) for s in samples] == [
        ("000000001", b"{}", b"pixels"),
        ("000000002", b"[]", None),
    ]


def test_headers_hold_nothing_of_this_machine(tmp_path: Path) -> None:
    write(tmp_path, [b"x"])
    with tarfile.open(tmp_path / "items-000000.tar") as tar:
        [member] = tar
    assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
    assert (member.mode, member.pax_headers) == (0o444, {})


@given(st.lists(st.binary(max_size=1200), min_size=1, max_size=12), st.integers(1, 6000))
def test_bytes_lie_where_the_writer_says(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], shard_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    with ShardWriter(folder, "items", shard_bytes) as writer:
        placed = [writer.write([(f"{n:09d}.json", content)])[0] for n, content in enumerate(contents)]
    for place, content in zip(placed, contents, strict=True):
        data = (folder / place.shard).read_bytes()
        assert data[place.offset : place.offset + place.size] == content
    found = []
    for entry in writer.entries:
        path = folder / entry.name
        assert (entry.bytes, entry.sha256) == (path.stat().st_size, hash_file(path))
        assert entry.bytes % tarfile.RECORDSIZE == 0
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            found += [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
        assert len(members) == entry.samples
        sizes = [512 + -(-member.size // 512) * 512 for member in members]
        assert sum(sizes) <= shard_bytes or len(members) == 1
    assert found == contents


def test_shards_split_at_sample_boundaries(tmp_path: Path) -> None:
    writer = write(tmp_path, [b"x"] * 5, shard_bytes=2 * 1024)
    assert [(entry.name, entry.samples) for entry in writer.entries] == [
        ("items-000000.tar", 2),
        ("items-000001.tar", 2),
        ("items-000002.tar", 1),
    ]
