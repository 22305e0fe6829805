"""`plan` over real rehearsals: every piece of a run has a time, and every size that can be known is there."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import ForkedCommands, refused
from tiny_world import Tiny

FULL = ["--users", "1e6", "--items", "1e5", "--nodes", "2", "--gpus", "4"]
PIECES = ["start", "scan", "fill: tokens", "first step", "epoch", "catalogue", "validation", "checkpoint", "test"]
PIECES += ["results", "export", "baselines"]
OF_BASELINES = ["fill: states"]
OF_BASELINES += [f"fill: {name}" for name in ("item_to_item", "transitions", "co_occurrence", "content_similarity")]
OF_BASELINES += [f"fill: pairs of {name}" for name in ("item_to_item", "transitions", "co_occurrence")]


@pytest.fixture(scope="module")
def rehearsals(commands: ForkedCommands, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("rehearsals")
    settings = ["train.steps=4", "train.evaluate_every=2", "train.checkpoint_every=2", "evaluation.users=50"]
    for name in ("one", "other"):
        places = [f"run_dir={folder / name}", f"data.cache={folder / f'cache-{name}'}"]
        finished = commands.run("train", "--config", tiny.config, *settings, *places)
        assert finished.code == 0, finished.stderr
    return [folder / "one", folder / "other"]


def planned(commands: ForkedCommands, tiny: Tiny, *arguments: Any) -> dict[str, Any]:
    finished = commands.run("plan", "--config", tiny.config, *FULL, "run_dir=unwritten", "--json", *arguments)
    assert finished.code == 0, finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def test_a_run_records_its_phases(rehearsals: list[Path]) -> None:
    summary = json.loads((rehearsals[0] / "summary.json").read_text())
    phases = summary["phases"]
    assert phases["scan"]["users"] == 200
    assert phases["tokenising"]["items"] == 80
    assert (phases["first step"]["steps"], phases["steps"]["steps"]) == (1, 3)
    assert (phases["validation"]["times"], phases["validation"]["questions"]) == (2, 100)
    assert phases["encoding"]["times"] == 4
    assert phases["checkpoint"]["times"] == 2
    assert phases["test"]["questions"] == 100
    assert phases["results"]["questions"] == 50
    assert sum(phases[name]["seconds"] for name in ("first step", "steps")) <= summary["seconds"] + 0.1
    assert phases["baselines"]["seconds"] > 0


def test_every_piece_has_a_time(commands: ForkedCommands, tiny: Tiny, rehearsals: list[Path]) -> None:
    found = planned(commands, tiny, "--run", rehearsals[0], "--run", rehearsals[1])
    pieces = {piece["name"]: piece for piece in found["pieces"]}
    assert pieces.keys() == {*PIECES, *OF_BASELINES}
    assert all(piece["at_most"] >= piece["seconds"] >= 0 for piece in pieces.values())
    assert pieces["epoch"]["seconds"] > 0
    assert pieces["fill: tokens"]["bytes"]["storage"] > pieces["scan"]["bytes"]["memory"] > 1e5
    assert found["interactions"] == 1e6 * 3000 / 200
    assert {check["name"] for check in found["checks"]} == pieces.keys()
    assert found["device"] == "a CPU (1 thread)"
    assert found["seconds"] > 0


def test_without_a_rehearsal_there_are_sizes(commands: ForkedCommands, tiny: Tiny) -> None:
    found = planned(commands, tiny)
    pieces = {piece["name"]: piece for piece in found["pieces"]}
    assert pieces.keys() == set(PIECES)
    assert all(piece["seconds"] is None for piece in pieces.values())
    assert pieces["fill: tokens"]["bytes"]["disk"] == 100_000 * (16 * 4 + 8)
    assert pieces["scan"]["bytes"]["storage"] > 0, "from the set of the configuration"
    assert found["memory"]["stage 0"]["weights"] == 4 * found["parameters"]["total"]
    assert found["remarks"][0].startswith("Times need a rehearsal")


def test_tables_have_the_same_pieces(commands: ForkedCommands, tiny: Tiny, rehearsals: list[Path]) -> None:
    finished = commands.run("plan", "--config", tiny.config, *FULL, "run_dir=unwritten", "--run", rehearsals[0])
    assert finished.code == 0, finished.stderr
    assert all(f"│ {name} " in finished.stdout for name in PIECES)
    assert "stage 0 (here)" in finished.stdout


def test_another_run_is_no_rehearsal(commands: ForkedCommands, tiny: Tiny, rehearsals: list[Path]) -> None:
    told = ["--config", tiny.config, *FULL, "run_dir=unwritten"]
    assert "a different model" in refused(commands.run("plan", *told, "--run", rehearsals[0], "model.width=8"))
    assert "does not exist" in refused(commands.run("plan", *told, "--run", "nowhere"))
