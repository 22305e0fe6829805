"""Shards small enough to check by hand: a source of given histories, and builders around it; commands run whole."""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import hypothesis
import pyarrow as pa
import pytest
from commands import ForkedCommands, LaunchedCommands
from small_disk import SmallDisk
from tiny_world import Tiny, write_tiny

import data_tools.build
from data_tools.rejects import RejectSink
from data_tools.source import INTERACTION_COLUMNS, Batch, Item, Totals
from data_tools.sources.synthetic import SyntheticSource

hypothesis.settings.register_profile("untimed", deadline=None)  # how fast a machine is proves nothing here
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)  # of `make test-slow`
hypothesis.settings.load_profile("untimed")

# Ray's workers give way to any other process (niceness 15), and a test that waits for them fails on a busy machine.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_report_header() -> str:
    """The versions that decide most about a failure: `make test` and `make test-oldest` install different ones."""
    libraries = ("torch", "transformers", "deepspeed", "numpy", "pyarrow", "pydantic")
    return "with: " + ", ".join(f"{library} {version(library)}" for library in libraries)


# Item numbers, oldest first, or (item number, timestamp), or (item number, timestamp, rating).
Entry = int | tuple[int, int] | tuple[int, int, float | None]
History = Sequence[Entry]


@dataclass(frozen=True)
class GivenSource:
    """Items 1..n (`item-1` gets index 1) and the histories as given; untimed items come 10 seconds apart.

    An entry without a rating has none.
    """

    n_items: int
    histories: Mapping[str, History]
    profiles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # user -> column -> value

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None: ...

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        return {}

    def totals(self) -> Totals:
        return Totals(None, None)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for number in range(1, self.n_items + 1):
            yield Item("given", number, f"item-{number}", f"Title {number}", f"Text {number}", {}, None)

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        rows = [
            (user, f"item-{item}", timestamp, rating)
            for user, history in self.histories.items()
            for place, entry in enumerate(history)
            for item, timestamp, rating in [_complete(entry, place)]
        ]
        users, items, timestamps, ratings = (list(column) for column in zip(*rows, strict=True))
        columns = [pa.array(users), pa.array(items), pa.array(timestamps), pa.array(ratings, pa.float32())]
        batch = pa.RecordBatch.from_arrays(columns, schema=INTERACTION_COLUMNS)
        yield Batch("given", pa.array(range(1, len(rows) + 1)), batch)

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        rows = [{"user_id": user, **profile} for user, profile in self.profiles.items()]
        if rows:
            yield Batch("given", pa.array(range(1, len(rows) + 1)), pa.RecordBatch.from_pylist(rows))


def _complete(entry: Entry, place: int) -> tuple[int, int, float | None]:
    if isinstance(entry, int):
        return entry, 10 * place, None
    return entry if len(entry) == 3 else (*entry, None)


BuildShards = Callable[..., Path]


@pytest.fixture(scope="session")
def build_shards(tmp_path_factory: pytest.TempPathFactory) -> BuildShards:
    """`build_shards(histories, n_items)`: a new folder of shards, a few users to a block, a few blocks to a shard."""

    def build_shards(
        histories: Mapping[str, History],
        n_items: int,
        block_users: int = 4,
        shard_bytes: int = 2**13,
        profiles: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Path:
        folder = tmp_path_factory.mktemp("given") / "shards"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_tools.build, "BLOCK_USERS", block_users)
            data_tools.build.build(GivenSource(n_items, histories, profiles or {}), "given", folder, shard_bytes)
        return folder

    return build_shards


@pytest.fixture(scope="session")
def synthetic_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 users, 60 items, 2400 interactions: 13 blocks of 16 users in several shards."""
    folder = tmp_path_factory.mktemp("synthetic") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_tools.build, "BLOCK_USERS", 16)
        data_tools.build.build(SyntheticSource(200, 60, 2400, seed=1), "synthetic", folder, shard_bytes=2**15)
    return folder


# Commands run whole, over a set of shards and a language model that take no time


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> ForkedCommands:
    return ForkedCommands(tmp_path_factory.mktemp("forked"))


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> LaunchedCommands:
    return LaunchedCommands(tmp_path_factory.mktemp("launched"))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    disk = SmallDisk(path)
    if not disk.mount():
        pytest.skip("mounting is not allowed here")
    yield disk
    disk.unmount()
