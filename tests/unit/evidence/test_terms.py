"""The terms: what they add, and that they are fitted instead of trained."""

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from transrec import weights
from transrec.data.batch import SparseScores
from transrec.evidence import EvidenceConfig
from transrec.evidence.co_occurrence import CoOccurrenceConfig
from transrec.evidence.content_similarity import ContentSimilarityConfig
from transrec.evidence.terms import EvidenceTerms, check_keys


def test_a_term_is_a_weighted_logarithm():
    terms = EvidenceTerms([CoOccurrenceConfig(weight=2.0, scale=10.0)])
    scores = SparseScores(torch.tensor([0, 1]), torch.tensor([3, 2]), torch.tensor([0.5, 0.1]))
    [found] = terms([scores])
    torch.testing.assert_close(found.values, 2 * torch.log1p(10 * scores.values))
    assert found.rows is scores.rows
    assert found.columns is scores.columns


def test_evidence_of_two_modalities_has_two_terms():
    both = [ContentSimilarityConfig(), ContentSimilarityConfig(modality="image"), CoOccurrenceConfig()]
    assert list(EvidenceTerms(both)) == ["text_similarity", "image_similarity", "co_occurrence"]
    with pytest.raises(ValueError, match="co_occurrence is listed more than once"):
        check_keys([CoOccurrenceConfig(), CoOccurrenceConfig(window=3)])


def test_a_kind_is_chosen_by_its_name():
    kind = TypeAdapter(EvidenceConfig)
    assert isinstance(kind.validate_python({"name": "co_occurrence"}), CoOccurrenceConfig)
    assert isinstance(kind.validate_python({"name": "content_similarity"}), ContentSimilarityConfig)


def test_weights_and_scales_are_exported_without_being_trained():
    terms = EvidenceTerms([CoOccurrenceConfig()])
    assert not list(terms.parameters())
    assert set(weights.trainable_names(nn.ModuleDict({"evidence": terms}))) == {
        f"evidence.{name}" for name in ("network", "co_occurrence.weight", "co_occurrence.log_scale")
    }
