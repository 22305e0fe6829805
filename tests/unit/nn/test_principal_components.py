"""Principal components of features, by their own definition."""

import numpy as np
import torch

from transrec.nn.principal_components import PrincipalComponents, axes_of

RNG = np.random.default_rng(0)


def features(items: int = 400) -> np.ndarray:
    """Two directions that differ by a factor of ten, eight of noise, and a mean that is larger than both."""
    turned = np.linalg.qr(RNG.normal(size=(10, 10)))[0]
    return ((RNG.normal(size=(items, 10)) * ([10.0, 1.0] + [0.01] * 8)) @ turned + 50).astype(np.float32)


def test_components_have_mean_0_and_variance_1_and_are_not_correlated() -> None:
    given = features()
    known = axes_of(given)
    assert known is not None
    found = PrincipalComponents(known)(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(found.T @ found / len(found), np.eye(found.shape[1]), atol=1e-3)


def test_axes_along_which_items_differ_less_than_along_an_average_one_are_left_out() -> None:
    equal = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32) * [3, 3, 0.1]
    known = axes_of(equal.astype(np.float32))
    assert known is not None
    assert len(known.axes) == 2
    np.testing.assert_allclose(np.array(known.axes)[:, 2], 0, atol=1e-9)


def test_items_that_are_all_alike_have_none() -> None:
    assert axes_of(np.ones((5, 3), np.float32)) is None
    assert axes_of(np.ones((0, 3), np.float32)) is None


def test_they_are_not_among_the_weights() -> None:
    known = axes_of(features())
    assert known is not None
    assert not PrincipalComponents(known).state_dict(), "the export keeps them beside the vocabularies"
