from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pictured import build_pictured, random_histories

from transrec.config import validate
from transrec.data.batch import ItemContent, ModalityContent, Sampling
from transrec.data.content.augmentation import AREA, RATIO, augmented, view
from transrec.data.content.item_store import ItemStore
from transrec.data.examples import DataConfig
from transrec.data.examples.histories import HistoryExamples
from transrec.data.train_stream import TrainStream


def pictures(sizes: list[int], rows: list[int]) -> ModalityContent:
    chunks = [{"pixel_values": torch.zeros(size, 3, 4, 4, dtype=torch.uint8)} for size in sizes]
    blank = {"pixel_values": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}
    return ModalityContent(torch.tensor(rows, dtype=torch.int64), chunks, blank, passes=max(1, len(sizes)))


def views(content: ModalityContent) -> torch.Tensor:
    return torch.cat([chunk["view"] for chunk in content.chunks])


def test_an_item_looks_alike_in_every_batch_of_a_step_and_otherwise_in_the_next() -> None:
    one = views(augmented(pictures([2, 1], [0, 2, 3]), np.array([5, 6, 7, 9]), seed=1, step=4))
    other = views(augmented(pictures([1, 1], [0, 1]), np.array([9, 5]), seed=1, step=4))
    assert torch.equal(one[[2, 0]], other)
    for seed, step in ((1, 5), (2, 4)):
        assert not torch.equal(views(augmented(pictures([1], [0]), np.array([5]), seed, step)), one[:1])


def test_surplus_passes_have_a_view_too() -> None:
    content = augmented(pictures([2], [1, 0]), np.array([5, 6]), seed=1, step=4)
    assert torch.equal(content.blank["view"], content.chunks[0]["view"][:1])
    assert augmented(pictures([], []), np.array([5, 6]), seed=1, step=4).blank["view"].shape == (1, 2, 3)


def test_views_lie_within_the_picture_and_keep_enough_of_it() -> None:
    drawn = np.stack([view(0, step, 3) for step in range(400)])
    width, height = np.abs(drawn[:, 0, 0]), drawn[:, 1, 1]
    assert (np.abs(drawn[:, 0, 2]) + width <= 1 + 1e-6).all()
    assert (np.abs(drawn[:, 1, 2]) + height <= 1 + 1e-6).all()
    for drawn_there, (low, high) in ((width * height, AREA), (width / height, RATIO)):
        assert low - 1e-6 <= drawn_there.min() < low + 0.1
        assert high - 0.1 < drawn_there.max() <= high + 1e-6
    assert 0.4 < (drawn[:, 0, 0] < 0).mean() < 0.6


@pytest.fixture(scope="module")
def interactions(tmp_path_factory: pytest.TempPathFactory) -> HistoryExamples:
    folder = tmp_path_factory.mktemp("pictured")
    shards = build_pictured(folder, 12, range(1, 9), range(1, 13), random_histories(20, 12))
    return validate(DataConfig, {"path": str(shards), "cache": str(folder)}).scan(4)


def stores(interactions: HistoryExamples, cache: Path, augment: bool) -> ItemStore:
    wanted = SimpleNamespace(chunk_images=3, decoded_cache=False, size=4, augment=augment)
    return ItemStore(interactions.shards.folder, {"image": wanted}, cache)


def by_item(content: ItemContent) -> dict[int, torch.Tensor]:
    image = content.modalities["image"]
    return dict(zip(content.items[image.rows].tolist(), views(image), strict=True))


def test_training_sees_views_that_no_topology_changes(interactions: HistoryExamples, tmp_path: Path) -> None:
    def stream(**place: int) -> TrainStream:
        store = stores(interactions, tmp_path, augment=True)
        return TrainStream(interactions, interactions.collation(store, Sampling(), 3), 8, seed=3, **place)

    (whole,) = stream()[2]
    parts = [part for rank in (0, 1) for part in stream(rank=rank, world_size=2, accumulation=2)[2]]
    seen = by_item(whole.content)
    assert len(seen) > 1
    for part in parts:
        for item, its_view in by_item(part.content).items():
            assert torch.equal(its_view, seen[item])
    assert set(seen) == {item for part in parts for item in by_item(part.content)}


def test_only_training_sees_views_and_only_if_it_asks(interactions: HistoryExamples, tmp_path: Path) -> None:
    items = np.array([1, 2, 9])
    asked, plain = (stores(interactions, tmp_path, augment) for augment in (True, False))
    assert "view" not in asked.content(items).modalities["image"].chunks[0]
    assert "view" not in plain.for_training(items, 0, 0).modalities["image"].chunks[0]
    assert "view" in asked.for_training(items, 0, 0).modalities["image"].chunks[0]
