"""A set of items without users, as of a channel before its first order: a catalogue, but nothing to train on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from portable_runs import untrained
from tiny_world import Tiny
from untrained_runs import make

from data_tools.build import build as build_shards
from data_tools.sources.tables import TablesSource
from data_tools.verify import verify
from transrec import load_run
from transrec.config import ConfigError
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.shard_folder import ShardFolder
from transrec.distributed.world import World
from transrec.runs.build import build
from transrec.runs.vector_export import Wanted, export_vectors

EVIDENCE = [{"name": name} for name in ("co_occurrence", "transitions", "content_similarity", "cold_similarity")]


@pytest.fixture
def new_items(tmp_path: Path, tiny: Tiny) -> Path:
    """Five items with texts of the tiny world, of which the ids are new."""
    records = list(ItemShards(ShardFolder(tiny.shards)))[:5]
    rows = "".join(f"new-{n}\t{record['title']}\t{record['text']}\n" for n, record in enumerate(records))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "items.tsv").write_text(f"item_id\ttitle\ttext\n{rows}")
    (tmp_path / "raw" / "interactions.tsv").write_text("user_id\titem_id\ttimestamp\n")
    index = build_shards(TablesSource(tmp_path / "raw"), "tables", tmp_path / "items")
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (0, 5, 0)
    assert verify(tmp_path / "items") == []
    return tmp_path / "items"


@pytest.mark.parametrize("model", [{}, {"evidence": EVIDENCE}], ids=["alone", "with evidence"])
def test_they_are_recommended_and_exported(tmp_path: Path, tiny: Tiny, new_items: Path, model: dict[str, Any]) -> None:
    untrained(tmp_path / "run", tiny, **model)
    recommender = load_run(tmp_path / "run", catalogue=new_items)
    found = recommender.recommend(["new-0"], top=10)
    assert sorted(row["item_id"] for row in found) == ["new-1", "new-2", "new-3", "new-4"]
    assert all(np.isfinite(row["score"]) for row in found)
    export_vectors(recommender, tmp_path / "vectors", Wanted())
    assert recommender.item_vectors().ids == [f"new-{n}" for n in range(5)]


def test_training_on_them_is_refused(tmp_path: Path, tiny: Tiny, new_items: Path) -> None:
    text = {"name": "text", "backbone": str(tiny.backbone)}
    with pytest.raises(ConfigError, match=r"items has items but no users: train on shards with interactions"):
        build(make(tmp_path / "run", new_items, text), World())


def test_evaluating_on_them_is_refused(tmp_path: Path, tiny: Tiny, new_items: Path) -> None:
    untrained(tmp_path / "run", tiny)
    with pytest.raises(ConfigError, match="no user"):
        load_run(tmp_path / "run").evaluate(data=new_items)
