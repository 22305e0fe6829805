from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transrec.data.content import text_store
from transrec.data.content.item_store import ItemStore
from transrec.data.content.text_store import tokenise
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.shard_folder import ShardFolder

N = 50


@pytest.fixture(scope="module")
def shards(build_shards) -> Path:
    """Fifty items in several shards."""
    folder = build_shards({"u": [1, 2, 3]}, n_items=N, shard_bytes=20_000)
    assert len(list(folder.glob("items-*.tar"))) > 1
    return folder


def test_an_item_without_a_token_is_one_of_padding(
    shards: Path, tmp_path: Path, numbered_content: Callable[..., Any]
) -> None:
    """A tokenizer without special tokens makes nothing of an empty text; the encoder still needs something."""

    class Silent(numbered_content):  # type: ignore[misc, valid-type]
        def encode(self, records: Any) -> list[list[int]]:
            return [[] if ids[0] == 1002 else ids for ids in super().encode(records)]

    content = ItemStore(ShardFolder(shards), {"text": Silent()}, tmp_path).content(np.array([2]))
    (chunk,) = content.modalities["text"].chunks
    assert chunk["input_ids"].unique().tolist() == [Silent.pad_id]
    assert chunk["attention_mask"].sum() == 1


@given(st.sets(st.integers(1, N), min_size=1))
def test_rows_of_the_chunks_are_the_tokens_of_their_items(store_of_all: ItemStore, chosen: set[int]) -> None:
    content = store_of_all.content(np.array(sorted(chosen)))
    text = content.modalities["text"]
    assert content.items.tolist() == sorted(chosen)
    assert sorted(text.rows.tolist()) == list(range(len(chosen)))
    row = 0
    for chunk in text.chunks:
        assert chunk["input_ids"].dtype == chunk["attention_mask"].dtype == torch.int64
        for ids, mask in zip(chunk["input_ids"], chunk["attention_mask"], strict=True):
            item = int(content.items[text.rows[row]])
            length = item % 7 + 1
            assert ids[:length].tolist() == [1000 + item] * length
            assert ids[length:].tolist() == [3] * (len(ids) - length), "the rest is padding"
            assert mask.tolist() == [1] * length + [0] * (len(ids) - length)
            row += 1
    assert row == len(chosen)
    assert content.tokens == (
        sum(item % 7 + 1 for item in chosen),
        sum(chunk["input_ids"].numel() for chunk in text.chunks),
    )


@pytest.fixture(scope="module")
def store_of_all(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> ItemStore:
    class Content:
        key, pad_id, chunk_tokens = "numbered", 3, 40
        augment = False

        def encode(self, records: list[dict[str, Any]]) -> list[list[int]]:
            numbers = [int(record["item_id"].removeprefix("item-")) for record in records]
            return [[1000 + number] * (number % 7 + 1) for number in numbers]

    return ItemStore(ShardFolder(shards), {"text": Content()}, tmp_path_factory.mktemp("store"))


def test_passes_are_the_own_chunks_until_more_are_agreed_on(store_of_all: ItemStore) -> None:
    content = store_of_all.content(np.arange(1, N + 1))
    assert content.passes == [len(content.modalities["text"].chunks)] > [1]
    assert content.with_passes([9]).passes == [9]


def test_without_text_items_keep_their_order(shards: Path, tmp_path: Path) -> None:
    content = ItemStore(ShardFolder(shards), {}, tmp_path).content(np.array([7, 2, 30]))
    assert content.items.tolist() == [7, 2, 30]
    assert content.passes == []
    assert not list(tmp_path.iterdir()), "nothing to cache"


def test_second_opening_tokenises_nothing(shards: Path, tmp_path: Path, numbered_content: Callable[..., Any]) -> None:
    first, second = numbered_content(), numbered_content()
    opened = [ItemStore(ShardFolder(shards), {"text": content}, tmp_path) for content in (first, second)]
    assert (first.encoded, second.encoded) == (N, 0)
    one, other = (store.content(np.array([3, 9])).modalities["text"].chunks for store in opened)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a)


def test_another_tokenizer_has_another_folder(
    shards: Path, tmp_path: Path, numbered_content: Callable[..., Any]
) -> None:
    assert tokenise(ShardFolder(shards), numbered_content("a"), tmp_path, {}) != tokenise(
        ShardFolder(shards), numbered_content("b"), tmp_path, {}
    )


def test_other_items_have_another_folder(
    shards: Path, build_shards: Callable[..., Path], tmp_path: Path, numbered_content: Callable[..., Any]
) -> None:
    other = build_shards({"u": [1]}, n_items=N - 1)
    content = numbered_content()
    assert tokenise(ShardFolder(shards), content, tmp_path, {}) != tokenise(ShardFolder(other), content, tmp_path, {})
    assert content.encoded == N + N - 1


def test_other_users_of_the_same_items_share_the_folder(
    shards: Path, build_shards: Callable[..., Path], tmp_path: Path, numbered_content: Callable[..., Any]
) -> None:
    other = build_shards({"v": [5, 6]}, n_items=N, shard_bytes=20_000)
    content = numbered_content()
    assert tokenise(ShardFolder(shards), content, tmp_path, {}) == tokenise(ShardFolder(other), content, tmp_path, {})


def test_a_failed_tokenisation_leaves_nothing_behind(
    shards: Path, tmp_path: Path, numbered_content: Callable[..., Any]
) -> None:
    class Broken(numbered_content):  # type: ignore[misc, valid-type]
        def encode(self, records: Any) -> list[list[int]]:
            raise RuntimeError("no tokenizer")

    with pytest.raises(RuntimeError, match="no tokenizer"):
        tokenise(ShardFolder(shards), Broken(), tmp_path, {})
    assert not list(tmp_path.iterdir())
    assert tokenise(ShardFolder(shards), numbered_content(), tmp_path, {}).is_dir()


def test_who_comes_second_takes_what_the_first_made(
    shards: Path, tmp_path: Path, numbered_content: Callable[..., Any]
) -> None:
    """Another user's process, which may not touch the lock, tokenises too: its folder appears while this one works."""

    class Overtaken(numbered_content):  # type: ignore[misc, valid-type]
        def encode(self, records: Any) -> list[list[int]]:
            (partial,) = tmp_path.glob("tokens-*.partial-*")
            elsewhere = tokenise(ShardFolder(shards), numbered_content(), tmp_path / "elsewhere", {})
            elsewhere.rename(tmp_path / elsewhere.name)
            assert partial.name.startswith(elsewhere.name)
            return super().encode(records)

    target = tokenise(ShardFolder(shards), Overtaken(), tmp_path, {})
    (tmp_path / "elsewhere").rmdir()
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert len(np.load(target / "offsets.npy")) == N + 1


@pytest.mark.parametrize("of_a_part", [1, 7, 10_000])
def test_parts_of_any_size_have_the_same_tokens(
    shards: Path, tmp_path: Path, numbered_content: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, of_a_part: int
) -> None:
    whole = tokenise(ShardFolder(shards), numbered_content(), tmp_path / "whole", {})
    monkeypatch.setattr(text_store, "ITEMS_OF_A_PART", of_a_part)
    parts = tokenise(ShardFolder(shards), numbered_content(), tmp_path / "parts", {})
    assert {path.name for path in parts.iterdir()} == {"tokens.npy", "offsets.npy"}
    for name in ("tokens.npy", "offsets.npy"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    tokens = np.concatenate([[1000 + n] * (n % 7 + 1) for n in range(1, N + 1)])
    np.save(tmp_path / "expected.npy", tokens.astype(np.int32))
    assert (parts / "tokens.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


def test_a_text_left_out_has_a_store_of_its_own(
    shards: Path, tmp_path: Path, numbered_content: Callable[..., Any]
) -> None:
    """Once the shard is mended, the item must have its text again."""

    class Lengths(numbered_content):  # type: ignore[misc, valid-type]
        def encode(self, records: Any) -> list[list[int]]:
            return [[7] * len(record["text"]) for record in records]

    folder = ShardFolder(shards)
    skipped = {4: ItemShards(folder).bad(4, "a test")}
    for store, length in (
        (ItemStore(folder, {"text": Lengths()}, tmp_path, skipped), 1),
        (ItemStore(folder, {"text": Lengths()}, tmp_path), len("Text 4")),
    ):
        content = store.content(np.array([4]))
        assert int(content.modalities["text"].chunks[0]["attention_mask"].sum()) == length
