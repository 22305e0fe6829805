import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from transrec.data.shards.shard_cache import ShardCache

FORK = multiprocessing.get_context("fork")


def writer(content: bytes, log: list[str] | None = None) -> Callable[[Path], None]:
    def download(target: Path) -> None:
        if log is not None:
            log.append(target.name)
        target.write_bytes(content)

    return download


def names(cache: ShardCache) -> set[str]:
    return {path.name for path in cache.folder.glob("[!.]*/*")}


def test_a_file_is_made_once(tmp_path: Path) -> None:
    cache, log = ShardCache(tmp_path, 100), []
    for _ in range(3):
        with cache.open(tmp_path / "set" / "a", 3, writer(b"abc", log)) as file:
            assert file.read() == b"abc"
    assert len(log) == 1


def test_the_least_recently_opened_goes_first(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 30)
    for name in "abc":
        cache.open(tmp_path / "set" / name, 10, writer(bytes(10))).close()
        time.sleep(0.01)
    cache.open(tmp_path / "set" / "a", 10, writer(bytes(10))).close()
    cache.open(tmp_path / "other" / "d", 10, writer(bytes(10))).close()
    assert names(cache) == {"a", "c", "d"}


def test_no_more_goes_than_must(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 30)
    for name in "abc":
        cache.open(tmp_path / "set" / name, 10, writer(bytes(10))).close()
        time.sleep(0.01)
    cache.open(tmp_path / "set" / "d", 15, writer(bytes(15))).close()
    assert names(cache) == {"c", "d"}


def test_what_is_being_read_stays_readable(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10)
    with cache.open(tmp_path / "set" / "a", 10, writer(b"0123456789")) as file:
        cache.open(tmp_path / "set" / "b", 10, writer(bytes(10))).close()
        assert names(cache) == {"b"}
        assert file.read() == b"0123456789"


def test_what_goes_before_it_is_opened_is_made_again(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10)
    path, tries = tmp_path / "set" / "a", []

    class Hasty(ShardCache):
        def _fetch(self, path: Path, size: int, download: Callable[[Path], None]) -> None:
            super()._fetch(path, size, download)
            if len(tries) == 1:
                cache.drop(path)

    with Hasty(tmp_path, 10).open(path, 2, writer(b"ab", tries)) as file:
        assert file.read() == b"ab"
    assert len(tries) == 2


def test_a_failed_download_leaves_nothing(tmp_path: Path) -> None:
    def fail(target: Path) -> None:
        target.write_bytes(b"half")
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        ShardCache(tmp_path, 10).open(tmp_path / "set" / "a", 10, fail)
    assert names(ShardCache(tmp_path, 10)) == set()


def test_a_download_counts_from_its_beginning(tmp_path: Path) -> None:
    """Two at a time must not exceed the limit together, nor remove each other."""
    cache = ShardCache(tmp_path, 20)
    began, may_end = threading.Event(), threading.Event()

    def slow(target: Path) -> None:
        began.set()
        assert may_end.wait(10)
        target.write_bytes(b"s" * 10)

    cache.open(tmp_path / "set" / "old", 10, writer(bytes(10))).close()
    thread = threading.Thread(target=lambda: cache.open(tmp_path / "set" / "slow", 10, slow).close())
    thread.start()
    assert began.wait(10)
    cache.open(tmp_path / "set" / "new", 10, writer(bytes(10))).close()
    assert names(cache) == {".slow.partial", "new"}
    may_end.set()
    thread.join()
    assert names(cache) == {"slow", "new"}


def test_other_processes_wait_for_the_first(tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"

    def download(target: Path) -> None:
        with downloads.open("a") as log:
            log.write("x")
        time.sleep(0.3)
        target.write_bytes(b"abc")

    def read() -> None:
        with ShardCache(tmp_path / "cache", 100).open(tmp_path / "cache" / "set" / "a", 3, download) as file:
            os._exit(0 if file.read() == b"abc" else 1)

    processes = [FORK.Process(target=read) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0] * 4
    assert downloads.read_text() == "x"


def test_a_killed_download_hinders_nobody(tmp_path: Path) -> None:
    cache, path = ShardCache(tmp_path, 15), tmp_path / "set" / "a"

    def die(target: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    process = FORK.Process(target=lambda: cache.open(path, 10, die))
    process.start()
    process.join(20)
    assert names(cache) == {".a.partial"}
    cache.open(tmp_path / "set" / "b", 10, writer(bytes(10))).close()
    assert names(cache) == {"b"}, "what it left counts and can go"
    with cache.open(path, 10, writer(b"0123456789")) as file:
        assert file.read() == b"0123456789"
