"""Similarity of cold items: content similarity, of some candidates only."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from evidence_tables import made

from transrec.data.batch import SeenItems
from transrec.evidence.cold_similarity import ColdSimilarityConfig
from transrec.evidence.content_similarity import ContentSimilarityConfig

ITEMS = 20
COLD = np.array([2, 3, 11])
SEEN = SeenItems(np.array([1, 5, 2, 7]), np.array([3, 1]), ITEMS)


@pytest.fixture
def folder(tmp_path):
    """The table of content similarity."""
    features = np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32)
    sources = SimpleNamespace(catalogue_size=ITEMS, features=lambda _: (np.arange(1, ITEMS + 1), features))
    made(ContentSimilarityConfig(), sources, tmp_path / "table")
    return tmp_path / "table"


def test_cold_candidates_have_their_content_similarity_and_others_nothing(folder):
    expected = ContentSimilarityConfig().load(folder).scores(SEEN).toarray()
    expected[:, np.setdiff1d(np.arange(ITEMS + 1), COLD)] = 0
    seen = replace(SEEN, cold=lambda items: np.isin(items, COLD))
    found = ColdSimilarityConfig().load(folder).scores(seen).toarray()
    assert found.tolist() == expected.tolist()
    assert found[0, 3] > 0


def test_one_table_serves_both_similarities():
    assert ColdSimilarityConfig(weight=2.0).tables() == ContentSimilarityConfig().tables()
    assert ColdSimilarityConfig(temperature=0.1).tables() != ContentSimilarityConfig().tables()


def test_each_modality_has_a_key_of_its_own():
    keys = {
        kind(modality=modality).key
        for kind in (ColdSimilarityConfig, ContentSimilarityConfig)
        for modality in ("text", "image")
    }
    assert keys == {"cold_text_similarity", "cold_image_similarity", "text_similarity", "image_similarity"}
