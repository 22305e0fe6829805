"""The card beside a set of shards: what people and Hugging Face read, and no part of the set."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from data_tools.build import build
from data_tools.card import card
from data_tools.sources.synthetic import SyntheticSource
from data_tools.verify import verify
from transrec.data.shards.schema import CARD_FILE, ShardIndex
from transrec.data.shards.shard_folder import ShardFolder


def front_matter(text: str) -> dict[str, object]:
    empty, head, _ = text.split("---\n", 2)
    assert empty == ""
    found: dict[str, object] = yaml.safe_load(head)
    return found


def test_a_build_writes_a_card_with_its_counts(synthetic_shards: Path) -> None:
    text = (synthetic_shards / CARD_FILE).read_text("utf-8")
    assert front_matter(text)["size_categories"] == ["1K<n<10K"]
    assert front_matter(text)["license"] == "cc0-1.0"
    counts = ShardIndex.load(synthetic_shards).counts
    for line in (f"| users | {counts.users:,} |", f"| items | {counts.items:,} |", '"source": "synthetic"'):
        assert line in text
    assert "median 11, mean 12.0, longest" in text or "median 12, mean 12.0, longest" in text


def test_what_was_left_out_is_in_the_card(tmp_path: Path) -> None:
    index = ShardIndex.load(_built(tmp_path / "set"))
    counts = index.counts.model_copy(update={"dropped": {"min-rating": 12}, "rejects": {"no id": 3}})
    text = card(index.model_copy(update={"counts": counts}), np.array([2, 4]))
    assert "- dropped by filters: min-rating 12\n- rejected rows, listed in `rejects.jsonl`: no id 3\n" in text
    assert "median 3, mean 3.0, longest 4" in text


def test_a_licence_that_is_not_known_is_to_be_filled_in(tmp_path: Path) -> None:
    index = ShardIndex.load(_built(tmp_path / "set"))
    text = card(index.model_copy(update={"build": {"source": "tables"}}), np.array([1]))
    assert front_matter(text)["license"] == "unknown"
    assert "write the licence of the data here" in text


@pytest.mark.parametrize("change", ["written on", "removed"])
def test_the_card_is_no_part_of_the_set(tmp_path: Path, change: str) -> None:
    shards = _built(tmp_path / "set")
    before = ShardFolder(shards).index_sha256
    if change == "removed":
        (shards / CARD_FILE).unlink()
    else:
        (shards / CARD_FILE).write_text("# Ours")
    assert verify(shards) == []
    assert ShardFolder(shards).index_sha256 == before


@pytest.mark.parametrize(
    ("interactions", "category"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (5 * 10**8, "100M<n<1B"), (2 * 10**9, "n>1B")],
)
def test_the_size_is_a_category_of_hugging_face(tmp_path: Path, interactions: int, category: str) -> None:
    index = ShardIndex.load(_built(tmp_path / "set"))
    counts = index.counts.model_copy(update={"interactions": interactions})
    text = card(index.model_copy(update={"counts": counts}), np.array([1]))
    assert front_matter(text)["size_categories"] == [category]


def _built(folder: Path) -> Path:
    build(SyntheticSource(20, 10, 100, seed=1), "synthetic", folder)
    return folder
