import pytest
import torch

from transrec.nn.feature_table import FeatureTable


@pytest.fixture
def table() -> FeatureTable:
    torch.manual_seed(0)
    return FeatureTable(size=4, width=3)


def test_a_value_has_the_vector_of_its_row(table: FeatureTable) -> None:
    weight = table.embedding.weight
    assert weight.shape == (5, 3), "row 0 and four values"
    assert torch.equal(table(torch.tensor([[2], [4], [0]])), weight[[2, 4, 0]])


def test_several_values_have_the_mean_of_those_that_are_known(table: FeatureTable) -> None:
    """Padding and unknown values count for nothing, wherever they stand."""
    weight = table.embedding.weight
    found = table(torch.tensor([[1, 3, 0], [0, 3, 1], [3, 0, 0], [0, 0, 3], [1, 2, 3]]))
    expected = torch.stack([weight[[1, 3]].mean(0), weight[[3, 1]].mean(0), weight[3], weight[3], weight[1:4].mean(0)])
    torch.testing.assert_close(found, expected)


def test_where_no_value_is_known_the_unknown_row_is_used(table: FeatureTable) -> None:
    assert torch.equal(table(torch.tensor([[0, 0, 0]])), table.embedding.weight[:1])


def test_only_rows_that_are_used_are_trained(table: FeatureTable) -> None:
    table(torch.tensor([[1, 0], [1, 2]])).sum().backward()
    assert table.embedding.weight.grad is not None
    assert table.embedding.weight.grad.sum(1).tolist() == pytest.approx([0, 4.5, 1.5, 0, 0])
    table.zero_grad()
    table(torch.tensor([[0, 0]])).sum().backward()
    assert table.embedding.weight.grad.any(1).tolist() == [True, False, False, False, False]


def test_padding_changes_no_bit(table: FeatureTable) -> None:
    """A batch with an item of many values is wider."""
    narrow, wide = torch.tensor([[1, 3], [0, 0]]), torch.tensor([[1, 3, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert torch.equal(table(narrow), table(wide))
