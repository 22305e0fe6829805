"""The world of a known law keeps it: the error of a counting learner follows the sum, and the sum the power."""

import numpy as np
import pytest

from data_tools.source import SourceError
from data_tools.sources.known_law import NOISE, KnownLaw
from data_tools.sources.synthetic import SyntheticSource

SIZES = np.array([30, 100, 300, 1000, 3000, 10_000])


@pytest.mark.parametrize("law", [0.2, 0.33, 0.5])
def test_the_reducible_error_falls_by_the_power(law: float) -> None:
    reducible = [KnownLaw(law, 1000).error(size) - NOISE for size in SIZES]
    slope = np.polyfit(np.log(SIZES), np.log(reducible), 1)[0]
    assert slope == pytest.approx(-law, abs=0.01)


def error_by_counting(world: KnownLaw, pairs: int, rng: np.random.Generator) -> float:
    """The error of a learner that answers a context with the answer it saw most often after it."""
    answer_of = np.arange(world.contexts)
    seen, asked = world.pairs(rng, pairs, answer_of), world.pairs(rng, 20_000, answer_of)
    counts = np.zeros((world.contexts, world.contexts))
    np.add.at(counts, (seen[:, 0], seen[:, 1] - world.contexts), 1)
    guess = np.where(counts.any(axis=1), counts.argmax(axis=1), -1)
    return float(np.mean(guess[asked[:, 0]] != asked[:, 1] - world.contexts))


@pytest.mark.parametrize("pairs", [100, 1000, 10_000])
def test_a_learner_by_counting_errs_as_the_sum_says(pairs: int) -> None:
    """A little more: what is beyond the catalogue, and one sighting in a hundred, shows any answer."""
    world, rng = KnownLaw(0.33, 300), np.random.default_rng(0)
    measured = [error_by_counting(world, pairs, rng) for _ in range(40)]
    chance = 3 * np.std(measured) / 40**0.5
    assert -chance < np.mean(measured) - world.error(pairs) < chance + 0.008


def test_without_a_law_nothing_can_be_learnt() -> None:
    world, rng = KnownLaw(0.0, 300), np.random.default_rng(0)
    assert error_by_counting(world, 100_000, rng) > 0.99
    assert world.error(100_000) == 1 - 1 / 300


def test_histories_alternate_contexts_and_answers() -> None:
    source = SyntheticSource(n_users=300, n_items=200, n_interactions=1800, law=0.33)
    rows = [row for batch in source.interactions(pytest.fail) for row in batch.rows.to_pylist()]
    items = np.array([int(row["item_id"].removeprefix("item-")) for row in rows]).reshape(300, 6)
    assert (items[:, ::2] < 100).all()
    assert (items[:, 1::2] >= 100).all()
    assert all(row["user_id"] == f"user-{number // 6}" for number, row in enumerate(rows))
    most = np.bincount(items[:, ::2].ravel()).argmax()
    answers = items[:, 1::2][items[:, ::2] == most]
    assert np.bincount(answers).max() > 0.85 * len(answers)


@pytest.mark.parametrize("options", [{"law": 1.0}, {"law": -0.1}, {"law": 0.3, "n_interactions": 1700}])
def test_what_has_no_such_world_is_refused(options: dict) -> None:
    with pytest.raises(SourceError, match="--law"):
        SyntheticSource(**{"n_users": 300, "n_items": 200, "n_interactions": 1800} | options)
