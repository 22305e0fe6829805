import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from user_blocks import user_block

from transrec.data.examples.exposures import Exposures, Histories, RatedConfig, SampledConfig, ShownConfig
from transrec.data.shards.user_shards import Shown, UserBlock

ANY_TIME = st.integers(-(2**63), 2**63 - 1)
HEADS = ["click"]


def history_before(shown: Exposures, place: int) -> list[int]:
    user = shown.users[place]
    stops = shown.histories.stops(shown.users, shown.times)
    first = shown.histories.offsets[user]
    return shown.histories.items[first : first + stops[place]].tolist()


# The history before a moment


def test_what_has_the_time_of_the_impression_is_not_before_it() -> None:
    """Two users; the second has two items at one time."""
    histories = Histories(np.array([0, 3, 6]), np.arange(1, 7, dtype=np.int32), np.array([10, 20, 30, 5, 5, 9]))
    users, times = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([10, 11, 30, 31, 4, 5, 6, 99])
    assert histories.stops(users, times).tolist() == [0, 1, 2, 3, 0, 0, 2, 3]


def test_a_user_without_items_has_no_history() -> None:
    histories = Histories(np.array([0, 0, 2, 2]), np.array([1, 2], np.int32), np.array([7, 8]))
    assert histories.stops(np.array([0, 1, 2]), np.array([9, 9, 9])).tolist() == [0, 2, 0]
    nobody = Histories(np.array([0, 0]), np.zeros(0, np.int32), np.zeros(0, np.int64))
    assert nobody.stops(np.array([0]), np.array([9])).tolist() == [0]
    assert nobody.stops(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 4) | ANY_TIME, max_size=6).map(sorted),
            st.lists(st.integers(0, 4) | ANY_TIME, max_size=6).map(sorted),
        ),
        max_size=5,
    )
)
def test_stops_count_what_is_strictly_earlier_of_the_same_user(users: list[tuple[list[int], list[int]]]) -> None:
    """Whatever the unit of time: nanoseconds of many users together do not fit into 64 bits."""
    lengths = [len(before) for before, _ in users]
    histories = Histories(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.ones(sum(lengths), np.int32),
        np.array([time for before, _ in users for time in before], np.int64),
    )
    owners = np.array([user for user, (_, asked) in enumerate(users) for _ in asked], np.int64)
    times = np.array([time for _, asked in users for time in asked], np.int64)
    expected = [sum(time < moment for time in before) for before, asked in users for moment in asked]
    assert histories.stops(owners, times).tolist() == expected


# Ratings


RATED = {
    "a": [(1, 10, 5), (2, 20, 3), (3, 20, 4), (4, 30, 1)],
    "none": [(5, 10), (6, 20)],
    "b": [(7, 10, 4), (8, 15), (9, 40, 4.5)],
}


def test_every_rating_is_an_impression_and_a_high_one_a_click() -> None:
    """Four is high; interactions without a rating are none."""
    shown = RatedConfig().read(user_block(RATED), HEADS, 9)
    assert shown.users.tolist() == [0, 0, 0, 0, 2, 2]
    assert shown.items.tolist() == [1, 2, 3, 4, 7, 9]
    assert shown.times.tolist() == [10, 20, 20, 30, 10, 40]
    assert shown.labels.tolist() == [[1], [0], [1], [0], [1], [1]]
    assert shown.labels.dtype == np.float32
    assert dict(shown.context) == {}


def test_another_rating_may_be_the_least_of_a_click() -> None:
    assert RatedConfig(at_least=5).read(user_block(RATED), HEADS, 9).labels[:, 0].tolist() == [1, 0, 0, 0, 0, 0]


def test_a_user_is_known_by_what_was_liked_before_or_by_all_that_was_rated() -> None:
    liked = RatedConfig().read(user_block(RATED), HEADS, 9)
    assert [history_before(liked, place) for place in range(6)] == [[], [1], [1], [1, 3], [], [7]]
    every = RatedConfig(history="all").read(user_block(RATED), HEADS, 9)
    assert [history_before(every, place) for place in range(6)] == [[], [1], [1], [1, 2, 3], [], [7]]


def test_ratings_of_one_moment_were_shown_together() -> None:
    """Requests are numbered within the user."""
    shown = RatedConfig().read(user_block(RATED), HEADS, 9)
    assert shown.requests.tolist() == [0, 1, 1, 2, 0, 1]


def test_a_block_without_users_or_ratings_has_no_impression() -> None:
    for block in (user_block({}), user_block({"none": RATED["none"]})):
        shown = RatedConfig().read(block, HEADS, 9)
        assert len(shown.users) == len(shown.items) == len(shown.requests) == 0
        assert shown.labels.shape == (0, 1)


# Sampled items


CLICKED = {f"u{n}": [(1 + (3 * n + i) % 12, 10 * i) for i in range(2 + n % 4)] for n in range(9)}


def test_each_click_is_followed_by_the_items_drawn_for_it() -> None:
    shown = SampledConfig(negatives=2).read(user_block({"a": [(4, 10), (5, 20)], "b": [(6, 7)]}), HEADS, 50)
    assert shown.users.tolist() == [0] * 6 + [1] * 3
    assert shown.times.tolist() == [10] * 3 + [20] * 3 + [7] * 3
    assert shown.requests.tolist() == [0] * 3 + [1] * 3 + [0] * 3
    assert shown.labels[:, 0].tolist() == [1, 0, 0] * 3
    assert shown.items[::3].tolist() == [4, 5, 6]
    assert history_before(shown, 4) == [4], "the user is known by every click before"


def by_user(shown: Exposures, user_ids: list[str]) -> dict[str, list[int]]:
    return {user_id: shown.items[shown.users == user].tolist() for user, user_id in enumerate(user_ids)}


def test_draws_are_of_the_user_whatever_block_the_user_lies_in() -> None:
    """Shards may be cut otherwise, and a rank reads only some blocks."""
    whole = by_user(SampledConfig().read(user_block(CLICKED), HEADS, 40), list(CLICKED))
    for users in (["u3"], ["u8", "u2"], list(CLICKED)[::-1]):
        part = SampledConfig().read(user_block({user: CLICKED[user] for user in users}), HEADS, 40)
        assert by_user(part, users) == {user: whole[user] for user in users}
    assert len({tuple(items) for items in whole.values()}) == len(whole)


def test_no_item_of_the_users_own_history_is_drawn() -> None:
    """Not even one that the user takes later."""
    shown = SampledConfig(negatives=9).read(user_block(CLICKED), HEADS, 12)
    drawn = shown.labels[:, 0] == 0
    for user, history in enumerate(CLICKED.values()):
        assert not set(shown.items[drawn & (shown.users == user)].tolist()) & {item for item, _ in history}
    assert set(shown.items[drawn].tolist()) == set(range(1, 13))


def test_the_last_item_that_a_user_does_not_own_is_found() -> None:
    """499 of 500 items are the user's own: a hundred draws would miss the other one four times out of five."""
    everything_but_one = [(item, item) for item in range(1, 501) if item != 321]
    shown = SampledConfig(negatives=3).read(user_block({"a": everything_but_one}), HEADS, 500)
    assert set(shown.items[shown.labels[:, 0] == 0].tolist()) == {321}


def test_a_user_who_owns_the_whole_catalogue_still_gets_items() -> None:
    shown = SampledConfig(negatives=30).read(user_block({"a": [(1, 1), (2, 2), (3, 3)]}), HEADS, 3)
    assert set(shown.items[shown.labels[:, 0] == 0].tolist()) == {1, 2, 3}


def test_items_are_drawn_uniformly_from_those_that_the_user_does_not_own() -> None:
    """Twelve items are left; the share of each lies within four standard errors of a twelfth."""
    history = [(item, item) for item in (1, 2, 5, 9, 14, 15, 16, 20)]
    shown = SampledConfig(negatives=1500).read(user_block({"a": history}), HEADS, 20)
    counts = np.bincount(shown.items[shown.labels[:, 0] == 0], minlength=21)
    free = np.setdiff1d(np.arange(1, 21), [item for item, _ in history])
    assert counts[free].sum() == counts.sum() == 12_000
    assert np.all(np.abs(counts[free] - 1000) < 4 * np.sqrt(12_000 / 12 * 11 / 12))


@pytest.mark.parametrize("exposures", [RatedConfig(), SampledConfig(), ShownConfig()], ids=lambda e: e.name)
def test_times_alone_are_those_of_the_impressions(exposures) -> None:
    """The moments of a split are found by times alone, which costs far less."""
    block = recorded() if exposures.name == "shown" else user_block(RATED)
    assert exposures.times(block).tolist() == exposures.read(block, HEADS, 9).times.tolist() != []


# Recorded impressions


def recorded() -> UserBlock:
    """User a has three impressions, b none, c one."""
    shown = Shown(
        offsets=np.array([0, 3, 3, 4]),
        items=np.array([7, 8, 9, 7], np.int32),
        timestamps=np.array([15, 20, 20, 5]),
        requests=np.array([0, 1, 1, 0], np.int32),
        labels={"click": np.array([1, 0, np.nan, 1], np.float32), "buy": np.array([0, 0, 1, 1], np.float32)},
        context={"position": pa.array(["1", "2", None, "4"])},
    )
    return user_block({"a": [(1, 10), (2, 20)], "b": [(3, 5)], "c": []}, shown=shown)


def test_recorded_impressions_are_read_as_they_are() -> None:
    shown = ShownConfig().read(recorded(), ["click"], 9)
    assert shown.users.tolist() == [0, 0, 0, 2]
    assert shown.items.tolist() == [7, 8, 9, 7]
    assert shown.times.tolist() == [15, 20, 20, 5]
    assert shown.requests.tolist() == [0, 1, 1, 0]
    assert shown.items.dtype == shown.times.dtype == shown.requests.dtype == np.int64
    assert shown.context["position"].to_pylist() == ["1", "2", None, "4"]
    assert [history_before(shown, place) for place in range(4)] == [[1], [1], [1], []]


@pytest.mark.parametrize("heads", [["click"], ["buy", "click"]])
def test_labels_are_those_of_the_heads_in_their_order(heads: list[str]) -> None:
    block = recorded()
    assert block.shown is not None
    labels = ShownConfig().read(block, heads, 9).labels
    np.testing.assert_array_equal(labels, np.stack([block.shown.labels[head] for head in heads], axis=1))
    assert labels.dtype == np.float32
