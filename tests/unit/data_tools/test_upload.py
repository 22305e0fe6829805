import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_tools.__main__ import main
from data_tools.verify import verify
from transrec.data.shards.schema import CARD_FILE
from transrec.data.shards.shard_folder import ShardFolder


@pytest.fixture
def bucket() -> Iterator[MemoryFileSystem]:
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture
def build(write_tables: Callable[..., Path]) -> Callable[[str], int]:
    raw = write_tables()
    return lambda output: main(["build", "--source", "tables", "--input", str(raw), "--output", output])


def test_a_set_built_at_a_url_is_the_set_built_in_a_folder(
    bucket: MemoryFileSystem, build: Callable[[str], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("memory://bucket/set") == 0
    assert "memory://bucket/set, 5 files" in capsys.readouterr().out
    assert build(str(tmp_path / "local")) == 0
    copy = ShardFolder("memory://bucket/set", tmp_path / "cache").copy()
    assert verify(copy) == []
    built = {path.name for path in (tmp_path / "local").iterdir()}
    assert {path.name for path in copy.iterdir()} == built - {CARD_FILE}, "which the index does not list"
    assert {Path(name).name for name in bucket.ls("/bucket/set", detail=False)} == built
    for path in copy.glob("[!i]*"):
        assert path.read_bytes() == (tmp_path / "local" / path.name).read_bytes()


def test_the_index_goes_last(
    bucket: MemoryFileSystem, build: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    put = MemoryFileSystem.put_file

    def record(self: MemoryFileSystem, source: str, target: str, **options: Any) -> None:
        sent.append(target.rsplit("/")[-1])
        put(self, source, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", record)
    assert build("memory://bucket/set") == 0
    assert sent[-1] == "index.json"
    assert len(sent) == 7


def test_what_does_not_arrive_whole_is_an_error_and_no_set(
    bucket: MemoryFileSystem,
    build: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda self, source, target: self.pipe(target, b"half"))
    assert build("memory://bucket/set") == 1
    assert "arrived incomplete" in capsys.readouterr().err
    assert not bucket.exists("/bucket/set/index.json")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("memory://bucket/taken", "already holds a set of shards"),
        ("http://user:secret@127.0.0.1:9/x", "cannot upload over HTTP"),
        ("pipe:cat > x", "unknown scheme `pipe:`"),
        ("file:///x;touch y", "not a plain URL"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_built(
    bucket: MemoryFileSystem, build: Callable[[str], int], capsys: pytest.CaptureFixture[str], output: str, message: str
) -> None:
    bucket.pipe("/bucket/taken/index.json", b"{}")
    assert build(output) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "secret" not in error


@pytest.mark.parametrize("rejected", [True, False])
def test_a_failed_build_keeps_its_rejects_and_nothing_else(
    bucket: MemoryFileSystem,
    write_tables: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rejected: bool,
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    raw = write_tables(**({"interactions": "user_id\titem_id\ttimestamp\nu\tzz\t1\n"} if rejected else {}))
    build = ["build", "--source", "tables", "--input", str(raw), "--output", "memory://bucket/set"]
    assert main([*build, "--min-length", "99"]) == 1
    left = [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["rejects.jsonl"] * rejected
    assert all(str(path) in capsys.readouterr().err for path in left)
    assert rejected or not any((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_url_can_be_looked_at(
    bucket: MemoryFileSystem,
    build: Callable[[str], int],
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(ShardFolder.__init__, "__defaults__", (tmp_path / "cache", 0))
    build("memory://bucket/set")
    capsys.readouterr()
    assert main([command, "memory://bucket/set"]) == 0
    assert "3 items" in capsys.readouterr().out
