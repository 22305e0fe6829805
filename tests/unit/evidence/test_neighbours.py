"""Products of histories with rows of a table of neighbours."""

import numpy as np
import pytest
from scipy import sparse

from transrec.evidence.neighbours import looked_up


def random(shape, generator):
    return sparse.random_array(shape, density=0.3, format="csr", rng=generator)


@pytest.mark.parametrize("width", [5, 12, 400])
def test_the_product_is_that_of_scipy(width):
    generator = np.random.default_rng(width)
    weights, rows = random((6, 8), generator), random((8, width), generator)
    if width == 400:  # more columns than entries
        rows = sparse.csr_array((rows.data[:50], rows.indices[:50], np.minimum(rows.indptr, 50)), shape=rows.shape)
    found = looked_up(weights, rows)
    assert found.shape == (6, width)
    np.testing.assert_array_equal(found.toarray(), (weights @ rows).toarray())


def test_the_catalogue_may_be_of_any_size():
    """A product of scipy holds vectors of this length, which no machine can."""
    items = np.array([5, 7, 2**59])
    weights = sparse.csr_array((np.ones(2), [0, 1], [0, 2]), shape=(1, 2))
    rows = sparse.csr_array((np.array([1.0, 2, 3]), items, [0, 2, 3]), shape=(2, 2**60))
    with pytest.raises((MemoryError, RuntimeError)):
        weights @ rows
    found = looked_up(weights, rows)
    assert dict(zip(found.indices.tolist(), found.data.tolist(), strict=True)) == {5: 1, 7: 2, 2**59: 3}
