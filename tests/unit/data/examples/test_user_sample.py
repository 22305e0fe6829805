"""Samples of the users that are asked: of any size, on any number of ranks, of every kind of example."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import users_asked

from transrec.config import validate
from transrec.data.examples import DataConfig
from transrec.data.examples.user_sample import UserSample, draw_users

USERS = np.array([4, 4, 0, 4, 4, 3])


def sampled(most: int, having: list[int] | None = None) -> tuple[UserSample | None, list[int]]:
    """A sample, and the blocks that were read for it."""
    read: list[int] = []

    def count(number: int) -> int:
        read.append(number)
        return int((USERS if having is None else having)[number])

    return draw_users(USERS, count, most), read


@pytest.mark.parametrize("most", [1, 3, 4, 5, 8, 18])
def test_a_sample_has_as_many_users_as_asked_for(most: int) -> None:
    sample, read = sampled(most)
    assert sample is not None
    assert (sample.users, sample.of, int(sample.kept.sum())) == (most, 19, most)
    assert (np.diff(sample.blocks) > 0).all()
    assert (sample.kept <= USERS[sample.blocks]).all()
    assert (sample.kept < USERS[sample.blocks]).sum() <= 1, "only of the last block are users left out"
    assert len(read) <= most // 3 + 3, "blocks outside of the sample are not read"


def test_a_sample_of_everybody_is_none() -> None:
    assert sampled(19)[0] is None
    assert sampled(100)[0] is None
    assert sampled(2, having=[0, 1, 0, 0, 1, 0])[0] is None


def test_users_without_a_question_do_not_count() -> None:
    sample, _ = sampled(3, having=[2, 0, 0, 0, 2, 0])
    assert sample is not None
    assert (sorted(sample.kept.tolist()), sample.blocks.tolist()) == ([1, 2], [0, 4])


def test_a_larger_sample_holds_the_smaller_ones() -> None:
    found = [sampled(most)[0] for most in range(1, 19)]
    kept = [dict(zip(s.blocks.tolist(), s.kept.tolist(), strict=True)) for s in found if s is not None]
    for smaller, larger in pairwise(kept):
        assert all(larger.get(block, 0) >= users for block, users in smaller.items())


def test_a_sample_says_what_it_is_of() -> None:
    assert str(sampled(5)[0]) == "a sample of 5 of 19 users"


# Examples


def scan(path: Path, cache: Path, **settings: Any) -> Any:
    return validate(DataConfig, {"path": str(path), "cache": str(cache), **settings}).scan(6)


def users_of(questions: Any, examples: Any) -> list[str]:
    """The users of questions, found by number: of the block and in it."""
    numbers = [divmod(number, 2**32) for asked in questions if asked is not None for number in asked.users.tolist()]
    return [examples.shards.block(block).user_ids[user].as_py() for block, user in numbers]


@pytest.mark.parametrize("part", ["valid", "test"])
def test_ranks_share_the_same_sample(synthetic_shards: Path, tmp_path: Path, part: Any) -> None:
    examples = scan(synthetic_shards, tmp_path)
    sample = examples.sample_users(part, 21)
    expected = users_asked(examples, part, sample)
    assert len(expected) == len(set(expected)) == 21
    assert set(expected) < set(users_asked(examples, part))
    for ranks in (1, 2, 3, 50):
        turns = [list(examples.questions(part, rank, ranks, sample)) for rank in range(ranks)]
        assert len({len(of_rank) for of_rank in turns}) == 1
        in_turn = [asked for turn in zip(*turns, strict=True) for asked in turn]
        assert users_of(in_turn, examples) == expected


def test_histories_and_targets_are_those_of_the_users(synthetic_shards: Path, tmp_path: Path) -> None:
    def rows(sample: Any) -> dict[int, tuple[list[int], int]]:
        return {
            user: ([item for item in history if item], target)
            for asked in examples.questions("test", sample=sample)
            if asked is not None
            for user, history, target in zip(
                asked.users.tolist(), asked.history.tolist(), asked.targets.tolist(), strict=True
            )
        }

    examples = scan(synthetic_shards, tmp_path)
    everyone, some = rows(None), rows(examples.sample_users("test", 30))
    assert len(some) == 30
    assert some.items() < everyone.items()


def test_a_user_of_a_task_is_asked_about_all_targets(build_shards: Callable[..., Path], tmp_path: Path) -> None:
    histories = {f"u{n}": [1 + (n + i) % 9 for i in range(5)] for n in range(60)}
    path = build_shards(histories, n_items=9)
    labels = tmp_path / "labels.tsv"
    rows = [f"u{n}\t{label}" for n in range(60) for label in ("a", "b")]
    labels.write_text("\n".join(["user_id\ttarget", *rows]) + "\n", encoding="utf-8")
    task = {"name": "task", "targets": {"name": "file", "path": str(labels)}}
    examples = scan(path, tmp_path, examples=task)
    users = users_asked(examples, "test", examples.sample_users("test", 4))
    assert len(users) == 8
    assert len(set(users)) == 4


def test_a_user_of_impressions_is_asked_about_all_of_them(scan_impressions: Callable[..., Any]) -> None:
    examples = scan_impressions()
    sample = examples.sample_users("test", 7)
    every, some = users_asked(examples, "test"), users_asked(examples, "test", sample)
    assert len(set(some)) == 7
    assert some == [user for user in every if user in set(some)]
    asked = sum(len(asked.users) for asked in examples.questions("test", sample=sample) if asked is not None)
    assert asked == len(some)
