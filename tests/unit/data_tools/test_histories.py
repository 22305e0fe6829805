import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from data_tools.histories import Histories, unite_users
from data_tools.indexing import indexed
from data_tools.source import INTERACTION_COLUMNS
from transrec.data.shards.schema import user_order_key

COLUMNS = indexed(INTERACTION_COLUMNS)

Row = tuple[str, int, int, float | None]  # user, item, timestamp, rating
ROWS = st.lists(
    st.tuples(
        st.sampled_from("abcdefg"), st.integers(1, 9), st.integers(-2, 2), st.none() | st.just(1.0) | st.just(2.5)
    ),
    max_size=40,
)


def group_rows(rows: list[Row]) -> Histories:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(COLUMNS)
    return Histories.group(pa.table(columns, schema=COLUMNS))


def group(rows: list[Row], block_users: int = 2) -> list[pa.RecordBatch]:
    grouped = group_rows(rows)
    blocks = list(grouped.cut_blocks([*range(0, len(grouped.user_ids), block_users), len(grouped.user_ids)]))
    assert len(grouped.user_ids) == sum(map(len, blocks)) == len({row[0] for row in rows})
    return blocks


def histories(blocks: list[pa.RecordBatch]) -> list[dict]:
    return [user for block in blocks for user in block.to_pylist()]


@given(ROWS, st.integers(1, 4))
def test_agrees_with_the_definition(rows: list[Row], block_users: int) -> None:
    blocks = group(rows, block_users)
    expected = []
    for user in sorted({row[0] for row in rows}, key=lambda user: (user_order_key(user), user)):
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[2])  # stable
        expected.append(
            {
                "user_id": user,
                "item": [row[1] for row in own],
                "timestamp": [row[2] for row in own],
                "rating": [row[3] for row in own],
            }
        )
    assert histories(blocks) == expected
    assert all(len(block) == block_users for block in blocks[:-1])


def test_ties_keep_the_order_of_the_source() -> None:
    items = [5, 3, 9, 1, 4, 2, 8, 7, 6]
    [block] = group([("u", item, 100, None) for item in items])
    assert block["item"].to_pylist() == [items]


def test_leaving_out_users_keeps_the_order_of_the_others() -> None:
    """A prefix of a prefix is therefore a prefix, whichever other users are in the data."""
    everyone = [(f"user {number}", 1, 0, None) for number in range(50)]
    some = everyone[::3]
    order = [user["user_id"] for user in histories(group(everyone))]
    kept = {row[0] for row in some}
    assert [user for user in order if user in kept] == [user["user_id"] for user in histories(group(some))]


def test_order_is_that_of_the_hash_and_not_of_the_input() -> None:
    rows = [(f"{number}", 1, 0, None) for number in range(20)]
    blocks = group(rows)
    assert histories(blocks) == histories(group(rows[::-1]))
    ids = [user["user_id"] for user in histories(blocks)]
    assert ids == sorted(ids, key=user_order_key)
    assert ids != sorted(ids)
    assert ids[:3] == ["18", "6", "2"]  # pinned: shards of different builds must agree


def test_no_interactions() -> None:
    assert group([]) == []


@given(ROWS, st.data())
def test_keeping_rows_is_grouping_them_alone(rows: list[Row], data: st.DataObject) -> None:
    grouped = group_rows(rows)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), bool)
    kept = grouped.keep(mask)
    users = np.repeat(grouped.user_ids.to_numpy(zero_copy_only=False), grouped.lengths)[mask]
    assert kept.items.tolist() == grouped.items[mask].tolist()
    assert np.repeat(kept.user_ids.to_numpy(zero_copy_only=False), kept.lengths).tolist() == users.tolist()
    assert kept.lengths.all()


@given(ROWS, ROWS)
def test_among_the_users_of_two_histories_everybody_keeps_their_rows(some: list[Row], others: list[Row]) -> None:
    both = [group_rows(rows) for rows in (some, [(chr(ord(user) + 3), *rest) for user, *rest in others])]
    everyone = unite_users(both)
    ids = everyone.to_pylist()
    assert ids == sorted(set(ids), key=lambda user: (user_order_key(user), user))
    for alone in both:
        spread = alone.among(everyone)
        assert spread.lengths.sum() == len(spread.rows)
        own = dict(zip(alone.user_ids.to_pylist(), alone.lengths.tolist(), strict=True))
        assert spread.lengths.tolist() == [own.get(user, 0) for user in ids]
