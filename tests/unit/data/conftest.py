"""A text content whose token ids say which item they belong to, and the streams over small shards."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from transrec.data.batch import Sampling
from transrec.data.content.item_store import ItemStore
from transrec.data.examples import DataConfig
from transrec.data.examples.histories import HistoryExamples
from transrec.data.train_stream import TrainStream

L = 5


class NumberedContent:
    """The record of item number n becomes n % 7 + 1 tokens, all of them 1000 + n; counts what it encodes."""

    pad_id = 3
    augment = False

    def __init__(self, key: str = "numbered", chunk_tokens: int = 40) -> None:
        self.key, self.chunk_tokens = key, chunk_tokens
        self.encoded = 0

    def encode(self, records: Sequence[dict[str, Any]]) -> list[list[int]]:
        self.encoded += len(records)
        numbers = [int(record["item_id"].removeprefix("item-")) for record in records]
        return [[1000 + number] * (number % 7 + 1) for number in numbers]


@pytest.fixture
def numbered_content() -> type[NumberedContent]:
    return NumberedContent


@pytest.fixture
def scan(synthetic_shards: Path, tmp_path: Path) -> Callable[..., HistoryExamples]:
    """`scan(stride=2, …)`: the synthetic data through a `DataConfig`; `max_length` is 5; `task` names targets."""

    def scan(
        max_length: int = L, path: Path = synthetic_shards, task: dict[str, Any] | None = None, **values: Any
    ) -> HistoryExamples:
        examples = {"name": "next_item"} if task is None else {"name": "task", "targets": task}
        config = DataConfig(path=path, cache=tmp_path / "cache", examples=examples, **values)
        return config.scan(max_length)  # type: ignore[return-value]

    return scan


@pytest.fixture
def make_stream(scan: Callable[..., HistoryExamples]) -> Callable[..., TrainStream]:
    """`make_stream(rank=1, world_size=2, sampling=…, data={…})`: the training stream of a rank, without text."""

    def make_stream(
        sampling: Sampling = Sampling(),  # noqa: B008 (immutable)
        batch_size: int = 24,
        seed: int = 7,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        **data: Any,
    ) -> TrainStream:
        examples = scan(**data)
        store = ItemStore(examples.folder, {}, examples.config.cache)
        collate = examples.collation(store, sampling, seed)
        return TrainStream(examples, collate, batch_size, seed, rank, world_size, accumulation)

    return make_stream
