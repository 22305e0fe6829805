"""Reading finished runs."""

import json
from pathlib import Path
from typing import Any

import pytest
from invented_runs import experiment, invent, read

from transrec.config import ConfigError
from transrec.planning.rehearsal import operations, read_rehearsals, training_speed
from transrec.planning.setting import Parameters


def none(items: int) -> Parameters:
    return Parameters(1, 1)


def test_the_size_of_a_run_is_read(tmp_path: Path) -> None:
    found = read(invent(tmp_path / "run", users=100, items=30)).setting
    assert (found.users, found.items, found.interactions, found.windows) == (100, 30, 2000, 200)
    assert found.asked == (100, 100)
    assert found.operations == 3000


def test_steps_are_those_of_an_epoch_and_others_of_one_time(tmp_path: Path) -> None:
    folder = invent(tmp_path / "run", users=100, items=30)
    summary = json.loads((folder / "summary.json").read_text())
    summary["phases"]["steps"] |= {"seconds": 3.0, "windows": 50, "items_encoded": 200, "item_occurrences": 200}
    summary["phases"]["validation"] |= {"seconds": 8.0, "times": 4}
    (folder / "summary.json").write_text(json.dumps(summary))
    found = read(folder)
    assert found.measured("steps") == pytest.approx(12)
    assert found.measured("validation") == pytest.approx(2)
    assert found.measured("tokens") is None


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        (None, "is not finished"),
        ({"phases": {"start": {}}}, "did not measure its scan"),
        ({}, "did not measure its start"),
        ({"phases": {name: {} for name in ("start", "scan", "steps", "test")}}, "lacks what a plan needs"),
    ],
)
def test_a_run_that_is_no_rehearsal_is_refused(tmp_path: Path, summary: Any, message: str) -> None:
    folder = invent(tmp_path / "run", users=100, items=30)
    (folder / "summary.json").write_text("" if summary is None else json.dumps(summary))
    with pytest.raises(ConfigError, match=message):
        read_rehearsals([folder], experiment(tmp_path), none)


def test_another_configuration_or_device_is_refused(tmp_path: Path) -> None:
    one, other = invent(tmp_path / "one", 100, 30), invent(tmp_path / "other", 10, 3, device="NVIDIA H100")
    with pytest.raises(ConfigError, match=r"a CPU \(1 thread\), .*other on NVIDIA H100"):
        read_rehearsals([one, other], experiment(tmp_path), none)
    with pytest.raises(ConfigError, match="with a different model, adaptation or precision"):
        read_rehearsals([one], experiment(tmp_path, train={"precision": "bf16"}), none)


def test_the_smallest_comes_first(tmp_path: Path) -> None:
    folders = [invent(tmp_path / str(users), users, 30) for users in (100, 10)]
    found = read_rehearsals(folders, experiment(tmp_path), none)
    assert [one.setting.users for one in found] == [10, 100]


def test_the_share_of_the_item_encoder_grows_with_the_items_of_a_window() -> None:
    summary = {
        "flops_per_user": {"forward": 100, "backward": 200},
        "flops_by_tower": {"item_encoder": 0.5},
        "work": {"item_occurrences": 40, "items_encoded": 20},
        "phases": {"steps": {"windows": 10, "item_occurrences": 40, "items_encoded": 20}},
    }
    assert operations(summary, encoded=2) == pytest.approx(300)
    assert operations(summary, encoded=4) == pytest.approx(450)
    assert operations({"phases": {}}, encoded=4) is None


def test_speed_is_that_of_steps_if_they_were_measured() -> None:
    assert training_speed({"users_per_second": 5, "phases": {"steps": {"windows": 30, "seconds": 3.0}}}) == 10
    assert training_speed({"users_per_second": 5, "phases": {"first step": {}}}) == 5
    assert training_speed({"users_per_second": 5}) == 5
