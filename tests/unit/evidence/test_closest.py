"""The closest vectors, exactly and in cells."""

import numpy as np
import pytest
from evidence_tables import interim

from transrec.evidence import closest as module
from transrec.evidence.closest import closest, finder

MOST = 20


def unit(count, topics=50, seed=0):
    """Vectors around topics, as texts are."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(topics, 32))
    vectors = centres[generator.integers(0, topics, count)] + 0.7 * generator.normal(size=(count, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def all_of(vectors, folder, most=MOST):
    return closest(finder("similarity", vectors, interim(folder)), 0, len(vectors), most)


def test_all_pairs_by_sorting(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SIMILARITIES_AT_ONCE", 10_000)  # several ranges
    vectors = unit(300)
    places, cosines = all_of(vectors, tmp_path / "index")
    every = vectors @ vectors.T
    np.fill_diagonal(every, -np.inf)
    np.testing.assert_array_equal(places, np.sort(np.argsort(-every, axis=1)[:, :MOST], axis=1))
    np.testing.assert_allclose(cosines, np.take_along_axis(every, places, axis=1), atol=1e-6)


def test_fewer_vectors_than_are_asked_for(tmp_path):
    places, _ = all_of(unit(4), tmp_path)
    assert places.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_cells_find_nearly_all_of_the_closest(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    vectors = unit(5_000)
    exact, _ = all_of(vectors, tmp_path / "index")
    monkeypatch.setattr(module, "MOST_COMPARED", 100)
    found, cosines = all_of(vectors, tmp_path / "index")
    shared = [len(np.intersect1d(one, other)) for one, other in zip(exact, found, strict=True)]
    assert np.mean(shared) > 0.95 * MOST
    assert (found != np.arange(len(vectors))[:, None]).all()
    assert (np.diff(found, axis=1) > 0).all()
    expected = np.take_along_axis(vectors @ vectors.T, found, axis=1)
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
