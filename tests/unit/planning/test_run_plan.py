"""Plans from invented rehearsals, whose constants are known."""

from pathlib import Path
from typing import Any

import pytest
from invented_runs import SECONDS, experiment, invent, took

from transrec.planning.laws import LAWS
from transrec.planning.plan import Plan, make_plan
from transrec.planning.view import as_json, duration, in_bytes, total

SIZES = {"users": 1_000_000, "items": 100_000, "nodes": 2, "ranks_of_a_node": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("rehearsals")
    return [invent(folder / str(users), users, users // 10) for users in (1000, 3000, 10_000)]


def planned(folder: Path, runs: list[Path], sizes: dict[str, Any] = SIZES, **values: Any) -> Plan:
    return make_plan(experiment(folder, **values), **sizes, runs=runs)


def seconds(plan: Plan) -> dict[str, float]:
    return {piece.phase: piece.time.seconds for piece in plan.pieces if piece.time is not None}


def test_every_piece_takes_what_its_constants_give(tmp_path: Path, runs: list[Path]) -> None:
    plan = planned(tmp_path, runs)
    expected = {phase: took(phase, LAWS[phase].amounts(plan.setting)) for phase in SECONDS}
    assert seconds(plan) == pytest.approx(expected, rel=0.02)
    judged = {check.name: check.verdict for check in plan.checks if "short" not in check.verdict}
    assert set(judged.values()) == {"ok"}
    assert judged.keys() >= {"scan", "epoch", "validation", "test"}


def test_ranks_share_the_work_of_users_and_items(tmp_path: Path, runs: list[Path]) -> None:
    one = seconds(planned(tmp_path, runs, SIZES | {"nodes": 1, "ranks_of_a_node": 1}))
    eight = seconds(planned(tmp_path, runs))
    for phase in ("validation", "test", "baselines"):
        assert eight[phase] == pytest.approx(one[phase] / 8, rel=0.02)
    assert eight["checkpoint"] == pytest.approx(one["checkpoint"]), "every rank gathers every parameter"


def test_a_sample_of_users_bounds_validation_and_test(tmp_path: Path, runs: list[Path]) -> None:
    plan = planned(tmp_path, runs, evaluation={"users": 500, "validation_users": 50})
    assert plan.setting.asked == (50, 500)


def test_pieces_are_entered_as_often_as_the_configuration_says(tmp_path: Path, runs: list[Path]) -> None:
    plan = planned(tmp_path, runs, train={"epochs": 3, "evaluate_every": "epoch", "checkpoint_every": "never"})
    times = {piece.phase: piece.times for piece in plan.pieces}
    assert (times["steps"], times["validation"], times["encoding"], times["test"]) == (3, 3, 5, 1)
    plan = planned(tmp_path, runs, train={"steps": 1000, "batch_size": 200, "evaluate_every": 100})
    times = {piece.phase: piece.times for piece in plan.pieces}
    assert times["steps"] == pytest.approx(1000 * 200 / 2_000_000)
    assert times["validation"] == 10


def test_longer_histories_have_more_windows(tmp_path: Path, runs: list[Path]) -> None:
    short = planned(tmp_path, runs).setting
    long = planned(tmp_path, runs, SIZES | {"interactions_of_a_user": 38}).setting
    assert long.interactions == 38 * short.users
    assert long.windows == 2 * short.windows  # (38 - 2) / 5 and (20 - 2) / 5


def test_a_law_that_does_not_hold_is_found(tmp_path: Path, runs: list[Path]) -> None:
    slow = [invent(tmp_path / str(users), users, users // 10) for users in (1000, 3000, 10_000)]
    path = slow[-1] / "summary.json"
    path.write_text(path.read_text().replace('"seconds"', '"_"').replace('"_": ', '"seconds": 10'))
    verdicts = {check.name: check.verdict for check in planned(tmp_path, slow).checks}
    assert "grows faster than its law" in verdicts["epoch"]


def test_without_a_rehearsal_there_is_no_time(tmp_path: Path) -> None:
    plan = planned(tmp_path, [])
    assert not seconds(plan)
    assert total(plan.pieces) is None
    assert "Times need a rehearsal" in plan.remarks[0]
    assert as_json(plan)["device"] is None


def test_memory_is_split_by_stage(tmp_path: Path) -> None:
    plan = planned(tmp_path, [])
    number = plan.setting.parameters.total
    assert plan.setting.parameters.trainable == number
    assert plan.memory[0] == {"weights": 4 * number, "gradients": 4 * number, "optimizer": 8 * number}
    assert plan.memory[2] == {"weights": 4 * number, "gradients": number // 2, "optimizer": number}
    assert plan.memory[3]["weights"] == number // 2


def test_rows_updated_alone_are_whole_on_every_rank(tmp_path: Path) -> None:
    plan = planned(tmp_path, [], optimizer={"embedding": {"name": "rowwise_adagrad"}, "lr": {"embedding": 0.01}})
    parameters = plan.setting.parameters
    assert plan.memory[1]["optimizer"] == 8 * parameters.dense // 8 + 4 * parameters.beside // 8
    assert plan.memory[1]["gradients"] == 4 * parameters.dense


def test_bytes_follow_from_the_sizes(tmp_path: Path, runs: list[Path]) -> None:
    plan = planned(tmp_path, runs)
    taken = {piece.phase: piece.bytes for piece in plan.pieces}
    assert taken["scan"].storage == 100 * 1_000_000
    assert taken["steps"].storage == 100 * 1_000_000
    assert taken["checkpoint"].disk == 3 * 12 * plan.setting.parameters.trainable
    assert taken["test"].memory == taken["steps"].memory + 4 * 8 * 100_001


def test_other_shares_of_a_step_are_remarked(tmp_path: Path, runs: list[Path]) -> None:
    assert "Set train.batch_size=512" in " ".join(planned(tmp_path, runs).remarks)
    alike = planned(tmp_path, runs, train={"batch_size": 512})
    assert "Set train.batch_size" not in " ".join(alike.remarks)
    assert "sends" in " ".join(alike.remarks), "what rehearsals of one rank cannot show"


def test_a_document_has_every_piece(tmp_path: Path, runs: list[Path]) -> None:
    plan = planned(tmp_path, runs)
    found = as_json(plan)
    assert [piece["name"] for piece in found["pieces"]] == [piece.name for piece in plan.pieces]
    assert found["seconds"] == pytest.approx(
        sum(piece.times * piece.time.seconds for piece in plan.pieces if piece.times and piece.time)
    )
    assert found["at_most"] >= found["seconds"]


def test_units_are_readable() -> None:
    assert [duration(seconds) for seconds in (0.001, 1.5, 90, 7200, 200_000)] == [
        "0 s",
        "1.5 s",
        "1.5 min",
        "2 h",
        "2.31 d",
    ]
    assert [in_bytes(number) for number in (0, 1536, 2**40)] == ["0 B", "1.5 KiB", "1 TiB"]
