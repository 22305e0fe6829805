"""With `--json`, a command prints one JSON document, with the numbers of its tables; without it, what it always did."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Finished, ForkedCommands, json_lines
from tiny_world import Tiny

from transrec.commands.recommend import parse


@pytest.fixture(scope="module")
def run(commands: ForkedCommands, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("json") / "run"
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=2")
    assert finished.code == 0, finished.stderr
    return run_dir


def document(finished: Finished) -> Any:
    """The one document of a command that succeeded; anything else on its output is an error."""
    assert finished.code == 0, finished.stderr
    return json.loads(finished.stdout)


def test_evaluate(commands: ForkedCommands, run: Path) -> None:
    plain = commands.run("evaluate", "--run", run)
    (line,) = json_lines(plain)
    assert document(commands.run("evaluate", "--run", run, "--json")) == {"results": [line]}
    assert f"{line['test']['HR@10']:.4f} [" in plain.stdout, "the table"


def test_recommend(commands: ForkedCommands, run: Path) -> None:
    arguments = ["recommend", "--run", run, "--history", "item-1,item-2", "--top", "3"]
    (result,) = document(commands.run(*arguments, "--json"))["results"]
    assert [item["item_id"] for item in result["history"]] == ["item-1", "item-2"]
    table = commands.run(*arguments).stdout
    assert len(result["recommendations"]) == 3
    for item in result["recommendations"]:
        assert item["item_id"] in table
        assert f"{item['score']:.4f}" in table


def test_recommend_for_a_file_prints_lines_already(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--run", "r", "--histories", "users.jsonl", "--json"])
    assert ended.value.code == 2
    assert "--histories already prints a JSON line for each user" in capsys.readouterr().err


def test_lineage(commands: ForkedCommands, run: Path) -> None:
    plain = commands.run("lineage", "--run", run, "--step", "1")
    (line,) = json_lines(plain)
    assert "step 1: " in plain.stdout
    assert document(commands.run("lineage", "--run", run, "--step", "1", "--json")) == line
