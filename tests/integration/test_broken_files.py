"""Every command over every kind of broken file in a run folder: an answer or one sentence, never a traceback."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from commands import ForkedCommands, json_lines
from damages import DAMAGES
from tiny_world import Tiny

from transrec.commands import evaluate, export, lineage, recommend, serve

Question = tuple[Callable[[list[str]], int], Sequence[object]]  # the main of a command, and its arguments

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
OF_AN_ADAPTER = ["config.yaml", "summary.json", "export/config.json", "export/adapter_model.safetensors"]
OF_VECTORS = ["manifest.json", "items.parquet", "items.safetensors"]


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
    asked: list[Question] = [
        (evaluate.main, ["--run", run]),
        (recommend.main, ["--run", run, "--history", "item-3"]),
        (lineage.main, ["--run", run, "--step", "1"]),
        (export.main, ["--run", run, "--output", tmp_path / "out"]),
    ]
    assert_told(asked, capsys)


def assert_told(asked: Sequence[Question], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command answers, or says in a few words why not."""
    for main, arguments in asked:
        code = main([str(argument) for argument in arguments])
        told = capsys.readouterr().err
        assert code in (0, 1)
        assert "Traceback" not in told
        assert code == 0 or told.startswith("error: "), told
        assert len(told) < 3000, "a message is no copy of the file"


@pytest.fixture
def serves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service ends where it would wait for requests."""
    pytest.importorskip("fastapi")

    async def run(*_: object) -> None: ...

    monkeypatch.setattr("transrec.serving.server.run", run)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands, finished: Path) -> Path:
    run_dir = tmp_path_factory.mktemp("broken") / "adapted"
    settings = [f"init_from={finished}", "adaptation={name: houlsby, also_train: [head]}", "train.steps=2"]
    json_lines(commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *settings))
    return run_dir


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    output = tmp_path_factory.mktemp("broken") / "vectors"
    assert export.main(["--run", str(finished), "--output", str(output), "--vectors"]) == 0
    return output


@pytest.mark.slow
@pytest.mark.usefixtures("serves_nobody")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_so_it_is_for_a_service_and_for_exported_vectors(
    finished: Path, tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    DAMAGES[damage](run / name)
    exported = ["--run", run, "--output", tmp_path / "out", "--vectors"]
    assert_told([(export.main, exported), (serve.main, ["--run", run, "--port", 0])], capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("serves_nobody")
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", OF_AN_ADAPTER)
def test_so_it_is_for_an_adapter(
    finished: Path, adapted: Path, tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(adapted, tmp_path / "adapted"))
    DAMAGES[damage](run / name)
    both = ["--run", finished, "--adapter", run]
    asked: list[Question] = [
        (evaluate.main, both),
        (recommend.main, [*both, "--history", "item-3"]),
        (export.main, [*both, "--output", tmp_path / "out", "--vectors"]),
        (serve.main, [*both, "--port", 0]),
    ]
    assert_told(asked, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", OF_VECTORS)
def test_so_it_is_for_vectors_that_are_added_to(
    finished: Path, vectors: Path, tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(vectors, tmp_path / "vectors"))
    DAMAGES[damage](output / name)
    more = ["--run", finished, "--output", output, "--vectors", "--new-items"]
    assert_told([(export.main, more)], capsys)


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
