"""The run folder: `config.yaml` defines the run, `environment.yaml` records where it was started."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from transrec.config import ConfigError, dump, may_differ, read_yaml, validate
from transrec.data.shards.remote import public
from transrec.experiment import Experiment
from transrec.files import write_text, writing
from transrec.training.tracking import flatten

CONFIG_FILE = "config.yaml"
BACKBONE = "backbone"
PLACES = ("path", "target", "cache", "init_from", BACKBONE)  # keys of paths that a run reads
E = TypeVar("E", bound=Experiment)

_FROM_THE_LAUNCHER = "--local_rank="  # added to the command of each rank by the launcher

_NOT_COMPARED = "run_dir"  # moving its folder does not change a run


def load(run_dir: Path) -> Experiment:
    """The experiment of a run folder, with its paths updated if they have moved.

    Raises:
        ConfigError: the folder is not a run.
    """
    return load_as(Experiment, run_dir)


def load_as(schema: type[E], run_dir: Path) -> E:
    """As `load`, for another experiment class."""
    path = run_dir / CONFIG_FILE
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


def check_run_dir(experiment: Experiment) -> None:
    """Check that the run folder is new or of the same experiment, except for fields marked with `MayDiffer`.

    Raises:
        ConfigError: the folder holds another experiment (the message lists the differences), or something else.
    """
    run_dir = experiment.run_dir
    if (run_dir / CONFIG_FILE).exists():
        old = load_as(type(experiment), run_dir)
        allowed = may_differ(old) | may_differ(experiment) | {_NOT_COMPARED}
        changed = differences(comparable(old), comparable(experiment))
        differing = [text for key, text in changed.items() if not is_among(key, allowed)]
        if differing:
            listed = "\n  ".join(differing)
            raise ConfigError(
                f"{run_dir} holds another experiment; it differs in:\n  {listed}\n"
                "Choose another run_dir, or start with the configuration of that run to resume it."
            )
    elif run_dir.exists() and any(run_dir.iterdir()):
        raise ConfigError(f"{run_dir} is not empty and not a run folder: choose another run_dir")


def write_run_dir(experiment: Experiment) -> None:
    """Create a run folder, or update the configuration of an existing one. Paths are written as absolute."""
    path, written = experiment.run_dir / CONFIG_FILE, absolute(experiment)
    if path.exists():
        if differences(validate(type(experiment), upgraded(read_yaml(path))), written):
            write_text(path, dump(written))
        return
    with writing(experiment.run_dir):
        experiment.run_dir.mkdir(parents=True, exist_ok=True)
    write_text(path, dump(written))
    write_text(experiment.run_dir / "environment.yaml", yaml.safe_dump(environment(), sort_keys=False))


def absolute(experiment: E) -> E:
    """The same experiment with absolute local paths, which do not depend on the working directory."""
    return validate(type(experiment), _in_full(experiment.model_dump()))


def comparable(experiment: E) -> E:
    """As `absolute`, with `init_from` resolved, so that different spellings of its path compare as equal."""
    full = absolute(experiment)
    return full if full.init_from is None else full.model_copy(update={"init_from": full.init_from.resolve()})


def _in_full(values: dict[str, Any]) -> dict[str, Any]:
    full: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            full[key] = _in_full(value)
        elif isinstance(value, Path):
            full[key] = str(value.absolute())
        elif key == BACKBONE and isinstance(value, str) and Path(value).is_dir():  # otherwise a hub id
            full[key] = str(Path(value).absolute())
        else:
            full[key] = value
    return full


def relocated(values: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Update paths in the `values` of a run folder that moved along with it, keeping their relative position.

    A path that still exists is unchanged, and so is one that is not found: the error is raised when it is used.
    """
    began = Path(values["run_dir"]) if "run_dir" in values else run_dir
    return {key: _found(key, value, began, run_dir.absolute()) for key, value in values.items()}


def _found(key: str, value: Any, began: Path, run_dir: Path) -> Any:
    if isinstance(value, dict):
        return {inner: _found(inner, of_it, began, run_dir) for inner, of_it in value.items()}
    if key not in PLACES or not isinstance(value, str) or "://" in value or Path(value).expanduser().exists():
        return value
    place = Path(value)
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
