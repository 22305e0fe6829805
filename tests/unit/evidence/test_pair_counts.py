"""Co-occurrence and transitions against counting by hand."""

import numpy as np
import pytest
from evidence_tables import GivenSequences, made
from scipy import sparse

from transrec.data.batch import SeenItems
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


def seen(histories):
    return SeenItems(np.concatenate(histories), np.array([len(history) for history in histories]), ITEMS)


def beginnings(users):
    """Every beginning of each sequence."""
    return [user[:length] for user in users for length in range(1, len(user) + 1)]


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
    found = counted(config, users, tmp_path / "counts", blocks).scores(seen(beginnings(others))).toarray()
    expected = [by_hand(config, users, history) for history in beginnings(others)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.any()


def test_transitions_are_in_the_order_of_time(tmp_path):
    users = [np.array([1, 2, 3])] * 2
    found = counted(FORWARD, users, tmp_path / "counts").scores(seen([np.array([2])])).toarray()
    assert np.flatnonzero(found[0]).tolist() == [3]


def test_users_of_a_batch_do_not_disturb_each_other(tmp_path):
    users = sequences()
    everyone = counted(EVERYTHING, users, tmp_path / "counts")
    together = everyone.scores(seen(users[:5])).toarray()
    alone = [everyone.scores(seen([user])).toarray() for user in users[:5]]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_counting_in_ranges_of_items_changes_nothing(tmp_path, monkeypatch):
    users = sequences()
    at_once = counted(EVERYTHING, users, tmp_path / "once").scores(seen(users))
    monkeypatch.setattr(pair_files, "_PAIRS_AT_ONCE", 50)
    in_ranges = counted(EVERYTHING, users, tmp_path / "ranges").scores(seen(users))
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
    with pytest.raises(ValueError, match=f"must be 1..{ITEMS}"):
        counted(EVERYTHING, bad, tmp_path / "counts")


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
