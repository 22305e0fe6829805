"""Weights on disk: safetensors in the Hugging Face folder layout, loaded strictly, gathered under any ZeRO stage.

export/config.json                 model and adaptation, item vocabulary hash
export/model.safetensors           every weight of a fully trained run
export/adapter_config.json         } if some weights were frozen: the trained weights
export/adapter_model.safetensors   } and the hash of their base
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from transrec.distributed.world import whole
from transrec.errors import TransRecError
from transrec.files import is_git_lfs_pointer, read_json, replace_atomically, write_text
from transrec.protocols import FittedWeights

CONFIG_FILE = "config.json"
MODEL_FILE = "model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"

Shape = tuple[int, ...]
_CODES = {  # of safetensors
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class WeightsError(TransRecError, ValueError):
    """Weights that do not fit the model; the message lists missing, unexpected and misshapen ones."""


def gathered(model: nn.Module, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield each of the named parameters and buffers while it is gathered; every rank must iterate over all of them.

    Raises:
        WeightsError: one of them is empty although it was gathered.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name in names:
        with whole(tensors[name]):
            if tensors[name].numel() == 0:
                raise WeightsError(f"{name} is empty after gathering: refusing to save it")
            yield name, tensors[name].detach()


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], missing_ok: Sequence[str] = ()) -> None:
    """Copy `weights` into `model`; only tensors in `missing_ok` may be missing, and keep their values.

    Raises:
        WeightsError: a name is missing from the model or from `weights`, or shapes differ.
    """
    tensors = {n: t for n, t in _tensors(model).items() if n in weights or n not in missing_ok}
    problems = misfits(shapes(tensors), shapes(weights))
    if problems:
        raise WeightsError(listed("weights do not fit the model", problems))
    for name, tensor in tensors.items():
        with whole(tensor, modify=True), torch.no_grad():
            if tensor.numel():  # under ZeRO-3 only the modifying rank holds it
                tensor.copy_(weights[name])


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Shapes by name; for a parameter partitioned by ZeRO-3, its full shape."""
    return {name: tuple(getattr(tensor, "ds_shape", tensor.shape)) for name, tensor in tensors.items()}


def misfits(model: Mapping[str, Shape], file: Mapping[str, Shape]) -> list[str]:
    """Differences in names and shapes between the tensors of a model and of a file, one line each."""
    problems = [f"missing: {name}" for name in model if name not in file]
    problems += [f"unexpected: {name}" for name in file if name not in model]
    both = model.keys() & file.keys()
    problems += [f"{n}: the model has {model[n]}, the file {file[n]}" for n in both if model[n] != file[n]]
    return sorted(problems)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        WeightsError: it is missing or damaged.
    """
    with _reading(path):
        return load_file(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        if is_git_lfs_pointer(path):
            reason = "it is a git-lfs pointer; run `git lfs pull` in its folder"
        elif isinstance(error, SafetensorError) and path.exists():
            reason = f"it is damaged or incomplete ({error}); copy it again, or start the training of its run again"
        raise WeightsError(f"cannot read weights {path}: {reason}") from None


def misfits_of_export(folder: Path, model: nn.Module) -> list[str]:
    """Differences between the weights of an export and those that `model` would export; reads only names and shapes.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    trained = trainable_names(model)
    adapted = len(trained) < len(dict(model.named_parameters()))
    path, tensors = folder / (ADAPTER_FILE if adapted else MODEL_FILE), _tensors(model)
    if adapted:
        _base_of(folder / ADAPTER_CONFIG_FILE)
    with _reading(path), safe_open(path, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return misfits(shapes({name: tensors[name] for name in (trained if adapted else tensors)}), found)


def write(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file atomically."""
    with replace_atomically(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # set by the umask; safetensors lets only the owner read
        try:
            save_file(dict(weights), partial)
            partial.chmod(mode)
        except SafetensorError as error:  # raised by safetensors if the disk is full
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else None, str(error)) from None


Layout = Mapping[str, tuple[torch.dtype, Shape]]


def layout(tensors: Mapping[str, Tensor]) -> Layout:
    """Types and shapes on disk, ordered as in safetensors: by size of type, to keep numbers aligned, then by name."""
    kinds = {n: torch.float32 if tensor.is_floating_point() else tensor.dtype for n, tensor in tensors.items()}
    full = shapes(tensors)
    return {name: (kinds[name], full[name]) for name in sorted(tensors, key=lambda name: (-kinds[name].itemsize, name))}


def write_in_turn(path: Path, described: Layout, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write the `described` tensors, in that order, to a safetensors file equal to the one that `write` would write.

    Only one tensor at a time is held in memory, whereas safetensors needs all of them at once.
    """
    header, place = {}, 0
    for name, (dtype, shape) in described.items():
        end = place + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": (place, end)}
        place = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replace_atomically(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            numbers = tensor.to("cpu", described[name][0]).contiguous().reshape(-1).view(torch.uint8)
            file.write(numbers.numpy().data)


def names(model: nn.Module) -> list[str]:
    """Names of all weights of a model."""
    return list(_tensors(model))


def trainable_names(model: nn.Module) -> list[str]:
    """Names of the weights that a run changes: those that are trained, and those that are fitted afterwards."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    fitted = ((path, module) for path, module in model.named_modules() if isinstance(module, FittedWeights))
    return trained + [f"{path}.{name}" for path, module in fitted for name, _ in module.named_buffers()]


def base_hash(model: nn.Module) -> str:
    """SHA-256 of the frozen weights, which identifies an adapter's base. Call before ZeRO partitions them."""
    digest = hashlib.sha256()
    trainable = set(trainable_names(model))
    for name, tensor in sorted(_tensors(model).items()):
        if name not in trainable:
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def export(folder: Path, model: nn.Module, config: Mapping[str, Any], base: str | None, write_files: bool) -> None:
    """Write the export of a run; `base` is the hash of its frozen weights, or None if everything was trained.

    Every rank must call it (gathering is collective); those with `write_files` write.
    """
    found = _tensors(model)
    described = layout({name: found[name] for name in (found if base is None else trainable_names(model))})
    tensors = gathered(model, described)
    try:
        if write_files:
            folder.mkdir(parents=True, exist_ok=True)
            write_in_turn(folder / (MODEL_FILE if base is None else ADAPTER_FILE), described, tensors)
    finally:
        for _ in tensors:  # even if the disk is full, because the other ranks gather the rest
            pass
    if not write_files:
        return
    if base is not None:
        adapter = {"adaptation": config["adaptation"], "base_sha256": base}
        write_text(folder / ADAPTER_CONFIG_FILE, json.dumps(adapter, indent=2) + "\n")
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def size(folder: Path) -> dict[str, int]:
    """Size in bytes of each weight file of an export, by file name."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}


def load_trained(folder: Path, model: nn.Module) -> None:
    """Load the export of a run into its model, whose frozen weights already are those of the base."""
    adapted = (folder / ADAPTER_FILE).exists()
    frozen = sorted(set(names(model)) - set(trainable_names(model)))
    load_strictly(model, read(folder / (ADAPTER_FILE if adapted else MODEL_FILE)), frozen if adapted else ())


def load_export(folder: Path, model: nn.Module) -> None:
    """Load an export written by `export` into a model built the same way.

    Raises:
        WeightsError: the files do not fit, or the adapter was trained on a base other than `model`'s frozen weights.
    """
    if (folder / ADAPTER_FILE).exists():
        expected = _base_of(folder / ADAPTER_CONFIG_FILE)
        found = base_hash(model)
        if found != expected:
            raise WeightsError(
                f"{folder / ADAPTER_FILE} was trained on a base with hash {expected[:12]}…, but this base has "
                f"{found[:12]}…: load the run's own backbone or `init_from`"
            )
    load_trained(folder, model)


def _base_of(path: Path) -> str:
    """The hash of the base that an adapter was trained on."""
    try:
        return str(read_json(path)["base_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is missing or damaged ({error}): copy the whole export of the run again") from None


def share_frozen(model: nn.Module, base: Mapping[str, Tensor]) -> None:
    """Replace frozen tensors of `model` by equal ones of `base`, so that many models share one copy."""
    trained = set(trainable_names(model))
    for name, tensor in _tensors(model).items():
        if name not in trained and name in base and torch.equal(tensor, base[name]):
            tensor.data = base[name]


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of `state_dict`, without copies; shared ones appear only under their first name."""
    persistent = model.state_dict(keep_vars=True).keys()
    everything = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: everything[name] for name in persistent if name in everything}


def listed(title: str, lines: list[str], most: int = 12) -> str:
    """A title and below it at most `most` of the lines."""
    more = [f"… and {len(lines) - most} more"] if len(lines) > most else []
    return "\n  ".join([title, *lines[:most], *more])
