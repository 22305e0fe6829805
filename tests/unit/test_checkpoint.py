"""Checkpoints around a stand-in for DeepSpeed's engine, which only writes and reads files."""

import json
from pathlib import Path
from typing import Any

import pytest

from transrec import checkpoint
from transrec.checkpoint import CheckpointError, TrainState
from transrec.distributed import World

IDENTITY = {"frozen weights": "0a", "shards": "1b"}
ALONE = World()


class FilesEngine:
    """`content` is all its state."""

    def __init__(self, content: str = "weights") -> None:
        self.content = content
        self.calls: list[dict[str, Any]] = []

    def save_checkpoint(self, folder: str, tag: str, **options: Any) -> None:
        self.calls.append(options)
        path = Path(folder) / tag / "nested"
        path.mkdir(parents=True)
        (path / "model.pt").write_text(self.content)
        (path.parent / "optimizer.pt").write_text("moments")

    def load_checkpoint(self, folder: str, tag: str, **options: Any) -> None:
        self.content = (Path(folder) / tag / "nested" / "model.pt").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def save(folder: Path, step: int, best_step: int = 0, content: str = "weights") -> Path:
    state = TrainState(step=step, best=0.25, best_step=best_step, evaluations_since_best=2, seconds=1.5)
    checkpoint.save(FilesEngine(content), folder, state, IDENTITY, ALONE)
    return folder / f"step-{step:08d}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_state_and_weights_come_back(folder: Path) -> None:
    path = save(folder, 10, 5, content="trained")
    engine = FilesEngine("fresh")
    assert checkpoint.latest(folder) == path
    state = checkpoint.load(engine, path, IDENTITY, ALONE)
    assert state == TrainState(step=10, best=0.25, best_step=5, evaluations_since_best=2, seconds=1.5)
    assert engine.content == "trained"


def test_frozen_weights_are_left_out(folder: Path) -> None:
    engine = FilesEngine()
    checkpoint.save(engine, folder, TrainState(1), IDENTITY, ALONE)
    assert engine.calls == [{"save_latest": False, "exclude_frozen_parameters": True}]


def test_a_finished_checkpoint_leaves_no_partial_folder(folder: Path) -> None:
    save(folder, 3)
    assert names(folder) == ["step-00000003"]


def test_nothing_saved_is_no_checkpoint(folder: Path) -> None:
    assert checkpoint.latest(folder) is None


def test_the_newest_is_the_latest(folder: Path) -> None:
    save(folder, 9)
    newest = save(folder, 10, best_step=9)
    assert checkpoint.latest(folder) == newest


@pytest.mark.parametrize("left", ["step-00000020.partial", "step-00000020"])
def test_an_incomplete_checkpoint_is_ignored(folder: Path, left: str) -> None:
    """Killed while DeepSpeed wrote, or before state.json."""
    complete = save(folder, 10)
    FilesEngine().save_checkpoint(str(folder), left)
    assert checkpoint.latest(folder) == complete


def test_what_a_killed_save_left_does_not_get_into_the_next(folder: Path) -> None:
    stale = folder / "step-00000010.partial" / "stale.pt"
    stale.parent.mkdir(parents=True)
    stale.write_text("stale")
    path = save(folder, 10)
    assert not (path / "stale.pt").exists()
    assert names(folder) == ["step-00000010"]


def test_a_save_that_fails_keeps_the_one_before(folder: Path) -> None:
    class Broken(FilesEngine):
        def save_checkpoint(self, folder: str, tag: str, **options: Any) -> None:
            super().save_checkpoint(folder, tag)
            raise OSError("disk full")

    before = save(folder, 10, content="good")
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(Broken(), folder, TrainState(20), IDENTITY, ALONE)
    assert checkpoint.latest(folder) == before
    engine = FilesEngine()
    checkpoint.load(engine, before, IDENTITY, ALONE)
    assert engine.content == "good"


def test_state_is_written_after_the_weights_and_before_the_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def rename(partial: Path, final: Path) -> None:
        seen.append(sorted(str(p.relative_to(partial)) for p in partial.rglob("*") if p.is_file()))
        assert not final.exists()
        partial.rename(final)

    monkeypatch.setattr(checkpoint, "rename_folder", rename)
    save(folder, 1)
    assert seen == [["nested/model.pt", "optimizer.pt", "state.json"]]


def test_pruning_keeps_the_last_and_the_best(folder: Path) -> None:
    save(folder, 10, best_step=10)
    save(folder, 20, best_step=10)
    assert names(folder) == ["step-00000010", "step-00000020"]
    save(folder, 30, best_step=10)
    assert names(folder) == ["step-00000010", "step-00000030"]
    save(folder, 40, best_step=40)
    assert names(folder) == ["step-00000040"]


def test_saving_a_step_again_replaces_it(folder: Path) -> None:
    save(folder, 10, content="one")
    path = save(folder, 10, content="two")
    engine = FilesEngine()
    checkpoint.load(engine, path, IDENTITY, ALONE)
    assert engine.content == "two"


@pytest.mark.parametrize("damage", ["changed", "missing"])
@pytest.mark.parametrize("name", ["nested/model.pt", "optimizer.pt"])
def test_a_damaged_file_is_named_and_nothing_is_loaded(folder: Path, name: str, damage: str) -> None:
    path = save(folder, 10)
    if damage == "changed":
        content = bytearray((path / name).read_bytes())
        content[0] ^= 1
        (path / name).write_bytes(content)
    else:
        (path / name).unlink()
    engine = FilesEngine("untouched")
    with pytest.raises(CheckpointError, match=f"step-00000010: {name} changed"):
        checkpoint.load(engine, path, IDENTITY, ALONE)
    assert engine.content == "untouched"


def test_a_file_that_the_run_did_not_write_is_refused(folder: Path) -> None:
    path = save(folder, 10)
    (path / "zero_pp_rank_1_mp_rank_00_optim_states.pt").write_text("somebody else's pickle")
    with pytest.raises(CheckpointError, match="zero_pp_rank_1"):
        checkpoint.load(FilesEngine(), path, IDENTITY, ALONE)


@pytest.mark.parametrize("text", ["", '{"state": ', "{}"])
def test_a_damaged_state_file_is_a_readable_error(folder: Path, text: str) -> None:
    path = save(folder, 10)
    (path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json"):
        checkpoint.load(FilesEngine(), path, IDENTITY, ALONE)


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"frozen weights": "ff"}, "other frozen weights than"),
        ({"shards": "ff"}, "other shards than"),
        ({"frozen weights": "ff", "shards": "ff"}, "other frozen weights and other shards than"),
    ],
)
def test_another_identity_is_refused_and_what_differs_is_named(folder: Path, now: dict[str, str], named: str) -> None:
    engine = FilesEngine("untouched")
    with pytest.raises(CheckpointError, match=named):
        checkpoint.load(engine, save(folder, 10), IDENTITY | now, ALONE)
    assert engine.content == "untouched"


def test_another_number_of_ranks_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="written by 1 ranks, 2 are running"):
        checkpoint.load(FilesEngine(), save(folder, 10), IDENTITY, World(size=2))


def test_only_the_first_rank_writes_what_is_ours(folder: Path) -> None:
    """The second rank of two: DeepSpeed writes its share, the manifest and the name are the first one's work."""

    class NoBarrier(World):
        def barrier(self) -> None: ...

    checkpoint.save(FilesEngine(), folder, TrainState(10), IDENTITY, NoBarrier(rank=1, size=2))
    assert names(folder) == ["step-00000010.partial"]


def test_state_is_readable_by_people(folder: Path) -> None:
    manifest = json.loads((save(folder, 10, 5) / "state.json").read_text())
    assert manifest["state"]["step"] == 10
    assert manifest["identity"] == IDENTITY
    assert manifest["world_size"] == 1
    assert sorted(manifest["files"]) == ["nested/model.pt", "optimizer.pt"]
