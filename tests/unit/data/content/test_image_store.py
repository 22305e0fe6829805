from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pictured import build_pictured, colour

from transrec.data.content import image_store
from transrec.data.content.image_store import ImageStore, decode_all
from transrec.data.content.item_store import ItemStore, unchecked
from transrec.data.shards.bad_samples import BadSample, find_bad
from transrec.data.shards.item_shards import ItemImages
from transrec.data.shards.shard_folder import ShardFolder

PICTURED = [2, 3, 5, 8, 9, 11]
N = 12


@dataclass(frozen=True)
class Wanted:
    augment = False
    size: int = 8
    chunk_images: int = 4
    decoded_cache: bool = True


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return build_pictured(tmp_path, N, PICTURED, range(1, N + 1))


BOTH = pytest.mark.parametrize("cached", [True, False])


@BOTH
def test_rows_are_the_items_with_an_image_and_chunks_their_pixels(shards: Path, tmp_path: Path, cached: bool) -> None:
    store = ItemStore(ShardFolder(shards), {"image": Wanted(decoded_cache=cached)}, tmp_path / "cache")
    items = np.array([9, 1, 2, 11, 4, 3, 8, 5])
    image = store.content(items).modalities["image"]
    assert items[image.rows].tolist() == [9, 2, 11, 3, 8, 5]
    assert [chunk["pixel_values"].shape for chunk in image.chunks] == [(4, 3, 8, 8), (2, 3, 8, 8)]
    pixels = torch.cat([chunk["pixel_values"] for chunk in image.chunks])
    assert pixels.dtype == torch.uint8
    colours = torch.tensor([colour(item) for item in (9, 2, 11, 3, 8, 5)])
    assert (pixels.flatten(2).float().mean(2) - colours).abs().max() < 4
    assert image.passes == 2
    assert torch.equal(image.blank["pixel_values"], pixels[:1])


def test_without_any_image_there_is_a_blank_to_run_on(shards: Path, tmp_path: Path) -> None:
    image = ImageStore(ShardFolder(shards), Wanted(), tmp_path / "cache", {}).content(np.array([1, 4]))
    assert (len(image.rows), image.chunks, image.passes) == (0, [], 1)
    assert image.blank["pixel_values"].shape == (1, 3, 8, 8)


def test_pixels_are_decoded_once_for_all(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ImageStore(ShardFolder(shards), Wanted(), tmp_path / "cache", {}).content(np.array(PICTURED))
    monkeypatch.setattr(ItemImages, "read", lambda *_: pytest.fail("decoded again"))
    again = ImageStore(ShardFolder(shards), Wanted(), tmp_path / "cache", {}).content(np.array(PICTURED))
    assert torch.equal(first.chunks[0]["pixel_values"], again.chunks[0]["pixel_values"])


def test_parts_of_any_size_have_the_same_pixels(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for of_a_part in (10_000, 1, 2):
        monkeypatch.setattr(image_store, "ITEMS_OF_A_PART", of_a_part)
        images = ItemImages(ShardFolder(shards), 8)
        decoded = decode_all(images, tmp_path / str(of_a_part))
        assert [path.name for path in decoded.iterdir()] == ["pixels.npy"]
        found.append((decoded / "pixels.npy").read_bytes())
    assert found == [found[0]] * 3
    np.save(tmp_path / "expected.npy", np.stack([images.read(item) for item in images.numbers]))
    assert found[0] == (tmp_path / "expected.npy").read_bytes()


def test_another_size_decoder_or_omission_has_a_cache_of_its_own(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cache = ShardFolder(shards), tmp_path / "cache"
    bad = {3: ItemImages(folder, 8).bad(3, "a test")}
    ImageStore(folder, Wanted(), cache, {})
    ImageStore(folder, Wanted(size=16), cache, {})
    without = ImageStore(folder, Wanted(), cache, bad)
    assert without.content(np.array(PICTURED)).rows.tolist() == [0, 2, 3, 4, 5]
    monkeypatch.setattr(image_store, "DECODER", "another")
    ImageStore(folder, Wanted(), cache, {})
    assert len(list(cache.iterdir())) == 4


def flip(folder: Path, item: int) -> None:
    place = pq.read_table(folder / "items.parquet").slice(item - 1, 1).to_pylist()[0]
    with (folder / place["shard"]).open("r+b") as file:
        file.seek(place["image_offset"] + place["image_bytes"] // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))


@BOTH
def test_a_damaged_image_stops_the_run_and_is_named(shards: Path, tmp_path: Path, cached: bool) -> None:
    flip(shards, 5)
    with pytest.raises(BadSample, match=r"items-000000\.tar: item 5 cannot be read \(.*checksum.*skip"):
        ImageStore(ShardFolder(shards), Wanted(decoded_cache=cached), tmp_path / "cache", {}).content(np.array([5]))


def test_an_image_that_does_not_decode_is_a_bad_sample(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transrec.data.content.images.MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BadSample, match=r"item 2 cannot be read \(its image: 30x20 exceeds the limit of 10 pixels\)"):
        ImageStore(ShardFolder(shards), Wanted(), tmp_path / "cache", {})


def test_damaged_images_are_looked_for_unless_all_were_decoded_before(shards: Path, tmp_path: Path) -> None:
    folder, cache, wanted = ShardFolder(shards), tmp_path / "cache", {"image": Wanted()}
    flip(shards, 5)
    [(samples, numbers)] = unchecked(folder, wanted, cache)
    assert list(numbers) == PICTURED
    skipped = find_bad(samples, numbers, set)
    assert list(skipped) == [5]
    store = ItemStore(folder, wanted, cache, skipped)
    assert store.content(np.array([5, 8])).modalities["image"].rows.tolist() == [1]
    flip(shards, 5)  # mended
    ItemStore(folder, wanted, cache)
    assert [list(numbers) for _, numbers in unchecked(folder, wanted, cache)] == [[]]
