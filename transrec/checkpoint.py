"""Training checkpoints: a folder per step, complete or not there.

    checkpoints/step-00000100/            DeepSpeed's files: trained weights, optimizer state
    checkpoints/step-00000100/state.json  written last: the trainer's state and the hash of every file

Frozen weights are not saved: they are rebuilt from the configuration, and their hash is compared. DeepSpeed's files are
pickles; they are loaded only if their hashes are those that the run itself wrote down.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transrec.distributed import World
from transrec.errors import TransRecError
from transrec.files import rename_folder, write_text

STATE_FILE = "state.json"


class CheckpointError(TransRecError, RuntimeError):
    """A checkpoint that cannot be used; the message names it and says what to do."""


@dataclass
class TrainState:
    """All that training needs beside weights and optimizer: the order and the random numbers follow from the step."""

    step: int = 0  # steps done
    best: float = -1.0  # validation metric of the export
    best_step: int = 0
    evaluations_since_best: int = 0
    windows: int = 0  # trained on
    seconds: float = 0.0  # validation included
    finished: bool = False


def save(engine: Any, folder: Path, state: TrainState, identity: Mapping[str, str], world: World) -> None:
    """Write the checkpoint of `state.step`; every rank must call it.

    `identity` names what the checkpoint cannot do without and its hash: the frozen weights, the shards.
    """
    final = folder / f"step-{state.step:08d}"
    partial = final.with_suffix(".partial")
    if world.is_main:
        shutil.rmtree(partial, ignore_errors=True)
    world.barrier()
    engine.save_checkpoint(str(folder), tag=partial.name, save_latest=False, exclude_frozen_parameters=True)
    world.barrier()
    if world.is_main:
        manifest = {
            "state": asdict(state),
            "identity": dict(identity),
            "world_size": world.size,
            "files": _hashes(partial),
        }
        write_text(partial / STATE_FILE, json.dumps(manifest, indent=2) + "\n")
        shutil.rmtree(final, ignore_errors=True)
        rename_folder(partial, final)
        _prune(folder, keep={state.step, state.best_step})
    world.barrier()


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    complete = sorted(path.parent for path in folder.glob(f"step-????????/{STATE_FILE}"))
    return complete[-1] if complete else None


def load(engine: Any, checkpoint: Path, identity: Mapping[str, str], world: World) -> TrainState:
    """Restore `engine` from `checkpoint`; every rank must call it.

    Raises:
        CheckpointError: changed or missing files, another identity, or another number of ranks.
    """
    manifest = _read_manifest(checkpoint)
    other = [name for name, digest in identity.items() if manifest["identity"].get(name) != digest]
    if other:
        raise CheckpointError(
            f"{checkpoint} was trained with other {' and other '.join(other)} than the configuration gives now: "
            "restore them, or choose another run_dir"
        )
    if manifest["world_size"] != world.size:
        raise CheckpointError(
            f"{checkpoint} was written by {manifest['world_size']} ranks, {world.size} are running: start as many"
        )
    written = manifest["files"]
    found = {name: digest for name, digest in _hashes(checkpoint).items() if name != STATE_FILE}
    changed = sorted(name for name in found.keys() | written.keys() if found.get(name) != written.get(name))
    if changed:
        raise CheckpointError(
            f"{checkpoint}: {', '.join(changed)} changed, is missing or is none of the run's. "
            "Delete this checkpoint to go on from the one before"
        )
    engine.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name, load_module_strict=False)
    return TrainState(**manifest["state"])


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / STATE_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return {key: manifest[key] for key in ("state", "identity", "world_size", "files")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}). Delete {checkpoint} to go on from the checkpoint before"
        ) from None


def _prune(folder: Path, keep: set[int]) -> None:
    kept = {f"step-{step:08d}" for step in keep}
    for path in (*folder.glob("step-????????"), *folder.glob("step-????????.partial")):
        if path.name not in kept:
            shutil.rmtree(path)


def _hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): _hash(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"
