import math

import pytest
import torch
from torch.nn import functional as F

from transrec.nn import similarity
from transrec.nn.similarity import STATISTICS, TEMPERATURE


def some(seed: int = 0, users: int = 3, items: int = 6, width: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    history = torch.randn(users, items, width, generator=generator)
    mask = torch.arange(items).flip(0) < torch.tensor([[1], [4], [6]])
    return F.normalize(torch.randn(users, width, generator=generator), dim=-1), F.normalize(history, dim=-1), mask


def similarity_statistics(candidates: torch.Tensor, history: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of vectors (B, W) and (B, L, W), each of which is an item of its own."""
    (users, items), width = mask.shape, candidates.shape[1]
    vectors = torch.cat([candidates, history.reshape(-1, width)])
    rows = users + torch.arange(users * items).view(users, items)
    known = (vectors != 0).any(1)
    return similarity.similarity_statistics(vectors, known, torch.arange(users), rows, mask)


def test_the_statistics_by_hand() -> None:
    """Cosines 1, 0 and 0.6, divided by 0.2."""
    candidates, history = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]])
    found = similarity_statistics(candidates, history, torch.ones(1, 3, dtype=torch.bool))
    kernel = math.log((1 + math.exp(5) + math.exp(0) + math.exp(3)) / 4)
    torch.testing.assert_close(found, torch.tensor([[1.0, 8 / 3, 5.0, kernel]]))
    assert found.shape == (1, STATISTICS)
    assert TEMPERATURE == 0.2


def test_all_cosines_may_be_negative() -> None:
    candidates, history = torch.tensor([[1.0, 0.0]]), torch.tensor([[[-1.0, 0.0], [0.0, 1.0]]])
    found = similarity_statistics(candidates, history, torch.tensor([[True, False]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, -5.0, -5.0, math.log((1 + math.exp(-5)) / 2)]]))


@pytest.mark.parametrize("filling", [0.0, 1e30, math.inf, math.nan])
def test_masked_entries_change_no_bit(filling: float) -> None:
    candidates, history, mask = some()
    expected = similarity_statistics(candidates, history, mask)
    assert torch.equal(
        similarity_statistics(candidates, history.masked_fill(~mask[..., None], filling), mask), expected
    )
    assert expected.isfinite().all()


def test_a_shorter_history_is_the_same_as_a_padded_one() -> None:
    candidates, history, mask = some()
    found = similarity_statistics(candidates[1:2], history[1:2, 2:], mask[1:2, 2:])
    torch.testing.assert_close(found, similarity_statistics(candidates, history, mask)[1:2])


def test_items_without_content_are_left_out() -> None:
    """A vector of zeros in the history is as if it were not there."""
    candidates, history, mask = some()
    without = history.clone()
    without[2, 1:3] = 0
    kept = [0, 3, 4, 5]
    expected = similarity_statistics(candidates[2:], history[2:, kept], mask[2:, kept])
    torch.testing.assert_close(similarity_statistics(candidates, without, mask)[2:], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_where_there_is_nothing_to_compare_all_is_zero(dtype: torch.dtype) -> None:
    """An empty history, a history without content, and a candidate without content."""
    candidates, history, mask = some()
    mask[0], history[1], candidates[2] = False, 0, 0
    found = similarity_statistics(candidates.to(dtype), history.to(dtype), mask)
    assert not found.any()
    assert not found.isnan().any()


def test_statistics_train_nothing() -> None:
    candidates, history, mask = some()
    found = similarity_statistics(candidates.requires_grad_(), history.requires_grad_(), mask)
    assert not found.requires_grad


def test_equal_items_are_most_similar() -> None:
    candidates, history, mask = some()
    history[2, 0] = candidates[2]
    cosines = F.cosine_similarity(candidates[2], history[2], dim=-1) / TEMPERATURE
    found = similarity_statistics(candidates, history, mask)[2]
    torch.testing.assert_close(found[2], cosines[0])
    torch.testing.assert_close(found[1], cosines.mean())
