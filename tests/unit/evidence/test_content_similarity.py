"""Content similarity against the dense definition."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from evidence_tables import made

from transrec.config import ConfigError
from transrec.data.batch import SeenItems
from transrec.evidence import closest
from transrec.evidence.content_similarity import ContentSimilarityConfig, whitened

ITEMS, WIDTH = 40, 6
EVERYTHING = ContentSimilarityConfig(neighbours=ITEMS)


def features(items):
    return np.random.default_rng(0).normal(3, [1, 2, 3, 4, 5, 6], (len(items), WIDTH)).astype(np.float32)


def filled(config, items, folder):
    return made(config, SimpleNamespace(catalogue_size=ITEMS, features=lambda _: (items, features(items))), folder)


def dense(config, items, history):
    vectors = dict(zip(items, whitened(features(items), config.shrinkage), strict=True))
    newest = history[::-1][: config.recent]
    weights = np.array([p**-config.recency for p in range(1, len(newest) + 1)])
    scores = np.zeros(ITEMS + 1)
    for weight, item in zip(weights / weights.sum(), newest, strict=True):
        for candidate in vectors if item in vectors else ():
            if candidate != item:
                scores[candidate] += weight * np.exp((vectors[item] @ vectors[candidate] - 1) / config.temperature)
    return scores


HISTORIES = [[3, 7, 9, 3, 12, 4, 20], [1], [5, 40]]


def seen(histories):
    lengths = np.array([len(history) for history in histories])
    return SeenItems(np.concatenate(histories), lengths, ITEMS)


@pytest.mark.parametrize("cells", [2**25, 100], ids=["at once", "in ranges"])
@pytest.mark.parametrize("missing", [[], [1, 2, 7, 40]], ids=["all items", "some without text"])
def test_scores_by_the_definition(tmp_path, missing, cells, monkeypatch):
    monkeypatch.setattr(closest, "_SIMILARITIES_AT_ONCE", cells)
    items = np.array([item for item in range(1, ITEMS + 1) if item not in missing])
    found = filled(EVERYTHING, items, tmp_path / "kernel").scores(seen(HISTORIES)).toarray()
    expected = [dense(EVERYTHING, items, np.array(history)) for history in HISTORIES]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    assert found.any()


def test_only_the_closest_neighbours_are_kept(tmp_path):
    items = np.arange(1, ITEMS + 1)
    few = EVERYTHING.model_copy(update={"neighbours": 5})
    kept = filled(few, items, tmp_path / "few").kernel.rows(np.arange(ITEMS + 1)).toarray()
    every = filled(EVERYTHING, items, tmp_path / "all").kernel.rows(np.arange(ITEMS + 1)).toarray()
    assert ((kept > 0).sum(1)[1:] == 5).all()
    np.testing.assert_allclose(np.sort(kept)[:, -5:], np.sort(every)[:, -5:], rtol=1e-6)


def test_whitened_features_have_unit_length_and_no_favourite_axis():
    unit = whitened(features(np.arange(2000)), shrinkage=0.0)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.cov(unit.T), np.eye(WIDTH) / WIDTH, atol=0.02)


def test_an_axis_without_variance_is_not_blown_up():
    flat = features(np.arange(500))
    flat[:, 0] = 1 + 1e-6 * flat[:, 1] ** 2
    np.testing.assert_allclose(whitened(flat, 0.3)[:, 0], 0, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": 2}, "`layers` has no effect without a `backbone`"),
        ({"max_tokens": 9}, "`max_tokens` has no effect without a `backbone`"),
        ({"modality": "image", "backbone": "vit", "fields": ["title"]}, "`fields` applies only to text"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ContentSimilarityConfig(**values)


def test_more_items_than_can_be_compared_need_faiss(tmp_path, monkeypatch):
    monkeypatch.setattr(closest, "MOST_COMPARED", ITEMS - 1)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"40 items, .* at most 39 can be compared: install faiss-cpu"):
        filled(EVERYTHING, np.arange(1, ITEMS + 1), tmp_path / "kernel")
