"""The run folder: `config.yaml` defines the run, `environment.yaml` records where it was started."""

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from transrec.config import ConfigError, dump, may_differ, read_yaml, validate
from transrec.data.shards.remote import public
from transrec.distributed.world import World
from transrec.errors import TransRecError
from transrec.experiment import Experiment
from transrec.files import write_text, writing
from transrec.locks import BusyError, sole_owner
from transrec.runs.places import BACKBONE, ENVIRONMENT_FILE, as_recorded, contents, same_content
from transrec.training import checkpoint
from transrec.training.records import flatten

CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"
PLACES = ("path", "target", "cache", "init_from", BACKBONE)  # keys of paths that a run reads
E = TypeVar("E", bound=Experiment)

_FROM_THE_LAUNCHER = "--local_rank="  # added to the command of each rank by the launcher

_NOT_COMPARED = "run_dir"  # moving its folder does not change a run
_ABOUT_LENGTH = " Only a finished run can be trained for longer, and none for less: resume it, then ask for more."


def load(run_dir: Path) -> Experiment:
    """The experiment of a run folder, with its paths updated if they have moved.

    Raises:
        ConfigError: the folder is not a run.
    """
    return load_as(Experiment, run_dir)


def load_as(schema: type[E], run_dir: Path) -> E:
    """Like `load`, for another experiment class."""
    path = run_dir / CONFIG_FILE
    if not run_dir.exists():
        raise ConfigError(f"{run_dir} does not exist: give the folder of a run")
    if not path.exists():
        raise ConfigError(f"{run_dir} is not a run folder: it has no {CONFIG_FILE}")
    values = relocated(upgraded(read_yaml(path)), run_dir)
    return validate(schema, values | {"run_dir": str(run_dir)})


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """Convert `values` written by an earlier version to the keys of this version."""
    data = values.get("data")
    if not isinstance(data, dict) or "task" not in data:
        return values
    targets = data["task"]
    kind = {"name": "next_item"} if targets is None else {"name": "task", "targets": targets}
    return values | {"data": {key: value for key, value in data.items() if key != "task"} | {"examples": kind}}


@contextmanager
def owned(run_dir: Path, world: World) -> Iterator[None]:
    """Lock a run folder, because two trainings in one folder would mix their checkpoints; every rank must enter this.

    A new folder that is still empty at the end is removed again.

    Raises:
        BusyError: another process is training in the folder.
        StorageError: the folder cannot be written.
        ConfigError: `run_dir` is a file.
    """
    with ExitStack() as stack:
        refusal: TransRecError | None = None
        if world.is_main:
            try:
                stack.enter_context(_locked(run_dir))
            except TransRecError as error:
                refusal = error
        refused = world.gather_ints([int(refusal is not None)]).any()
        if refusal is not None:
            raise refusal
        if refused:
            raise BusyError(f"rank 0 could not lock {run_dir}: see the error of rank 0")
        yield


@contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"{run_dir} is a file: choose another run_dir")
    new = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    try:
        with writing(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
        with sole_owner(run_dir / LOCK_FILE, f"{run_dir} is being trained", "choose another run_dir"):
            yield
    finally:
        for folder in new:
            with suppress(OSError):  # not empty
                folder.rmdir()


def check_run_dir(experiment: Experiment) -> None:
    """Check that the run folder is new or holds the same experiment, except for fields marked with `MayDiffer`.

    A finished run may also be trained for longer.

    Raises:
        ConfigError: the folder holds another experiment (the message lists the differences), or something else.
    """
    run_dir = experiment.run_dir
    if (run_dir / CONFIG_FILE).exists():
        old = load_as(type(experiment), run_dir)
        allowed = may_differ(old) | may_differ(experiment) | {_NOT_COMPARED} | _lengthened(old, experiment)
        changed = differences(comparable(old), comparable(experiment))
        differing = {
            key: text
            for key, text in changed.items()
            if not is_among(key, allowed) and not same_content(run_dir, key, old, experiment)
        }
        if differing:
            listed = "\n  ".join(differing.values())
            raise ConfigError(
                f"{run_dir} holds another experiment; it differs in:\n  {listed}\n"
                "Choose another run_dir, or start with the configuration of that run to resume it."
                + (_ABOUT_LENGTH if differing.keys() <= {"train.steps", "train.epochs"} else "")
            )
    elif run_dir.exists() and any(not path.name.startswith(LOCK_FILE) for path in run_dir.iterdir()):
        raise ConfigError(f"{run_dir} is neither empty nor a run folder: choose another run_dir")


def _lengthened(old: Experiment, new: Experiment) -> set[str]:
    """The key of the length of training, if the old run has finished and the new one is longer in the same unit."""
    unit, other = ("steps", "epochs") if old.train.steps else ("epochs", "steps")
    before, now = (dict(experiment.train) for experiment in (old, new))
    longer = before[other] == now[other] and now[unit] is not None and now[unit] > before[unit]
    return {f"train.{unit}"} if longer and checkpoint.has_finished(new.run_dir / "checkpoints") else set()


def write_run_dir(experiment: Experiment) -> None:
    """Create a run folder, or update the configuration of an existing one. Paths are written as absolute."""
    path, written = experiment.run_dir / CONFIG_FILE, absolute(experiment)
    if path.exists():
        if differences(validate(type(experiment), upgraded(read_yaml(path))), written):
            write_text(path, dump(written))
        return
    with writing(experiment.run_dir):
        experiment.run_dir.mkdir(parents=True, exist_ok=True)
    began = environment() | as_recorded(contents(experiment))
    write_text(path, dump(written))
    write_text(experiment.run_dir / ENVIRONMENT_FILE, yaml.safe_dump(began, sort_keys=False))


def absolute(experiment: E) -> E:
    """The same experiment with absolute local paths, which do not depend on the working directory."""
    return validate(type(experiment), _in_full(experiment.model_dump()))


def comparable(experiment: E) -> E:
    """Like `absolute`, with links resolved, so that different spellings of a path compare as equal."""
    return validate(type(experiment), _in_full(experiment.model_dump(), _resolved))


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike `Path.resolve`, no error for a link to itself


def _in_full(values: dict[str, Any], how: Callable[[Path], Path] = Path.absolute) -> dict[str, Any]:
    return {key: _place_in_full(key, value, how) for key, value in values.items()}


def _place_in_full(key: str, value: Any, how: Callable[[Path], Path]) -> Any:
    if isinstance(value, dict):
        return _in_full(value, how)
    if isinstance(value, list):
        return [_place_in_full("", inner, how) for inner in value]
    if isinstance(value, Path):
        return str(how(value))
    if key == BACKBONE and isinstance(value, str) and Path(value).is_dir():  # otherwise a hub id
        return str(how(Path(value)))
    return value


def relocated(values: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Update the paths in the configuration `values` to files and folders that were moved together with the run folder.

    A path that still exists is unchanged. So is a path that is not found; it causes an error when it is used.
    """
    began = Path(values["run_dir"]) if "run_dir" in values else run_dir
    return {key: _found(key, value, began, run_dir.absolute()) for key, value in values.items()}


def _found(key: str, value: Any, began: Path, run_dir: Path) -> Any:
    if isinstance(value, dict):
        return {inner: _found(inner, of_it, began, run_dir) for inner, of_it in value.items()}
    if isinstance(value, list):
        return [_found("", inner, began, run_dir) for inner in value]
    if key not in PLACES or not isinstance(value, str) or "://" in value:
        return value
    place = Path(value)
    with suppress(RuntimeError):  # of a `~name` that this machine does not know
        place = place.expanduser()
    if place.exists():
        return value
    if place.is_absolute() and began.is_absolute():
        tried = [Path(os.path.normpath(run_dir / os.path.relpath(place, began)))]
    else:  # earlier versions wrote paths relative to the working directory of the command
        tried = [] if place.is_absolute() else [parent / place for parent in run_dir.parents]
    return next((str(path) for path in tried if path.exists()), value)


def differences(old: Experiment, new: Experiment) -> dict[str, str]:
    """The old and new value of each field that differs, by dotted key."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    return {
        key: public(f"{key}: {before.get(key)!r}") + " there, " + public(f"{after.get(key)!r} now")
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    }


def is_among(key: str, fields: set[str]) -> bool:
    """Whether a dotted key is one of `fields`, or nested in one."""
    return any(key == field or key.startswith(f"{field}.") for field in fields)


def environment() -> dict[str, Any]:
    """The environment of a run: package versions, device and command."""
    packages = {}
    for name in ("transrec", "torch", "deepspeed", "transformers", "tokenizers", "pillow", "pyarrow", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "command": [public(argument) for argument in sys.argv if not argument.startswith(_FROM_THE_LAUNCHER)],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "packages": packages,
    }
