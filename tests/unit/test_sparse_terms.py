"""Scores with sparse terms, a chunk of items at a time."""

import pytest
import torch

from transrec.data.batch import SparseScores
from transrec.nn.sparse_terms import with_terms

USERS, ITEMS = 4, 11


@pytest.mark.parametrize("chunk", [1, 3, ITEMS])
def test_chunks_add_up_to_the_sum_of_dense_matrices(chunk):
    generator = torch.Generator().manual_seed(0)
    dense, *terms = (torch.randn(USERS, ITEMS + 1, generator=generator) for _ in range(3))
    terms = [term * (torch.rand(USERS, ITEMS + 1, generator=generator) < 0.4) for term in terms]
    places = [term.T.nonzero(as_tuple=True)[::-1] for term in terms]  # in the order of their columns
    sparse = [SparseScores(*place, term[place]) for place, term in zip(places, terms, strict=True)]
    score = with_terms(lambda a, b: dense[:, a:b].clone(), sparse)
    found = torch.cat([score(a, min(a + chunk, ITEMS + 1)) for a in range(1, ITEMS + 1, chunk)], dim=1)
    torch.testing.assert_close(found, (dense + terms[0] + terms[1])[:, 1:])
