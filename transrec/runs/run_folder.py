"""The folder of a run: `config.yaml`, which is the run, and `environment.yaml`, where it was started."""

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
PLACES = ("path", "target", "cache", "init_from", BACKBONE)  # keys whose values are folders or files that a run reads
E = TypeVar("E", bound=Experiment)

_FROM_THE_LAUNCHER = "--local_rank="  # put in for each rank; nobody types it

_NOT_COMPARED = "run_dir"  # a run is what it is wherever its folder lies


def load(run_dir: Path) -> Experiment:
    """The experiment that a run folder holds; its places are where they are found now.

    Raises:
        ConfigError: the folder is not a run.
    """
    return load_as(Experiment, run_dir)


def load_as(schema: type[E], run_dir: Path) -> E:
    """As `load`, for an experiment of another class."""
    path = run_dir / CONFIG_FILE
    if not path.exists():
        raise ConfigError(f"{run_dir} is not a run folder: it has no {CONFIG_FILE}")
    values = relocated(upgraded(read_yaml(path)), run_dir)
    return validate(schema, values | {"run_dir": str(run_dir)})


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """The `values` of a run that an earlier version wrote, under the keys of this one."""
    data = values.get("data")
    if not isinstance(data, dict) or "task" not in data:
        return values
    targets = data["task"]
    kind = {"name": "next_item"} if targets is None else {"name": "task", "targets": targets}
    return values | {"data": {key: value for key, value in data.items() if key != "task"} | {"examples": kind}}


def check_run_dir(experiment: Experiment) -> None:
    """A run folder is new, or it belongs to the same experiment, but for the fields that are marked with `MayDiffer`.

    Raises:
        ConfigError: the folder holds another experiment (naming what differs), or something else.
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
    """Begin a new run folder; in one that is there, write down what now differs. Places are written in full."""
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
    """The same experiment with every local place written in full: it can be read from any folder."""
    return validate(type(experiment), _in_full(experiment.model_dump()))


def comparable(experiment: E) -> E:
    """As `absolute`; the run that it starts from is the folder itself, however its path is spelt."""
    full = absolute(experiment)
    return full if full.init_from is None else full.model_copy(update={"init_from": full.init_from.resolve()})


def _in_full(values: dict[str, Any]) -> dict[str, Any]:
    full: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            full[key] = _in_full(value)
        elif isinstance(value, Path):
            full[key] = str(value.absolute())
        elif key == BACKBONE and isinstance(value, str) and Path(value).is_dir():  # else a name on a hub
            full[key] = str(Path(value).absolute())
        else:
            full[key] = value
    return full


def relocated(values: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """`values` of a run folder with the places that have moved: to where they lay beside the folder, if they are there.

    A place that is where it was stays, and so does one that is found nowhere: the error comes when it is needed.
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
    else:  # as earlier versions wrote it: relative to the folder that the command was started in
        tried = [] if place.is_absolute() else [parent / place for parent in run_dir.parents]
    return next((str(path) for path in tried if path.exists()), value)


def differences(old: Experiment, new: Experiment) -> dict[str, str]:
    """By dotted key, the value that was and the value that is."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    return {
        key: public(f"{key}: {before.get(key)!r}") + " there, " + public(f"{after.get(key)!r} now")
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    }


def is_among(key: str, fields: set[str]) -> bool:
    """Whether a dotted key is one of `fields`, or lies in one."""
    return any(key == field or key.startswith(f"{field}.") for field in fields)


def environment() -> dict[str, Any]:
    """What a run runs on: versions of packages, the device and the command."""
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
