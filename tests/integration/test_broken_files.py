"""Every command over every kind of broken file in a run folder: an answer or one sentence, never a traceback."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import ForkedCommands, json_lines
from tiny_world import Tiny

from transrec.commands import evaluate, export, lineage, recommend

FILES = [
    "config.yaml",
    "environment.yaml",
    "metrics.jsonl",
    "summary.json",
    "export/config.json",
    "export/model.safetensors",
    "export/backbone/config.json",
    "export/backbone/tokenizer.json",
]


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # tensors may be mapped from it
    path.write_bytes(content)


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_unlinked(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: _replace(path, b""),
    "half": lambda path: _replace(path, path.read_bytes()[: path.stat().st_size // 2]),
    "no text": lambda path: _replace(path, os.urandom(300)),
    "a list": lambda path: _replace(path, b"[]\n"),
    "a mapping": lambda path: _replace(path, b"{}\n"),
    "deep": lambda path: _replace(path, b"[" * 100_000),
    "a login page": lambda path: _replace(path, b"<!doctype html>\n<title>Log in</title>\n"),
    "a pointer": lambda path: _replace(path, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
    "a folder": _make_folder,
    "a broken link": _make_unlinked,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("broken") / "run"
    settings = ["train.steps=4", "train.evaluate_every=2"]
    json_lines(commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *settings))
    return run_dir


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_is_a_sentence_or_does_no_harm(
    finished: Path, tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is not explained would be raised here."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    DAMAGES[damage](run / name)
    asked = [
        (evaluate.main, ["--run", str(run)]),
        (recommend.main, ["--run", str(run), "--history", "item-3"]),
        (lineage.main, ["--run", str(run), "--step", "1"]),
        (export.main, ["--run", str(run), "--output", str(tmp_path / "out")]),
    ]
    codes = []
    for main, arguments in asked:
        codes.append(main(arguments))
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert codes[-1] == 0 or told.startswith("error: "), told
        assert len(told) < 3000, "a message is no copy of the file"
    assert set(codes) <= {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, "checkpoints"])
def test_a_broken_file_does_not_break_a_resumed_training(
    commands: ForkedCommands, tiny: Tiny, finished: Path, tmp_path: Path, name: str, damage: str
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    if name == "checkpoints":
        name = str(next((run / "checkpoints").glob("*/state.json")).relative_to(run))
    DAMAGES[damage](run / name)
    settings = ["train.steps=4", "train.evaluate_every=2"]
    ended = commands.run("train", "--config", tiny.config, f"run_dir={run}", *settings)
    assert ended.code in (0, 1)
    assert "Traceback" not in ended.stderr
    assert ended.code == 0 or "error: " in ended.stderr
