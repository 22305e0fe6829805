"""The learned terms: what they add, and what they learn from evidence that tells nothing."""

import numpy as np
import pytest
import torch
from evidence_tables import GivenSequences, made
from pydantic import TypeAdapter

from transrec.data.batch import HistoryPoints, SparseScores
from transrec.evidence import EvidenceConfig
from transrec.evidence.co_occurrence import CoOccurrenceConfig
from transrec.evidence.content_similarity import ContentSimilarityConfig
from transrec.evidence.terms import EvidenceTerms, check_keys
from transrec.objectives.evidence import added


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


def test_nothing_is_learned_from_a_world_of_noise(tmp_path):
    """Items follow each other at random: subtracting a user's own pairs, counts say nothing, and weigh nothing."""
    assert abs(weight_learned(noise(), True, tmp_path)) < 0.1


def test_a_user_s_own_pairs_would_teach_the_model_to_trust_noise(tmp_path):
    assert weight_learned(noise(), False, tmp_path) > 0.5


def test_a_weight_is_learned_from_a_world_with_an_order(tmp_path):
    starts = np.random.default_rng(0).integers(0, ITEMS, 400)
    users = [(start + np.arange(5)) % ITEMS + 1 for start in starts]
    assert weight_learned(users, True, tmp_path) > 0.5


ITEMS = 50


def noise():
    generator = np.random.default_rng(0)
    return [generator.integers(1, ITEMS + 1, 5) for _ in range(400)]


def weight_learned(users, counted, folder):
    """The weight of co-occurrence alone, fitted by a full softmax to the items of all users."""
    config = CoOccurrenceConfig(neighbours=ITEMS)
    items, lengths = np.concatenate(users), np.array([len(user) for user in users])
    evidence = made(config, GivenSequences([(items, lengths)], ITEMS), folder / "counts")
    numbers = np.repeat(np.arange(len(users)), lengths - 1)
    seen = np.concatenate([np.arange(1, length) for length in lengths])
    scores = evidence.scores(HistoryPoints(items, lengths, numbers, seen, ITEMS, counted))
    rows = np.repeat(np.arange(len(seen)), np.diff(scores.indptr))
    targets = torch.from_numpy(np.concatenate([user[1:] for user in users]))
    known = SparseScores(
        *(torch.from_numpy(np.array(part)) for part in (rows, scores.indices, scores.data.astype("f4")))
    )
    terms = EvidenceTerms([config])
    optimizer = torch.optim.LBFGS(terms.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        logits = added(torch.zeros(len(targets), ITEMS + 1), terms([known]))
        logits[:, 0] = -torch.inf
        value = torch.nn.functional.cross_entropy(logits, targets)
        value.backward()
        return value

    optimizer.step(loss)
    return terms["co_occurrence"].weight.item()
