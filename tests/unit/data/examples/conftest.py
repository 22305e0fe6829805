"""Impressions over ratings that can be checked by hand."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rated_world import MAX_LENGTH, N_ITEMS, profiles, ratings

from transrec.data.batch import Sampling
from transrec.data.content.item_store import ItemStore
from transrec.data.examples import DataConfig
from transrec.data.examples.feature_rows import FeatureRows, count
from transrec.data.examples.impressions import ImpressionExamples
from transrec.data.train_stream import TrainStream
from transrec.features import FeatureConfig

LAST_SHARE = {"name": "last_share", "valid": 0.2, "test": 0.2}


@pytest.fixture(scope="session")
def rated_shards(build_shards: Callable[..., Path]) -> Path:
    """Forty users, three to a block, a few blocks to a shard."""
    return build_shards(ratings(), N_ITEMS, block_users=3, profiles=profiles())


@pytest.fixture
def scan_impressions(rated_shards: Path, tmp_path: Path) -> Callable[..., ImpressionExamples]:
    """`scan_impressions(exposures={…}, split={…}, features={…})`: ratings as impressions, last shares held out."""

    def scan_impressions(
        path: Path = rated_shards,
        exposures: Mapping[str, Any] = {"name": "rated"},
        split: Mapping[str, Any] = LAST_SHARE,
        features: Mapping[str, FeatureConfig] | None = None,
        max_length: int = MAX_LENGTH,
        min_interactions: int = 1,
        heads: Sequence[str] = ("click",),
        keep_negatives: float = 1.0,
        **values: Any,
    ) -> ImpressionExamples:
        config = DataConfig(
            path=path,
            cache=tmp_path / "cache",
            examples={
                "name": "impressions",
                "exposures": exposures,
                "heads": list(heads),
                "keep_negatives": keep_negatives,
            },
            split=split,
            min_interactions=min_interactions,
            **values,
        )
        examples = config.scan(max_length)
        assert isinstance(examples, ImpressionExamples)
        if features is not None:
            known = count(examples.folder, features, examples.popularity, examples.training)
            examples.features = FeatureRows.of(examples.folder, features, known)
        return examples

    return scan_impressions


@pytest.fixture
def impression_stream(scan_impressions: Callable[..., ImpressionExamples]) -> Callable[..., TrainStream]:
    """`impression_stream(rank=1, world_size=2, features={…})`: the training stream of a rank, without content."""

    def impression_stream(
        sampling: Sampling = Sampling(),  # noqa: B008 (immutable)
        batch_size: int = 24,
        seed: int = 7,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        **data: Any,
    ) -> TrainStream:
        examples = scan_impressions(**data)
        store = ItemStore(examples.folder, {}, examples.config.cache)
        collate = examples.collation(store, sampling, seed)
        return TrainStream(examples, collate, batch_size, seed, rank, world_size, accumulation)

    return impression_stream
