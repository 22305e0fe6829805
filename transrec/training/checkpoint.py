"""Training checkpoints: one folder per step, complete or absent, for any number of ranks and any ZeRO stage.

    checkpoints/step-00000100/rank-00000-of-00002.safetensors  half of the trained parameters, whole and in fp32:
                                                               `weight:NAME`, `exp_avg:NAME`, `exp_avg_sq:NAME`, or
                                                               the state of a table's optimizer
    checkpoints/step-00000100/rank-00001-of-00002.safetensors  the other half
    checkpoints/step-00000100/state.json                       written last: the trainer's state, Adam's step, the loss
                                                               scale, and the hash of every file

Frozen weights are not saved: they are rebuilt from the configuration, and their hash is compared.

Designs considered. DeepSpeed's own files are pickles, partitioned by the ranks and stage that wrote them;
`ds_to_universal` makes them readable for other topologies, in a separate step, and not at stage 0. torch's distributed
checkpoints are independent of topology, but DeepSpeed's flat partitions are not DTensors, and their metadata is a
pickle. Chosen: parameters by name, each gathered whole and written by one rank. This takes host memory for a rank's
share, 12 bytes per parameter, and gathers every parameter; in return, one code path resumes with the same or another
topology: each file is checked and read by one rank, which sends its parameters to the others.

Training waits only until a rank's share is copied to the host; a thread writes the file. The manifest and the final
name need all ranks, so `Saving.complete` writes them: a collective started by the writing thread could be matched with
one of the training loop. The alternative, a process that writes, would hold the share twice.
"""

import hashlib
import heapq
import json
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from transrec import weights
from transrec.distributed.world import World
from transrec.errors import TransRecError
from transrec.files import StorageError, read_json, rename_folder, write_text, writing
from transrec.training import engine_state
from transrec.training.engine_state import BYTES_PER_PARAMETER, WEIGHT

STATE_FILE = "state.json"
FORMAT = 2  # in format 1, the last step of an epoch took the remaining windows

T = TypeVar("T")


class CheckpointError(TransRecError, RuntimeError):
    """A checkpoint that cannot be used; the message names it and the remedy."""


@dataclass
class TrainState:
    """Training state other than weights and optimizer; data order and random numbers are functions of the step."""

    step: int = 0  # completed steps
    best: float | None = None  # validation metric of the exported weights; None: never validated
    best_step: int = 0
    evaluations_since_best: int = 0
    windows: int = 0  # windows trained on
    seconds: float = 0.0  # including validation
    finished: bool = False
    energy: dict[str, float] = field(default_factory=dict)  # joules by part, for parts measured since the first step


class Saving:
    """A checkpoint that is being written; it exists only after `complete`.

    Every rank must start it and complete it. A checkpoint must be complete before the next one starts.

    Args:
        state: a copy is saved, so the run may go on to change it.
        identity: hashes of the inputs that the checkpoint depends on, such as the frozen weights.

    Raises:
        StorageError: the disk is full or read-only; the previous checkpoint is unchanged.
        CheckpointError: another rank failed.
    """

    def __init__(self, engine: Any, folder: Path, state: TrainState, identity: Mapping[str, str], world: World) -> None:
        self._state, self._world = replace(state, energy=dict(state.energy)), world
        self._final = folder / _name(state.step)
        self._partial = self._final.with_suffix(".partial")
        with self._removed_if_it_fails():
            _on_all(world, lambda: _make_partial(self._partial, engine.module) if world.is_main else None)
            share = _gather_share(engine, world)
        numbers = engine_state.read_numbers(engine)
        self._manifest = {"format": FORMAT, "identity": dict(identity), "optimizer": numbers}
        name = f"rank-{world.rank:05d}-of-{world.size:05d}.safetensors"
        thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._digest = thread.submit(_write, self._partial / name, share)
        thread.shutdown(wait=False)

    @property
    def is_written(self) -> bool:
        """Whether this rank's file is written, or has failed, so that `complete` need not wait for it."""
        return self._digest.done()

    def abandon(self) -> None:
        """Wait for this rank's file, and complete the checkpoint if no other rank is needed for that."""
        self._digest.exception()
        if self._world.size == 1:
            with suppress(TransRecError):  # the error that made the run abandon it is the one to report
                self.complete()

    def complete(self) -> None:
        """Wait for the files of all ranks, then give the checkpoint its name.

        Raises:
            StorageError, CheckpointError: as above.
        """
        with self._removed_if_it_fails():
            files = _digests(_on_all(self._world, self._digest.result), self._world)
            manifest = self._manifest | {"state": asdict(self._state), "files": files}
            _on_all(self._world, lambda: self._name_it(manifest) if self._world.is_main else None)

    def _name_it(self, manifest: Mapping[str, Any]) -> None:
        write_text(self._partial / STATE_FILE, json.dumps(manifest, indent=2) + "\n")
        with writing(self._final):
            _remove(self._final)
            rename_folder(self._partial, self._final)
            _prune(self._final.parent, keep={self._state.step, self._state.best_step})

    @contextmanager
    def _removed_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except TransRecError:
            if self._world.is_main:
                shutil.rmtree(self._partial, ignore_errors=True)
            raise


def save(engine: Any, folder: Path, state: TrainState, identity: Mapping[str, str], world: World) -> None:
    """Write the checkpoint of `state.step` and wait for it; arguments and errors as in `Saving`."""
    Saving(engine, folder, state, identity, world).complete()


def _name(step: int) -> str:
    return f"step-{step:08d}"


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    complete = sorted(path.parent for path in folder.glob(f"step-????????/{STATE_FILE}"))
    return complete[-1] if complete else None


def has_finished(folder: Path) -> bool:
    """Whether the newest checkpoint is that of a finished run.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    newest = latest(folder)
    return newest is not None and _read_state(_read_manifest(newest)["state"]).finished


def of_step(folder: Path, step: int) -> Path:
    """The folder of a step's checkpoint; if it is missing, `load` raises an error."""
    return folder / _name(step)


def load(engine: Any, checkpoint: Path, identity: Mapping[str, str], world: World) -> TrainState:
    """Restore `engine` from `checkpoint`, written with any number of ranks and any ZeRO stage; every rank must call it.

    Raises:
        CheckpointError: files changed or are missing, or the format, identity or model differs.
    """
    manifest = _read_manifest(checkpoint)
    other = [name for name, digest in identity.items() if manifest["identity"].get(name) != digest]
    if other:
        raise CheckpointError(
            f"{checkpoint} was trained with other {' and other '.join(other)}: restore those of the run, or choose "
            "another run_dir"
        )
    written = manifest["files"]
    owners = {name: number % world.size for number, name in enumerate(sorted(written))}
    own = {name: digest for name, digest in written.items() if owners[name] == world.rank}
    _on_all(world, lambda: _check_files(checkpoint, own, written.keys()), "read")
    try:
        _restore(engine, checkpoint, owners, world)
        engine_state.set_numbers(engine, manifest["optimizer"])
        return _read_state(manifest["state"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{checkpoint} cannot be read ({reason}): delete it to resume from the previous checkpoint"
        ) from None


def _check_files(checkpoint: Path, own: Mapping[str, str], written: Collection[str]) -> None:
    """Check the hashes of this rank's `own` files, and that the files are exactly those `written`."""
    present = {str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file()}
    changed = {name for name, digest in own.items() if _hash(checkpoint / name) != digest}
    changed |= present.symmetric_difference({*written, STATE_FILE})
    if changed:
        raise CheckpointError(
            f"{checkpoint} is damaged ({', '.join(sorted(changed))} changed, is missing or does not belong to it): "
            "delete it to resume from the previous checkpoint"
        )


def _on_all(world: World, action: Callable[[], T], verb: str = "write") -> T:
    """Run `action` on every rank; if it fails on one rank, raise an error on all, so that no rank waits for another."""
    failure = result = None
    try:
        result = action()
    except TransRecError as error:
        failure = error
    failed = world.gather_ints([int(failure is not None)])[:, 0].nonzero()
    if failure is not None:
        raise failure
    if len(failed):
        raise CheckpointError(
            f"rank {int(failed[0])} could not {verb} its part of the checkpoint: see the error of that rank"
        )
    return result  # type: ignore[return-value]


def _make_partial(partial: Path, model: nn.Module) -> None:
    with writing(partial):
        for left in partial.parent.glob("step-????????.partial"):  # left by a killed run; they take space
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
    trained = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)  # ds_numel: ZeRO-3
    needed, free = BYTES_PER_PARAMETER * trained, shutil.disk_usage(partial).free
    if free < needed:
        raise StorageError(
            f"{partial.parent} has {_mebibytes(free)} left, but a checkpoint needs {_mebibytes(needed)} "
            f"({BYTES_PER_PARAMETER} bytes for each of {trained:,} trained parameters): "
            "make room on that disk, then start the same command again"
        )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _write(path: Path, share: Mapping[str, Tensor]) -> str:
    weights.write(path, share)
    return _hash(path)


def _digests(own: str, world: World) -> dict[str, str]:
    """The file of every rank and its SHA-256."""
    everyone = world.gather_ints(list(bytes.fromhex(own))).tolist()
    return {
        f"rank-{rank:05d}-of-{world.size:05d}.safetensors": bytes(digest).hex() for rank, digest in enumerate(everyone)
    }


def _prune(folder: Path, keep: set[int]) -> None:
    kept = {_name(step) for step in keep}
    for path in (*folder.glob("step-????????"), *folder.glob("step-????????.partial")):
        if path.name not in kept:
            _remove(path)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its state first, so that half a checkpoint never counts as complete."""
    (checkpoint / STATE_FILE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def _read_manifest(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / STATE_FILE
    try:
        manifest = read_json(path)
        written_as = manifest.get("format")
        if written_as == FORMAT:
            return {key: manifest[key] for key in ("state", "identity", "optimizer", "files")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): delete {checkpoint} to resume from the previous checkpoint"
        ) from None
    raise CheckpointError(
        f"{path} has format {written_as}, but this version reads format {FORMAT}: "
        "resume with the version that wrote it, or choose another run_dir"
    )


def _read_state(values: Mapping[str, Any]) -> TrainState:
    """The saved state; earlier versions wrote -1 as the best value of a run that was never validated."""
    state = TypeAdapter(TrainState).validate_python(asdict(TrainState(**values)))
    return state if state.best_step else replace(state, best=None)


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"


def _gather_share(engine: Any, world: World) -> dict[str, Tensor]:
    """This rank's parameters with their state; all ranks gather each parameter, and its owner keeps it."""
    engine_state.complete(engine)
    share, parameters = {}, engine_state.trained(engine)
    owners = _owners(parameters, world.size)
    for name, parameter in parameters.items():
        for kind in engine_state.kinds(engine, parameter):
            value = engine_state.read(engine, parameter, kind)
            if owners[name] == world.rank:  # a copy, because training changes the value while it is written
                share[f"{kind}:{name}"] = value.detach().to("cpu", copy=True).contiguous()
    return share


def _owners(parameters: Mapping[str, nn.Parameter], ranks: int) -> dict[str, int]:
    """The rank that writes each parameter; the largest are assigned first, each to the rank with the least so far."""
    sizes = {name: math.prod(shape) for name, shape in weights.shapes(parameters).items()}
    loads, owners = [(0, rank) for rank in range(ranks)], {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        load, rank = heapq.heappop(loads)
        owners[name] = rank
        heapq.heappush(loads, (load + sizes[name], rank))
    return owners


def _restore(engine: Any, checkpoint: Path, owners: Mapping[str, int], world: World) -> None:
    """Set the parameters and their state; every rank reads the names and shapes in all files.

    `owners` maps each file to the only rank that reads its values.
    """
    parameters = engine_state.trained(engine)
    with ExitStack() as stack:
        files = {name: stack.enter_context(safe_open(checkpoint / name, framework="pt")) for name in sorted(owners)}
        where = {key: name for name, file in files.items() for key in file.keys()}  # noqa: SIM118 (no mapping)
        found = {
            key.removeprefix(f"{WEIGHT}:"): tuple(files[name].get_slice(key).get_shape())
            for key, name in where.items()
            if key.startswith(f"{WEIGHT}:")
        }
        problems = weights.misfits(weights.shapes(parameters), found)
        if problems:
            title = f"{checkpoint} belongs to another model; choose another run_dir:"
            raise CheckpointError(weights.listed(title, problems))
        engine_state.complete(engine)
        for name, parameter in parameters.items():
            for kind in engine_state.kinds(engine, parameter):
                key = f"{kind}:{name}"
                file, owner = files[where[key]], owners[where[key]]
                value = file.get_tensor(key) if owner == world.rank else None
                shape = tuple(file.get_slice(key).get_shape())
                engine_state.write(engine, parameter, kind, world.sent(value, shape, owner))
