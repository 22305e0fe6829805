from pathlib import Path

import numpy as np
import pytest
import torch

from transrec.data.batch import Chunk, ModalityContent, modality_content
from transrec.data.content import prefix_store
from transrec.data.content.prefix_store import PrefixStore

N = 700  # more than are computed at once


class Numbers:
    """Item i has i % 4 positions, each of them i; the content of its states is known from that."""

    items_at_once, key = 4096, "numbers"
    positions = np.arange(1, N + 1) % 4

    def positions_in_pass(self, of_an_item: int) -> int:
        return 12

    def content(self, items: np.ndarray) -> ModalityContent:
        rows = np.flatnonzero(items % 4)[::-1].copy()
        mask = torch.arange(3) < torch.from_numpy(items[rows] % 4).unsqueeze(1)
        chunk = {"input_ids": torch.from_numpy(items[rows])[:, None].expand(-1, 3), "attention_mask": mask.long()}
        blank = {"input_ids": torch.zeros(1, 3, dtype=torch.int64), "attention_mask": torch.tensor([[1, 0, 0]])}
        return modality_content(rows, [chunk] if len(rows) else [], blank)


class Compute:
    calls = 0

    def __call__(self, chunk: Chunk) -> torch.Tensor:
        """Two numbers a position: the item and the position."""
        self.calls += 1
        ids = chunk["input_ids"]
        return torch.stack([ids, torch.arange(3).expand_as(ids)], dim=-1).float()


@pytest.fixture
def store(tmp_path: Path) -> PrefixStore:
    return PrefixStore(Numbers(), N, Compute(), "fp32", True, tmp_path / "states")


def test_each_item_has_the_states_that_were_computed_for_it(store: PrefixStore) -> None:
    items = np.array([699, 4, 1, 2, 303, 600])
    content = store.content(items)
    assert sorted(content.rows.tolist()) == [0, 2, 3, 4], "4 and 600 lack the modality"
    row = 0
    for chunk in content.chunks:
        for states, mask in zip(chunk["prefix"], chunk["attention_mask"], strict=True):
            item = items[content.rows[row]]
            assert states[mask.bool()].tolist() == [[float(item), float(p)] for p in range(item % 4)]
            row += 1
    assert row == 4


def test_pooled_states_need_no_mask(tmp_path: Path) -> None:
    store = PrefixStore(
        Numbers(), N, lambda chunk: chunk["input_ids"][:, :1, None].float(), "fp32", False, tmp_path / "s"
    )
    (chunk,) = store.content(np.array([5, 9])).chunks
    assert chunk["prefix"].tolist() == [[[5.0]], [[9.0]]]
    assert list(chunk) == ["prefix"]


def test_items_without_the_modality_run_on_a_blank(store: PrefixStore) -> None:
    content = store.content(np.array([4, 8]))
    assert (content.chunks, content.passes) == ([], 1)
    assert content.blank["prefix"].tolist() == [[[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]], "that of the first item's batch"


def test_half_the_bytes_round(tmp_path: Path) -> None:
    whole, half = (PrefixStore(Numbers(), N, Compute(), p, True, tmp_path / p) for p in ("fp32", "bf16"))
    sizes = [(tmp_path / p / "states.bin").stat().st_size for p in ("fp32", "bf16")]
    assert sizes[0] == 2 * sizes[1]
    items = np.array([699, 698])
    for ours, theirs in zip(whole.content(items).chunks, half.content(items).chunks, strict=True):
        assert theirs["prefix"].dtype == torch.bfloat16
        assert torch.equal(ours["prefix"].bfloat16(), theirs["prefix"])


def test_a_chunk_is_as_large_as_the_content_asks(store: PrefixStore) -> None:
    shapes = [tuple(chunk["prefix"].shape) for chunk in store.content(np.arange(1, 41)).chunks]
    assert {n * length for n, length, _ in shapes} <= set(range(1, 13))
    assert (4, 3, 2) in shapes


def test_what_is_kept_is_not_computed_again(tmp_path: Path) -> None:
    first, second = Compute(), Compute()
    for compute in (first, second):
        PrefixStore(Numbers(), N, compute, "fp32", True, tmp_path / "states")
    assert (first.calls, second.calls) == (3, 0), "two pieces, and a blank"


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(chunk: Chunk) -> torch.Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        PrefixStore(Numbers(), N, fail, "fp32", True, tmp_path / "states")
    assert not list(tmp_path.iterdir())


def test_a_set_where_no_item_has_the_modality(tmp_path: Path) -> None:
    class Nothing(Numbers):
        positions = np.zeros(N, np.int64)

        def content(self, items: np.ndarray) -> ModalityContent:
            return super().content(items * 4)

    store = PrefixStore(Nothing(), N, Compute(), "fp32", True, tmp_path / "states")
    content = store.content(np.array([1, 2]))
    assert content.chunks == []
    assert "attention_mask" in content.blank, "or a tower would take its padding for an image's patches"
    assert content.blank["prefix"].tolist() == [[[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]]]


@pytest.mark.parametrize("of_a_part", [1, 512, 10_000])
@pytest.mark.parametrize("masked", [True, False])
def test_parts_of_any_size_have_the_same_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_a_part: int, masked: bool
) -> None:
    PrefixStore(Numbers(), N, Compute(), "fp32", masked, tmp_path / "whole")
    monkeypatch.setattr(prefix_store, "ITEMS_OF_A_PART", of_a_part)
    PrefixStore(Numbers(), N, Compute(), "fp32", masked, tmp_path / "parts")
    for name in ("states.bin", "offsets.npy", "how.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_states_computed_before_a_failure_are_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_store, "ITEMS_OF_A_PART", 100)

    class Failing(Compute):
        def __call__(self, chunk: Chunk) -> torch.Tensor:
            if self.calls == 4:  # one of a blank, three of parts
                raise RuntimeError("out of memory")
            return super().__call__(chunk)

    with pytest.raises(RuntimeError, match="out of memory"):
        PrefixStore(Numbers(), N, Failing(), "fp32", True, tmp_path / "states")
    again = Compute()
    store = PrefixStore(Numbers(), N, again, "fp32", True, tmp_path / "states")
    assert again.calls == 1 + 7 - 3
    (chunk,) = store.content(np.array([1, 2])).chunks[:1]
    assert chunk["prefix"][0, 0, 0].item() in (1.0, 2.0)
