from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from asked import users_asked
from hypothesis import given
from hypothesis import strategies as st

from transrec.data.examples.histories import HistoryExamples
from transrec.data.examples.questions import left_padded, newest

HISTORIES = {"long": [1, 2, 3, 4, 5, 6, 7, 8], "plain": [2, 3, 2, 4, 9], "short": [1, 9]}


@pytest.fixture(scope="module")
def given_shards(build_shards) -> Path:
    return build_shards(HISTORIES, n_items=9, block_users=1)


def rows(interactions: HistoryExamples, part: str) -> dict[str, tuple[list[int], list[int], int]]:
    """User -> (inputs, history, target)."""
    found = {}
    for batch in interactions.questions(part):  # type: ignore[arg-type]
        for i, user in enumerate(batch.user_ids if batch is not None else []):
            history = batch.history[i]
            found[user] = (batch.inputs[i].tolist(), history[history > 0].tolist(), int(batch.targets[i]))
    return found


def test_validation_and_test_by_hand(scan: Callable[..., HistoryExamples], given_shards: Path) -> None:
    interactions = scan(max_length=5, path=given_shards)
    assert rows(interactions, "valid") == {
        "long": ([2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], 7),
        "plain": ([0, 0, 2, 3, 2], [2, 3, 2], 4),
    }
    assert rows(interactions, "test") == {
        "long": ([3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7], 8),
        "plain": ([0, 2, 3, 2, 4], [2, 3, 2, 4], 9),
    }


def test_a_block_with_nobody_to_evaluate_is_none(scan: Callable[..., HistoryExamples], given_shards: Path) -> None:
    batches = list(scan(path=given_shards).questions("test"))
    assert [batch is None for batch in batches].count(True) == 1
    assert len(batches) == 3


def test_the_evaluated_users_are_those_of_the_batches_in_their_order(
    scan: Callable[..., HistoryExamples], given_shards: Path
) -> None:
    for interactions in (scan(), scan(path=given_shards)):
        assert users_asked(interactions, "test") == list(rows(interactions, "test"))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("part", ["valid", "test"])
def test_ranks_share_the_users_and_take_equally_many_turns(
    scan: Callable[..., HistoryExamples], world_size: int, part: str
) -> None:
    interactions = scan()
    turns = [list(interactions.questions(part, rank, world_size)) for rank in range(world_size)]  # type: ignore[arg-type]
    assert len({len(of_rank) for of_rank in turns}) == 1
    users = [user for of_rank in turns for batch in of_rank if batch is not None for user in batch.user_ids]
    assert len(users) == len(set(users))
    assert set(users) == set(rows(interactions, part))


def test_no_target_is_an_input_of_training(scan: Callable[..., HistoryExamples]) -> None:
    interactions = scan()
    for batch_number, batch in enumerate(interactions.questions("valid")):
        assert batch is not None
        block = interactions.block(batch_number)
        for user, history, target in zip(batch.user_ids, batch.history, batch.targets, strict=True):
            place = block.user_ids.to_pylist().index(user)
            stop = int(interactions.train_stops(batch_number)[place])
            assert history[history > 0].tolist() == block.history(place)[:stop].tolist()
            assert int(target) == block.history(place)[stop]


def test_training_sequences_are_the_training_histories(
    scan: Callable[..., HistoryExamples], given_shards: Path
) -> None:
    interactions = scan(path=given_shards)
    found = [(items.tolist(), lengths.tolist()) for items, lengths in interactions.training_sequences(range(3))]
    assert interactions.block_sizes.tolist() == [sum(lengths) for _, lengths in found]
    assert [*interactions.training_sequences([])] == []
    expected = {"long": ([1, 2, 3, 4, 5, 6], [6]), "plain": ([2, 3, 2], [3]), "short": ([], [0])}
    users = [interactions.block(n).user_ids.to_pylist()[0] for n in range(3)]
    assert found == [expected[user] for user in users]


@given(st.lists(st.lists(st.integers(1, 99), max_size=9), min_size=1, max_size=5), st.integers(1, 12))
def test_padding_keeps_every_item_and_newest_the_last(histories: list[list[int]], max_length: int) -> None:
    padded = left_padded([np.array(h, np.int32) for h in histories])
    assert padded.dtype == torch.int64
    assert [row[row > 0].tolist() for row in padded] == histories
    inputs = newest(padded, max_length)
    assert inputs.shape == (len(histories), max_length)
    for row, history in zip(inputs, histories, strict=True):
        kept = history[-max_length:]
        assert row.tolist() == [0] * (max_length - len(kept)) + kept
