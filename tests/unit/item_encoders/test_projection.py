"""Projections of features to the recommender's width."""

import pytest
import torch
from torch.nn import functional as F

from transrec.item_encoders.projection import build_projection

FEATURES = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


def test_the_released_one_is_linear_with_a_gelu():
    projection = build_projection("linear_gelu", 8, 3)
    expected = F.gelu(F.linear(FEATURES, projection.weight, projection.bias))
    torch.testing.assert_close(projection(FEATURES), expected)


def test_linear_has_no_gelu():
    projection = build_projection("linear", 8, 3)
    torch.testing.assert_close(projection(FEATURES), F.linear(FEATURES, projection.weight, projection.bias))
    assert projection(FEATURES).min() < -0.2  # below all values of a GELU


def test_an_mlp_ignores_the_length_of_features():
    projection = build_projection("mlp", 8, 3)
    torch.testing.assert_close(projection(7 * FEATURES), projection(FEATURES))
    assert not torch.allclose(projection(-FEATURES), projection(FEATURES))


@pytest.mark.parametrize("kind", ["linear_gelu", "linear", "mlp"])
def test_it_maps_to_the_width(kind):
    assert build_projection(kind, 8, 3)(FEATURES).shape == (5, 3)
