"""Who learns a task and who is asked, and what training and evaluation then see of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transrec.config import ConfigError
from transrec.data.batch import Sampling
from transrec.data.examples.histories import HistoryExamples
from transrec.data.examples.splits import TEST, TRAIN, UNUSED, VALID, by_user
from transrec.data.lineage import Lineage
from transrec.data.train_stream import TrainStream

PACE: dict[str, Any] = {"task": {"name": "profile", "column": "pace"}}
ASKED = Sampling(positions="last")
Scan = Callable[..., HistoryExamples]
MakeStream = Callable[..., TrainStream]


def parts(interactions: HistoryExamples) -> dict[str, set[int]]:
    """User -> the parts that instances of the user are in."""
    found: dict[str, set[int]] = {}
    assert interactions.labels is not None
    for number, (user, _, part) in enumerate(interactions.labels.blocks):
        for u, p in zip(user.tolist(), part.tolist(), strict=True):
            found.setdefault(interactions.block(number).user_ids[u].as_py(), set()).add(p)
    return found


def training(interactions: HistoryExamples) -> set[str]:
    return {user for user, of in parts(interactions).items() if of == {TRAIN}}


@pytest.fixture(scope="module")
def two_platforms(build_shards: Callable[..., Path]) -> tuple[Path, Path]:
    """40 users, each with up to four items in a second set."""
    source = build_shards({f"u{n}": [1 + (n + i) % 9 for i in range(4 + n % 5)] for n in range(40)}, n_items=9)
    target = build_shards({f"u{n}": list(range(1, 2 + n % 4)) for n in range(40)}, n_items=6, block_users=7)
    return source, target


# The split


def test_users_are_split_70_3_27_by_their_id_alone() -> None:
    ids = [f"user-{n}" for n in range(20_000)]
    part = by_user(ids)
    shares = [float((part == of).mean()) for of in (TRAIN, VALID, TEST)]
    np.testing.assert_allclose(shares, [0.70, 0.03, 0.27], atol=0.01)
    assert by_user(ids[::-1]).tolist() == part[::-1].tolist()


def test_no_user_is_in_two_parts(scan: Scan, two_platforms: tuple[Path, Path]) -> None:
    source, target = two_platforms
    found = parts(scan(path=source, min_interactions=1, task={"name": "cold_start", "target": target}))
    assert len(found) == 40
    assert all(len(of) == 1 for of in found.values())
    assert {p for of in found.values() for p in of} == {TRAIN, VALID, TEST}


def test_smaller_fractions_nest_and_leave_evaluation_alone(scan: Scan) -> None:
    all_of_them, *fewer = (scan(fraction=fraction, **PACE) for fraction in (1.0, 0.5, 0.1, 0.001))
    everyone = training(all_of_them)
    assert len(everyone) > 100
    for interactions, expected in zip(fewer, (0.5, 0.1, 0.001), strict=True):
        users = training(interactions)
        assert users < everyone
        assert len(users) == np.ceil(expected * len(everyone))
        asked = [user for user, of in parts(interactions).items() if of & {VALID, TEST}]
        assert asked == [user for user, of in parts(all_of_them).items() if of & {VALID, TEST}]
        assert {user for user, of in parts(interactions).items() if of == {UNUSED}} == everyone - users
        everyone_nested = users
    assert everyone_nested < training(fewer[0])


def test_short_histories_take_no_part(scan: Scan, two_platforms: tuple[Path, Path]) -> None:
    source, target = two_platforms
    task = {"name": "cold_start", "target": target}
    assert parts(scan(path=source, min_interactions=8, task=task)).keys() == {f"u{n}" for n in range(40) if n % 5 == 4}
    with pytest.raises(ConfigError, match=r"no training user of .* has a target"):
        scan(path=source, min_interactions=9, task=task).check_training()


def test_one_class_is_no_task(scan: Scan, tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text("user_id\ttarget\nuser-1\tonly\n")
    with pytest.raises(ConfigError, match=r"at least 2 targets are needed, found 1 \(only\)"):
        scan(task={"name": "file", "path": path})


def test_the_digest_tells_other_labels_from_the_same(scan: Scan) -> None:
    digests = [scan(**settings).labels.digest for settings in (PACE, PACE, {**PACE, "fraction": 0.5})]  # type: ignore[union-attr]
    assert digests[0] == digests[1] != digests[2]


# Training


def test_a_window_is_the_newest_items_of_a_training_user_and_one_target(
    make_stream: MakeStream, two_platforms: tuple[Path, Path]
) -> None:
    source, target = two_platforms
    data = {"path": source, "min_interactions": 1, "task": {"name": "cold_start", "target": target}}
    stream = make_stream(ASKED, batch_size=4, **data)
    seen = []
    for step in range(len(stream)):
        (batch,) = stream[step]
        windows = [window for window in stream.slots(step) if window is not None]
        for row, window in enumerate(stream.slots(step)):
            if window is None:
                assert not batch.target_mask[row].any()
                continue
            number = int(window.user_id[1:])
            history = [1 + (number + i) % 9 for i in range(4 + number % 5)][-5:]
            assert batch.content.items[batch.inputs[row]][batch.input_mask[row]].tolist() == history
            assert window.items.tolist() == history
            assert batch.targets[row].tolist() == [window.target - 1]
            assert batch.target_mask[row].tolist() == [True]
            seen.append((window.user_id, window.target))
        assert sum(batch.counts.values()) == len(windows)
        assert batch.occurrences == sum(len(window.items) for window in windows)
        assert set(batch.content.items.tolist()) == {item for window in windows for item in window.items.tolist()}
    trains = training(stream.examples)
    assert sorted(seen) == sorted((user, t) for user in trains for t in range(1, 2 + int(user[1:]) % 4))


def test_with_a_stride_users_also_train_as_they_were(make_stream: MakeStream, two_platforms: tuple[Path, Path]) -> None:
    """The newest five items, those of two items before, and so on while there are five."""
    source, target = two_platforms
    data = {"path": source, "min_interactions": 5, "task": {"name": "cold_start", "target": target}}
    stream = make_stream(ASKED, batch_size=4, stride=2, **data)
    seen = [w for step in range(len(stream)) for w in stream.slots(step) if w is not None]
    found = sorted((w.user_id, w.target, tuple(w.items.tolist())) for w in seen)
    expected = []
    for user in training(stream.examples):
        number = int(user[1:])
        history = [1 + (number + i) % 9 for i in range(4 + number % 5)]
        for stop in range(len(history), 4, -2):
            expected += [(user, t, tuple(history[:stop][-5:])) for t in range(1, 2 + number % 4)]
    assert found == sorted(expected)
    size = stream.examples.training_size()
    assert size["windows"] == len(expected)
    assert size["labels"] == len({(user, target) for user, target, _ in expected}) < len(expected)


def test_negatives_are_targets_that_the_user_does_not_have(
    make_stream: MakeStream, two_platforms: tuple[Path, Path]
) -> None:
    source, target = two_platforms
    data = {"path": source, "min_interactions": 1, "task": {"name": "cold_start", "target": target}}
    stream = make_stream(Sampling(positions="last", negatives=20), batch_size=4, **data)
    drawn = set()
    for step in range(len(stream)):
        (batch,) = stream[step]
        for row, window in enumerate(stream.slots(step)):
            if window is not None:
                negatives = set((batch.negatives[row] + 1).ravel().tolist())
                assert negatives <= set(range(1, 7)) - set(window.own.tolist())
                drawn |= negatives
    assert drawn == set(range(2, 7))  # 1 is everybody's


def test_instances_of_a_user_differ_in_the_digest_of_a_step(make_stream: MakeStream, scan: Scan) -> None:
    stream = make_stream(ASKED, **PACE)
    assert len({stream[step][0].digest for step in range(2 * len(stream))}) == 2 * len(stream)


def test_lineage_answers_for_a_task(make_stream: MakeStream) -> None:
    stream = make_stream(ASKED, **PACE)
    lineage = Lineage(stream, len(stream))
    user = sorted(training(stream.examples))[0]
    (sighting,) = lineage.user(user)
    assert user in {window.user_id for window in lineage.step(sighting.step).windows.values()}
    untrained = sorted(set(parts(stream.examples)) - training(stream.examples))[0]
    assert lineage.user(untrained) == []


# Evaluation


def test_each_target_of_an_asked_user_is_ranked_without_the_others(
    scan: Scan, two_platforms: tuple[Path, Path]
) -> None:
    source, target = two_platforms
    interactions = scan(path=source, min_interactions=1, task={"name": "cold_start", "target": target})
    rows = []
    for batch in interactions.questions("test"):
        for i, user in enumerate(batch.user_ids if batch is not None else []):
            assert batch is not None
            others = set(batch.left_out[i].tolist()) - {0}
            assert others == set(range(1, 2 + int(user[1:]) % 4)) - {int(batch.targets[i])}
            number = int(user[1:])
            history = [1 + (number + k) % 9 for k in range(4 + number % 5)]
            assert batch.history[i][batch.history[i] > 0].tolist() == history
            assert batch.inputs[i][batch.inputs[i] > 0].tolist() == history[-5:]
            rows.append((user, int(batch.users[i]), int(batch.targets[i])))
    asked = {user for user, of in parts(interactions).items() if of == {TEST}}
    assert sorted((user, t) for user, _, t in rows) == sorted(
        (user, t) for user in asked for t in range(1, 2 + int(user[1:]) % 4)
    )
    assert len({number for _, number, _ in rows}) == len({(user, number) for user, number, _ in rows}) == len(asked)
