import numpy as np
import pyarrow as pa
import pytest

from data_tools.source import SourceError
from data_tools.sources import synthetic
from data_tools.sources.synthetic import SyntheticSource

SMALL = SyntheticSource(n_users=400, n_items=320, n_interactions=12_000, seed=3)


def read(source: SyntheticSource) -> tuple[list, pa.Table, pa.Table]:
    interactions = pa.Table.from_batches([batch.rows for batch in source.interactions(pytest.fail)])
    users = pa.Table.from_batches([batch.rows for batch in source.users(pytest.fail)])
    return list(source.items(pytest.fail)), interactions, users


def test_counts_are_those_asked_for() -> None:
    items, interactions, users = read(SMALL)
    assert (len(items), len(interactions), len(users)) == (320, 12_000, 400)
    assert len({item.title.split()[0] for item in items}) == 320
    assert set(interactions["item_id"].to_pylist()) <= {item.item_id for item in items}
    assert set(interactions["user_id"].to_pylist()) == set(users["user_id"].to_pylist())


def test_same_seed_same_data() -> None:
    same = SyntheticSource(400, 320, 12_000, seed=3)
    other = SyntheticSource(400, 320, 12_000, seed=4)
    assert read(SMALL) == read(same)
    assert read(SMALL)[1] != read(other)[1]
    assert read(SMALL)[0] != read(other)[0]


def test_time_ascends_and_items_seldom_repeat() -> None:
    _, interactions, _ = read(SMALL)
    frame = interactions.group_by("user_id", use_threads=False).aggregate([("timestamp", "list"), ("item_id", "list")])
    repeats = 0
    for times, items in zip(frame["timestamp_list"].to_pylist(), frame["item_id_list"].to_pylist(), strict=True):
        assert np.all(np.diff(times) > 0)
        repeats += len(items) - len(set(items))
    assert repeats < 0.01 * len(interactions)


def test_text_and_order_predict_the_next_item_better_than_popularity() -> None:
    """Compare ten items guessed from the topic of the last title with the ten most popular items."""
    items, interactions, _ = read(SMALL)
    topic_of_word = {item.title.split()[1]: int(item.fields["topic"].split("-")[1]) for item in items}
    topic = {item.item_id: topic_of_word[item.title.split()[1]] for item in items}
    n_topics = len(set(topic.values()))
    names, counts = np.unique(interactions["item_id"].to_numpy(), return_counts=True)
    popular = [str(name) for name in names[np.argsort(-counts)]]
    of_topic = {t: [name for name in popular if topic[name] == t][:10] for t in range(n_topics)}
    users, sequence = interactions["user_id"].to_pylist(), interactions["item_id"].to_pylist()
    pairs = [(sequence[row], sequence[row + 1]) for row in range(len(users) - 1) if users[row] == users[row + 1]]
    by_popularity = np.mean([item in popular[:10] for _, item in pairs])
    by_topic = np.mean([item in of_topic[(topic[last] + 1) % n_topics] for last, item in pairs])
    assert by_topic > 2 * by_popularity


def test_batches_hold_whole_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "BATCH_ROWS", 1000)
    batches = [batch.rows for batch in SMALL.interactions(pytest.fail)]
    assert len(batches) > 8
    assert max(map(len, batches)) < 1300
    assert sum(map(len, batches)) == 12_000
    users = [set(batch["user_id"].to_pylist()) for batch in batches]
    assert sum(map(len, users)) == len(set.union(*users)) == 400
    assert [len(batch.rows) for batch in SMALL.users(pytest.fail)] == [400]


@pytest.mark.parametrize("counts", [(1, 1, 1), (5, 1, 20), (10, 3, 4), (1, 2000, 100)])
def test_odd_sizes(counts: tuple[int, int, int]) -> None:
    items, interactions, _ = read(SyntheticSource(*counts))
    assert (len(items), len(interactions)) == (counts[1], counts[2])


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(SourceError, match="at least 1"):
        SyntheticSource(n_users=0)
