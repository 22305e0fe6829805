import json
import pickle
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_server import ShardServer, serve
from shard_sets import edit_index, make_version_3, seal

from transrec.data.shards import remote
from transrec.data.shards.schema import (
    BLOCKS_FILE,
    BLOCKS_SCHEMA,
    CARD_FILE,
    CATALOGUE_FILE,
    CATALOGUE_SCHEMA,
    ShardIndex,
    ShardSetError,
)
from transrec.data.shards.shard_folder import ShardFolder, UnreadableError

SHARD = "items-000000.tar"


@pytest.fixture
def copy(synthetic_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic_shards, tmp_path / "copy"))


@pytest.fixture
def server(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShardServer]:
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.001)
    with serve(copy) as server:
        yield server


def first_member(folder: ShardFolder) -> tuple[str, int, int, int]:
    row = folder.table(CATALOGUE_FILE, CATALOGUE_SCHEMA, ["shard", "json_offset", "json_bytes", "json_crc32"])
    return tuple(row.slice(0, 1).to_pylist()[0].values())  # type: ignore[return-value]


@pytest.mark.parametrize("scheme", ["http", "memory", "file"])
def test_a_url_gives_what_the_folder_gives(copy: Path, server: ShardServer, tmp_path: Path, scheme: str) -> None:
    fsspec.filesystem("memory").put(f"{copy}/", "/set/", recursive=True)
    url = {"http": server.url, "memory": "memory://set", "file": f"file://{copy}"}[scheme]
    local, away = ShardFolder(copy), ShardFolder(url, tmp_path / "cache")
    assert away.index_sha256 == local.index_sha256
    for entry in local.index.files:
        assert away.fetch(entry.name).read_bytes() == (copy / entry.name).read_bytes()
        assert not away.fetch(entry.name).is_relative_to(copy)
    assert away.table(BLOCKS_FILE, BLOCKS_SCHEMA).equals(local.table(BLOCKS_FILE, BLOCKS_SCHEMA))
    assert away.read(*first_member(local)) == local.read(*first_member(local))
    assert {path.name for path in away.copy().iterdir()} == {path.name for path in copy.iterdir()} - {CARD_FILE}


def test_a_copy_of_a_set_of_version_3_is_that_set(copy: Path, server: ShardServer, tmp_path: Path) -> None:
    make_version_3(copy)
    away = ShardFolder(server.url, tmp_path / "cache").copy()
    assert (away / "index.json").read_bytes() == (copy / "index.json").read_bytes()
    assert ShardFolder(away).index_sha256 == ShardFolder(copy).index_sha256


def test_a_file_is_downloaded_once_for_all_who_share_the_cache(server: ShardServer, tmp_path: Path) -> None:
    for _ in range(3):
        folder = pickle.loads(pickle.dumps(ShardFolder(server.url, tmp_path / "cache")))
        folder.fetch(SHARD)
    assert server.requests.count(SHARD) == 1
    assert server.requests.count("index.json") == 3


def test_only_what_is_read_is_downloaded(server: ShardServer, tmp_path: Path) -> None:
    ShardFolder(server.url, tmp_path / "cache").table(BLOCKS_FILE, BLOCKS_SCHEMA)
    assert server.requests == ["index.json", BLOCKS_FILE]


def test_a_changed_set_is_another_set(copy: Path, server: ShardServer, tmp_path: Path) -> None:
    before = ShardFolder(server.url, tmp_path / "cache")
    old = before.fetch(BLOCKS_FILE).read_bytes()
    table = pq.read_table(copy / BLOCKS_FILE)
    pq.write_table(table.slice(0, 2), copy / BLOCKS_FILE)
    seal(copy, BLOCKS_FILE)
    after = ShardFolder(server.url, tmp_path / "cache")
    assert len(after.table(BLOCKS_FILE, BLOCKS_SCHEMA)) == 2
    assert before.fetch(BLOCKS_FILE).read_bytes() == old
    edit_index(copy, lambda index: index["build"].update(note="changed while a run reads"))
    (copy / SHARD).write_bytes(b"new")
    with pytest.raises(remote.RemoteError, match="of its"):
        before.fetch(SHARD)


def test_a_cached_file_that_rots_is_fetched_again(server: ShardServer, tmp_path: Path) -> None:
    folder = ShardFolder(server.url, tmp_path / "cache")
    name, offset, size, crc32 = first_member(folder)
    good = folder.read(name, offset, size, crc32)
    with folder.fetch(name).open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff")
    assert folder.read(name, offset, size, crc32) == good
    assert server.requests.count(name) == 2


def test_a_cache_too_small_for_the_set_still_serves_it(copy: Path, server: ShardServer, tmp_path: Path) -> None:
    folder = ShardFolder(server.url, tmp_path / "cache", cache_bytes=1)
    for _ in range(2):
        for entry in folder.index.files:
            with folder.open(entry.name) as file:
                assert file.read() == (copy / entry.name).read_bytes()
    assert len(list((tmp_path / "cache" / "shards").glob("[!.]*/*"))) == 1


def test_a_read_is_checked(copy: Path) -> None:
    folder = ShardFolder(copy)
    name, offset, size, crc32 = first_member(folder)
    assert zlib.crc32(folder.read(name, offset, size, crc32)) == crc32
    with pytest.raises(UnreadableError, match=f"{name}: the checksum .* is wrong.*data_tools verify"):
        folder.read(name, offset + 1, size, crc32)


@pytest.mark.parametrize(("offset", "size"), [(-1, 5), (0, -1), (10**9, 5), (0, 2**62)])
def test_a_read_outside_the_file_is_an_error(copy: Path, offset: int, size: int) -> None:
    with pytest.raises(UnreadableError, match="it ends before"):
        ShardFolder(copy).read(SHARD, offset, size, 0)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "pipe:true", "stray.tar"])
def test_a_file_that_the_index_does_not_list_is_not_read(copy: Path, name: str) -> None:
    (copy / "stray.tar").touch()
    (copy.parent / "secret").touch()
    with pytest.raises(UnreadableError, match=r"index\.json: it does not list"):
        ShardFolder(copy).open(name)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "pipe:true", "a b", ".hidden", ""])
def test_an_index_that_names_a_path_is_refused(copy: Path, name: str) -> None:
    edit_index(copy, lambda index: index["files"][0].update(name=name))
    with pytest.raises(ShardSetError, match=r"index\.json is malformed: `files\.0\.name`"):
        ShardFolder(copy)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "SHA-256"),
        (lambda path: path.write_bytes(b"\0" + path.read_bytes()[1:]), "SHA-256"),
        (lambda path: path.write_bytes(b""), "SHA-256"),
    ],
)
def test_a_table_is_checked_as_a_whole(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = ShardFolder(copy)
    damage(copy / BLOCKS_FILE)
    with pytest.raises(UnreadableError, match=f"{BLOCKS_FILE}: .*{message}"):
        folder.table(BLOCKS_FILE, BLOCKS_SCHEMA)


def test_a_table_of_another_kind_is_refused(copy: Path) -> None:
    with pytest.raises(UnreadableError, match="columns differ from the schema"):
        ShardFolder(copy).table(BLOCKS_FILE, CATALOGUE_SCHEMA)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (bytes(5000), "is empty"),
        (b"[]", "is not the index"),
        (b"{}", "is not the index"),
        (b"3", "is not the index"),
        (b"{" + b"\xff" * 10**6, "is not text: byte 1 is not UTF-8"),
        (b"[" * 10**5, "is not JSON"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "is not JSON|is not the index"),
        (b'{"schema_version": "' + b"9" * 10**6 + b'"}', "has schema version 999"),
        (b'{"schema_version": 3, "' + b"k" * 10**6 + b'": 1}', "is malformed"),
        (b'{"schema_version": 3, "build": {', "is not JSON"),
        (b"\n <!DOCTYPE html><title>Log in</title>", "is a web page, not an index: .* may require a login"),
        (b"\xef\xbb\xbf<html>", "is a web page"),
        (b"PK\3\4", "is not JSON"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_index_that_is_none_is_a_short_error(copy: Path, data: bytes, message: str) -> None:
    (copy / "index.json").write_bytes(data)
    with pytest.raises(ShardSetError, match=rf"index\.json {message}") as raised:
        ShardFolder(copy)
    assert len(str(raised.value)) < len(str(copy)) + 600


@given(data=st.binary(max_size=2000), where=st.floats(0, 1))
def test_a_damaged_index_is_a_short_error(synthetic_shards: Path, data: bytes, where: float) -> None:
    index = (synthetic_shards / "index.json").read_bytes()
    start = int(where * len(index))
    damaged = index[:start] + data + index[start + len(data) :]
    message = ""
    try:
        ShardIndex.parse(damaged, "there")
    except ShardSetError as error:
        message = str(error)
    assert len(message) < 800
    assert message or json.loads(damaged) == json.loads(index)


def test_a_server_that_is_not_there_is_an_error(server: ShardServer, tmp_path: Path) -> None:
    server.stop()
    with pytest.raises(remote.RemoteError, match=r"127\.0\.0\.1.*tries"):
        ShardFolder(server.url, tmp_path)
    server._start(server.port)


def test_credentials_are_not_in_names_or_messages(server: ShardServer, tmp_path: Path) -> None:
    folder = ShardFolder(server.url.replace("//", "//user:secret@"), tmp_path / "cache")
    assert "secret" not in str(folder) + folder.locate(SHARD) + str(folder.fetch(SHARD))
    with pytest.raises(UnreadableError) as raised:
        folder.open("stray")
    assert "secret" not in str(raised.value)
