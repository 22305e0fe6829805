"""`lineage.py` against the batch hashes that a run recorded."""

import contextlib
import io
import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import ForkedCommands
from run_folder import hashes
from tiny_world import Tiny, build_shards

from transrec.commands import lineage as command
from transrec.commands.lineage import MOST_ROWS
from transrec.config import ConfigError
from transrec.data.train_stream import digest
from transrec.runs.lineage import RunLineage, SeenWindow
from transrec.terminal import console

STEPS = 30


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("recorded") / "run"
    more = [f"train.steps={STEPS}", "train.accumulation=2", "data.workers=1"]
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *more, ranks=2)
    assert finished.code == 0, finished.stderr
    return run_dir


def ask(run_dir: Path, *question: str) -> tuple[int, dict[str, Any], str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = command.main(["--run", str(run_dir), *question])
    lines = out.getvalue().splitlines()
    return code, json.loads(lines[-1]) if code == 0 else {}, out.getvalue()


def test_a_thousand_answers_agree_with_the_recorded_run(recorded: Path) -> None:
    lineage = RunLineage(recorded).lineage
    assert lineage.steps == STEPS
    users_of = {}
    for number, recorded_hash in enumerate(hashes(recorded), start=1):
        windows = lineage.step(number).windows
        slots = [windows.get(slot) for slot in range(max(windows) + 1)]
        assert f"{digest(0, slots):016x}" == recorded_hash, "the step is not the one that was trained on"
        users_of[number] = {window.user_id for window in slots if window is not None}
    users = sorted(set().union(*users_of.values()))
    steps_of = {user: {sighting.step for sighting in lineage.user(user)} for user in users}
    agreed = [
        (step in steps_of[user]) == (user in users_of[step])
        for step, user in ((random.randint(1, STEPS), random.choice(users)) for _ in range(1000))
    ]
    assert all(agreed)
    assert len(agreed) == 1000


def test_its_own_shards_may_lie_elsewhere_but_others_are_refused(recorded: Path, tiny: Tiny, tmp_path: Path) -> None:
    own = shutil.copytree(tiny.shards, tmp_path / "own")
    assert RunLineage(recorded, own).step(3) == RunLineage(recorded).step(3)
    for name, changes in (("users", {"users": 150}), ("items", {"items": 90})):
        others = build_shards(tmp_path / name, **changes)
        with pytest.raises(ConfigError, match=r"was trained on shards other than .*name its own shards with --data"):
            RunLineage(recorded, others)


def test_other_items_under_the_same_users_are_refused(recorded: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(recorded, tmp_path / "run")
    path = run_dir / "export/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"item_ids_sha256": "f00d"}))
    with pytest.raises(ConfigError, match="was trained on shards other than"):
        RunLineage(run_dir)


def test_answers_are_a_table_and_a_line_of_json(recorded: Path) -> None:
    code, step, shown = ask(recorded, "--step", "1")
    assert code == 0
    assert "step 1" in shown
    window = step["windows"][0]
    assert set(window["items"]) <= set(step["items"])
    code, user, shown = ask(recorded, "--user", window["user"])
    assert {"step": 1, "slot": window["slot"], "user": window["user"], "start": window["start"]} in user["windows"]
    assert f"user {window['user']}: in {len({w['step'] for w in user['windows']})} of {STEPS} steps" in shown
    code, item, shown = ask(recorded, "--item", window["items"][0])
    assert (1, window["slot"]) in {(place["step"], place["slot"]) for place in item["windows"]}


def test_a_table_keeps_its_lines_in_a_pipe(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    _, step, shown = ask(recorded, "--step", "1")
    windows = step["windows"][:MOST_ROWS]
    assert [window["user"] in line for window, line in zip(windows, rows(shown), strict=True)] == [True] * len(windows)


def rows(shown: str) -> list[str]:
    return [line for line in shown.splitlines() if line.startswith("│")]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (("--step", "0"), f"this run has no step 0: choose a step from 1 to {STEPS}"),
        (("--step", str(STEPS + 1)), f"choose a step from 1 to {STEPS}"),
        (("--user", "nobody"), "user 'nobody' is not in the shards"),
        (("--item", "nothing"), "item 'nothing' is not in the catalogue"),
    ],
)
def test_what_was_never_there(
    recorded: Path, capsys: pytest.CaptureFixture[str], question: tuple[str, str], message: str
) -> None:
    code, _, _ = ask(recorded, *question)
    assert code == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("option", "message"), [("--user", "user '-x,7' is not"), ("--item", "item '-x,7' is not")])
def test_an_id_may_begin_with_a_dash_and_hold_a_comma(
    recorded: Path, option: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--run", str(recorded), option, "-x,7"]) == 1
    assert message in capsys.readouterr().err


def test_titles_and_users_are_shown_as_they_are() -> None:
    nasty = "[/part 1] :smile:"
    windows = [SeenWindow(1, 0, nasty, 0, ["i"])]
    shown = SimpleNamespace(titles={"i": nasty}, steps=1)
    table, _ = command.of_all_steps(shown, f"user {nasty}", windows)  # type: ignore[arg-type]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        console().print(table)
    assert out.getvalue().count(nasty) == 3
