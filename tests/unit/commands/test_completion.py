"""Completions that bash gives; zsh and fish must accept the scripts where they are installed."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from data_tools.sources import SOURCES
from transrec.commands import completion
from transrec.commands.main import COMMANDS
from transrec.config import shipped

# Completes the last argument, and prints each proposal on a line.
ASK = """
source "$1"; shift
COMP_WORDS=(transrec "$@"); COMP_CWORD=$#; COMPREPLY=()
_transrec_without_space 2> /dev/null  # `compopt` works only while a person types
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell."""
    pytest.importorskip("shtab")
    folder = tmp_path_factory.mktemp("scripts")
    for shell in completion.SHELLS:
        (folder / shell).write_text(completion.script(shell), encoding="utf-8")
    return folder


def proposed(scripts: Path, *words: str, folder: Path | None = None) -> list[str]:
    """The completions that bash gives for the last word."""
    asked = ["bash", "--norc", "-c", ASK, "bash", scripts / "bash", *words]
    ended = subprocess.run(asked, capture_output=True, text=True, cwd=folder, env={"PATH": os.environ["PATH"]})
    assert ended.stderr == ""
    return ended.stdout.split()


def test_commands_are_completed(scripts: Path) -> None:
    assert proposed(scripts, "") == [*COMMANDS]
    assert proposed(scripts, "data", "b") == ["build"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--pr"], ["--print-config"]),
        (["evaluate", "--split", ""], ["valid", "test"]),
        (["data", "build", "--source", "ml"], []),
        (["data", "build", "--source", "tab"], ["tables"]),
        (["data", "build", "--source", "synthetic", "--la"], ["--law", "--lasting"]),
        (["train", "--config", "quicks"], ["quickstart"]),
        (["train", "--config", "quickstart", "train.st"], ["train.steps="]),
        (["train", "train.steps=3", "model.item_encoder.backb"], ["model.item_encoder.backbone="]),
        (["sweep", "--config", "sweeps/quick", "source.train.st"], ["source.train.steps="]),
        (["sweep", "storage"], ["storage_path="]),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
    ids=" ".join,
)
def test_arguments_are_completed(scripts: Path, words: Sequence[str], expected: Sequence[str]) -> None:
    assert sorted(proposed(scripts, *words)) == sorted(expected)


def test_a_configuration_may_be_a_file_and_a_run_is_one(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").touch()
    (tmp_path / "runs").mkdir()
    assert proposed(scripts, "train", "--config", "quick", folder=tmp_path) == ["quickstart", "quick.yaml"]
    assert proposed(scripts, "evaluate", "--run", "r", folder=tmp_path) == ["runs"]
    assert proposed(scripts, "data", "inspect", "r", folder=tmp_path) == ["runs"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_offer_the_same_names(scripts: Path, shell: str) -> None:
    text = (scripts / shell).read_text("utf-8")
    for name in (*COMMANDS, *shipped(), "train.steps=", "target.train.steps=", *SOURCES):
        assert name in text


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_shell_takes_the_script(scripts: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n", scripts / shell], capture_output=True).returncode == 0


def test_every_option_of_every_command_is_there() -> None:
    found: dict[str, set[str]] = {}
    for name, action in completion.actions(completion.every_command()):
        found.setdefault(name, set()).update(action.option_strings)
    assert found.keys() == {"", *COMMANDS, "build", "inspect", "verify"}
    assert {"--config", "--print-config", "--json", "--help"} <= found["train"]
    for source in SOURCES.values():
        parser = argparse.ArgumentParser(add_help=False)
        source.add_arguments(parser)
        assert {option for action in parser._actions for option in action.option_strings} <= found["build"]


def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert completion.main(["bash"]) == 1
    assert capsys.readouterr().err == (
        "error: transrec completion needs shtab: run pip install 'transrec[completion]'\n"
    )
