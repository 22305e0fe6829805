"""The output of `transrec evaluate` for people and for programs."""

import json
import sys
from types import SimpleNamespace

import pytest

from transrec.commands import evaluate
from transrec.distributed.world import World


@pytest.mark.parametrize("terminal", [True, False])
def test_a_line_of_json_follows_the_tables_only_for_programs(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = SimpleNamespace(as_json=lambda: {"run": "r"})
    for name, stand_in in {
        "Channels": lambda *arguments: SimpleNamespace(members=["r"]),
        "data_of": lambda *arguments: None,
        "evaluate": lambda *arguments: result,
        "tables": lambda *arguments: [],
    }.items():
        monkeypatch.setattr(evaluate, name, stand_in)
    monkeypatch.setattr(evaluate.distributed, "join", World)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    for options in ([], ["--json"]):
        assert evaluate.main(["--run", "r", *options]) == 0
        printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert printed == ([{"results": [{"run": "r"}]}] if options else [] if terminal else [{"run": "r"}])
