"""Co-occurrence and transitions against counting by hand, and a user's own pairs against counting without the user."""

from dataclasses import replace

import numpy as np
import pytest
from evidence_tables import GivenSequences, made
from scipy import sparse

from transrec.data.batch import HistoryPoints
from transrec.evidence import pair_files
from transrec.evidence.co_occurrence import CoOccurrenceConfig
from transrec.evidence.neighbours import strongest
from transrec.evidence.transitions import TransitionsConfig

ITEMS = 30
EVERYTHING = CoOccurrenceConfig(window=4, recent=6, neighbours=ITEMS)
FORWARD = TransitionsConfig(window=3, recent=6, neighbours=ITEMS)
BOTH_KINDS = pytest.mark.parametrize("config", [EVERYTHING, FORWARD], ids=lambda config: config.name)


def sequences(seed=0, users=40):
    generator = np.random.default_rng(seed)
    return [generator.integers(1, ITEMS + 1, generator.integers(2, 12)) for _ in range(users)]


def counted(config, users, folder, blocks=1):
    cuts = np.array_split(np.arange(len(users)), blocks)
    lists = [(np.concatenate([users[i] for i in cut]), np.array([len(users[i]) for i in cut])) for cut in cuts]
    return made(config, GivenSequences(lists, ITEMS), folder)


def points(users, counted, hidden=None):
    """Every point behind the first item of each sequence."""
    lengths = np.array([len(user) for user in users])
    numbers = np.concatenate([np.full(len(user), i) for i, user in enumerate(users)])
    seen = np.concatenate([np.arange(1, len(user) + 1) for user in users])
    return HistoryPoints(np.concatenate(users), lengths, numbers, seen, ITEMS, counted, hidden)


def by_hand(config, users, history):
    """The definition, pair by pair."""
    counts = np.zeros((ITEMS + 1, ITEMS + 1))
    for user in users:
        for i in range(len(user)):
            for j in range(len(user)):
                if 0 < abs(i - j) <= config.window and user[i] != user[j] and (j > i or not config.forward):
                    counts[user[i], user[j]] += abs(i - j) ** -config.decay
    scores = np.zeros(ITEMS + 1)
    for place, item in enumerate(history[::-1][: config.recent], start=1):
        for candidate in np.flatnonzero(counts[item]):
            weight = counts[item].sum() ** -config.row_power * counts[:, candidate].sum() ** -config.column_power
            scores[candidate] += place**-config.recency * counts[item, candidate] * weight
    return scores


@pytest.mark.parametrize("at_once", [1, 2**20])
@pytest.mark.parametrize("blocks", [1, 7])
@BOTH_KINDS
def test_scores_by_hand(tmp_path, config, blocks, at_once, monkeypatch):
    monkeypatch.setattr(pair_files, "_INTERACTIONS_AT_ONCE", at_once)
    users, others = sequences(), sequences(1, 5)
    found = counted(config, users, tmp_path / "counts", blocks).scores(points(others, counted=False)).toarray()
    expected = [by_hand(config, users, user[:seen]) for user in others for seen in range(1, len(user) + 1)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.any()


@BOTH_KINDS
def test_a_user_s_own_pairs_are_left_out_exactly(tmp_path, config):
    users = sequences()
    everyone = counted(config, users, tmp_path / "all")
    for number in range(8):
        others = users[:number] + users[number + 1 :]
        without = counted(config, others, tmp_path / str(number)).scores(points([users[number]], counted=False))
        found = everyone.scores(points([users[number]], counted=True))
        np.testing.assert_allclose(found.toarray(), without.toarray(), rtol=1e-5, atol=1e-7)
        assert abs(everyone.scores(points([users[number]], counted=False)) - found).max() > 0.01


def test_what_only_the_user_knows_leaves_nothing(tmp_path):
    users = [np.array([1, 2, 3]), np.array([4, 5, 4, 6])]
    found = counted(EVERYTHING, users, tmp_path / "counts").scores(points(users, counted=True))
    assert found.count_nonzero() == 0


def test_transitions_are_in_the_order_of_time(tmp_path):
    users = [np.array([1, 2, 3])] * 2
    found = counted(FORWARD, users, tmp_path / "counts").scores(points([np.array([2])], counted=False)).toarray()
    assert np.flatnonzero(found[0]).tolist() == [3]


def test_users_of_a_batch_do_not_disturb_each_other(tmp_path):
    users = sequences()
    everyone = counted(EVERYTHING, users, tmp_path / "counts")
    together = everyone.scores(points(users[:5], counted=True)).toarray()
    alone = [everyone.scores(points([user], counted=True)).toarray() for user in users[:5]]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_hidden_items_belong_to_no_history(tmp_path):
    users = sequences()
    everyone = counted(EVERYTHING, users, tmp_path / "counts")
    user = users[0]
    hidden = np.zeros(len(user), bool)
    hidden[1] = True
    found = everyone.scores(points([user], counted=False, hidden=hidden)).toarray()
    assert not np.array_equal(found[1], everyone.scores(points([user], counted=False)).toarray()[1])
    np.testing.assert_allclose(found[1], found[0] * 2**-EVERYTHING.recency, rtol=1e-12)


def test_counting_in_ranges_of_items_changes_nothing(tmp_path, monkeypatch):
    users = sequences()
    at_once = counted(EVERYTHING, users, tmp_path / "once").scores(points(users, counted=True))
    monkeypatch.setattr(pair_files, "_PAIRS_AT_ONCE", 50)
    in_ranges = counted(EVERYTHING, users, tmp_path / "ranges").scores(points(users, counted=True))
    np.testing.assert_array_equal(at_once.toarray(), in_ranges.toarray())


@pytest.mark.parametrize("at_once", [20, 2**20])
@BOTH_KINDS
def test_each_sequence_is_read_once_however_many_pairs_there_are(tmp_path, config, at_once, monkeypatch):
    monkeypatch.setattr(pair_files, "_PAIRS_AT_ONCE", at_once)
    blocks = [(user, np.array([len(user)])) for user in sequences()]
    sources = GivenSequences(blocks, ITEMS)
    made(config, sources, tmp_path / "counts")
    assert sources.read == list(range(len(blocks)))


@BOTH_KINDS
@pytest.mark.parametrize("length", [1, 2, 4, 11])
def test_pairs_of_equally_many_interactions_are_foreseen(config, length):
    users = [np.arange(1, length + 1)] * 3
    places = range(length)
    near = [(i, j) for i in places for j in places if 0 < abs(i - j) <= config.window and (j > i or not config.forward)]
    assert config.pairs(length * len(users), len(users)) == len(near) * len(users)


def test_only_the_strongest_neighbours_are_kept(tmp_path):
    users = sequences()
    few = EVERYTHING.model_copy(update={"neighbours": 3})
    kept = counted(few, users, tmp_path / "few").counts.rows(np.arange(ITEMS + 1)).toarray()
    full = counted(EVERYTHING, users, tmp_path / "all")
    every = full.counts.rows(np.arange(ITEMS + 1)).toarray()
    assert ((kept > 0).sum(1) <= 3).all()
    np.testing.assert_array_equal(kept[kept > 0], every[kept > 0])
    value = every * np.maximum(full.column_totals, 1e-9) ** -few.column_power
    assert (np.where(kept > 0, value, np.inf).min(1) >= np.where(kept > 0, 0, value).max(1) - 1e-12).all()


def test_sequences_that_do_not_fit_are_refused(tmp_path):
    bad = [np.array([1, ITEMS + 1])]
    with pytest.raises(ValueError, match=f"item indices 1..{ITEMS}"):
        counted(EVERYTHING, bad, tmp_path / "counts")


@BOTH_KINDS
def test_items_that_pass_for_cold_have_no_counts(tmp_path, config):
    users = sequences()
    counts = counted(config, users, tmp_path / "counts")
    every = points(users, counted=True)
    found = counts.scores(replace(every, cold=lambda items: items % 3 == 0)).toarray()
    expected = counts.scores(every).toarray()
    expected[:, ::3] = 0
    np.testing.assert_array_equal(found, expected)
    assert found.any()


def test_of_equally_strong_neighbours_the_first_are_kept():
    table = sparse.csr_array(np.array([[5.0, 1, 2, 2, 2], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [2, 2, 1, 1, 3]]))
    kept = strongest(table, table.data, 3).toarray()
    assert kept.tolist() == [[5, 0, 2, 2, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [2, 2, 0, 0, 3]]


@BOTH_KINDS
@pytest.mark.parametrize("user", [[1, 1], [1, 2, 1]])
def test_an_item_that_only_follows_itself_is_no_pair(tmp_path, config, user):
    found = counted(config, [np.array(user)], tmp_path / "counts").counts.rows(np.arange(ITEMS + 1)).toarray()
    np.testing.assert_array_equal(np.diag(found), 0)
    assert bool(found.any()) == (len(user) > 2)
