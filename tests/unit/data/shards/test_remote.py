import hashlib
import logging
from pathlib import Path

import fsspec
import pytest
from shard_server import serve

from transrec.data.shards import remote
from transrec.data.shards.remote import RemoteError, UrlError, fetch, parse_place, public, read
from transrec.errors import TransRecError

CONTENT = bytes(range(256)) * 5000  # more than one part
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.001)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.write_bytes(bytes(len(CONTENT)))
    return path


@pytest.mark.parametrize("text", ["shards/x", "/abs/x", "x", "./a:b", "~/x"])
def test_a_path_is_a_path(text: str) -> None:
    assert parse_place(text) == Path(text).expanduser()


@pytest.mark.parametrize("value", [None, 3, ["x"], {}])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(UrlError, match="expected a folder or a URL, found"):
        parse_place(value)


@pytest.mark.parametrize(
    "text",
    ["http://host:8000/a", "https://user:p%40w@host/a", "s3://bucket/a-b_c.d", "memory://a", "file:///a/b", "HTTP://h"],
)
def test_a_url_stays_text(text: str) -> None:
    assert parse_place(text + "/") == text


@pytest.mark.parametrize(
    "text",
    [
        "pipe:cat x",
        "pipe://cat x",
        "gopen:x",
        "nonsense://host/x",
        "file:x; touch executed",
        "file:///x;touch executed",
        "file:///$(touch executed)",
        "file:///x|sh",
        "file:x",
        "https:host/x",
        "https://host/x?token=1",
        "https://host/x y",
        "simplecache::s3://bucket/x",
        "s3://bucket/x::memory://y",
        "https://host/a@b",
        "https://user:pa/ss@host/x",
    ],
)
def test_what_only_looks_like_a_url_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UrlError) as raised:
        parse_place(text)
    assert "\n" not in str(raised.value)
    assert "pa/ss" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["https://user:secret@host/a", "https://user:se@cret@host/a", "https:user:secret@host/a"]
)
def test_credentials_are_not_shown(url: str) -> None:
    assert public(url).endswith("host/a")
    assert "user" not in public(url)
    assert "cret" not in public(url)


@pytest.mark.parametrize("scheme", ["http", "memory", "file"])
def test_a_file_arrives_whole(folder: Path, target: Path, scheme: str) -> None:
    fsspec.filesystem("memory").pipe("/served/file", CONTENT)
    with serve(folder) as server:
        url = {"http": f"{server.url}/file", "memory": "memory://served/file", "file": f"file://{folder}/file"}[scheme]
        fetch(url, target, len(CONTENT), SHA256)
        assert read(url, len(CONTENT)) == CONTENT
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset", "truncate", "corrupt"])
def test_what_passes_is_tried_again(folder: Path, target: Path, fault: str) -> None:
    with serve(folder, lambda number: fault if number < 4 else None) as server:
        fetch(f"{server.url}/file", target, len(CONTENT), SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("fault", "reason"), [("503", "answered 503"), ("truncate", ""), ("corrupt", "SHA-256 differs"), ("reset", "")]
)
def test_what_does_not_pass_is_an_error_that_names_the_url_and_the_tries(
    folder: Path, target: Path, fault: str, reason: str
) -> None:
    with serve(folder, lambda number: fault) as server, pytest.raises(RemoteError) as raised:
        fetch(f"{server.url}/file", target, len(CONTENT), SHA256)
    assert len(server.requests) == 8
    for part in (f"{server.url}/file", reason, "(8 tries)", "start again"):
        assert part in str(raised.value)


def test_nobody_listening_is_tried_again_and_then_an_error(folder: Path, target: Path) -> None:
    with serve(folder) as server:
        url = f"{server.url}/file"
    with pytest.raises(RemoteError, match=r"8 tries"):
        fetch(url, target, len(CONTENT), SHA256)


def test_the_waits_grow_and_outlast_five_seconds(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.25)
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with serve(folder, lambda number: "503") as server, pytest.raises(RemoteError):
        read(f"{server.url}/file", 10**9)
    assert len(waits) == 7
    assert sum(waits[:-1]) > 5
    assert all(0.75 <= wait / planned <= 1.25 for wait, planned in zip(waits, [0.25, 0.5, 1, 2, 4, 8, 10], strict=True))


@pytest.mark.parametrize("status", ["403", "404"])
def test_what_will_not_pass_is_not_tried_again(folder: Path, status: str) -> None:
    with serve(folder, lambda number: status) as server, pytest.raises(RemoteError, match=f"answered {status}"):
        read(f"{server.url}/file", 10**9)
    assert len(server.requests) == 1


@pytest.mark.parametrize("url", ["memory://nowhere/file", "file:///nowhere/file"])
def test_a_file_that_is_not_there_is_an_error(url: str) -> None:
    with pytest.raises(RemoteError, match="nowhere/file cannot be read"):
        read(url, 10**9)


def test_more_than_was_asked_for_is_refused(folder: Path, target: Path) -> None:
    with serve(folder) as server:
        with pytest.raises(RemoteError, match="larger than 100 bytes"):
            read(f"{server.url}/file", 100)
        with pytest.raises(RemoteError, match="more than the expected 100 bytes"):
            fetch(f"{server.url}/file", target, 100, SHA256)


def test_a_missing_package_is_an_error_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(RemoteError, match=r"pip install 'transrec\[s3\]'"):
        read("s3://bucket/index.json", 100)


@pytest.mark.parametrize("fault", [None, "503", "404", "truncate"])
def test_credentials_are_sent_and_neither_logged_nor_shown(
    folder: Path, target: Path, fault: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    message = ""
    with serve(folder, lambda number: fault) as server:
        url = f"{server.url.replace('//', '//user:p%40ss@')}/file"
        try:
            fetch(url, target, len(CONTENT), SHA256)
        except TransRecError as error:
            message = str(error)
    assert set(server.authorization) == {"Basic dXNlcjpwQHNz"}  # user:p@ss
    for text in (message, caplog.text):
        assert "p%40ss" not in text
        assert "p@ss" not in text
        assert "dXNlcjpwQHNz" not in text
    assert bool(message) == bool(fault)
