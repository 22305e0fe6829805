"""The energy that training takes, as far as the machine measures it. Nothing is estimated.

GPUs count millijoules since their driver was loaded (NVML). CPUs count microjoules for each package (RAPL, which Linux
shows below /sys/class/powercap, often only to root). A package's counter wraps around to 0 after some 262 kJ, that is,
after minutes under load, so the counters are read twice a minute. Both counters include the energy that other programs
use on the device.

Designs considered: sampling the power and multiplying it by time, which misses what happens between the samples; and
CodeCarbon, which estimates what is not measured.
"""

import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from transrec.distributed.world import World

POWERCAP = Path("/sys/class/powercap")
PARTS = ("cpu", "gpu")
_BETWEEN_READINGS = 30.0  # seconds; no package uses half of its counter's range in this time


class CounterError(Exception):
    """A counter cannot be read."""


@dataclass
class Counter:
    """A counter of energy, and what it has counted so far.

    Args:
        read: returns the current value in microjoules, or raises `CounterError`.
        limit: the value after which the counter wraps around to 0; None: it does not wrap around.
    """

    read: Callable[[], int]
    limit: int | None = None
    counted: int = 0  # microjoules
    _last: int = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.read()

    def update(self) -> None:
        """Add what was counted since the last reading."""
        now = self.read()
        since = now - self._last
        if since < 0:
            begun_again = since + (self.limit or 0)
            # Less than half of the range: the counter wrapped around. Otherwise it was reset, and has counted `now`.
            since = begun_again if self.limit is not None and 0 <= begun_again < self.limit / 2 else now
        self.counted, self._last = self.counted + since, now


class EnergyMeter:
    """Adds up the energy of a run: each rank measures its GPU, and the first rank of each node also the node's CPUs."""

    def __init__(self, world: World) -> None:
        self._world, self._lock = world, threading.Lock()
        self._counters: dict[str, Sequence[Counter] | None] = {}  # None: belongs to this rank, but cannot be measured

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Context in which energy is counted, from 0."""
        self._counters = {}
        if self._world.local_rank == 0:
            self._counters["cpu"] = _opened(lambda: packages(POWERCAP))
        if self._world.device.type == "cuda":
            self._counters["gpu"] = _opened(lambda: [gpu(self._world.device)])
        if not any(self._counters.values()):
            yield
            return
        done = threading.Event()
        thread = threading.Thread(target=self._read_until, args=(done,), daemon=True, name="energy")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def joules(self) -> dict[str, float]:
        """The energy of all ranks by part, `cpu` and `gpu`; a part is left out unless every rank that has it can
        measure it. Every rank must call this."""
        own = []
        for part in PARTS:
            counters = self._update(part)
            counted = 0 if counters is None else sum(counter.counted for counter in counters)
            own += [int(part in self._counters), int(counters is not None), counted]
        everyone = self._world.gather_ints(own).reshape(-1, len(PARTS), 3)
        totals = {}
        for part, (have, know, microjoules) in zip(PARTS, everyone.sum(0).tolist(), strict=True):
            if have and have == know:
                totals[part] = microjoules / 1e6
        return totals

    def _read_until(self, done: threading.Event) -> None:
        while not done.wait(_BETWEEN_READINGS):
            for part in self._counters:
                self._update(part)

    def _update(self, part: str) -> Sequence[Counter] | None:
        """Read the counters of a part and return them; None if there are none, or one has failed."""
        with self._lock:
            counters = self._counters.get(part)
            try:
                for counter in counters or ():
                    counter.update()
            except CounterError:
                self._counters[part] = counters = None  # a sum would be incomplete from now on
            return counters


def added(before: Mapping[str, float] | None, now: Mapping[str, float]) -> dict[str, float]:
    """The energy of a resumed run by part, without parts that were not measured before.

    Args:
        before: the energy in the run's checkpoint; None: the run is new.
    """
    if before is None:
        return dict(now)
    return {part: before[part] + joules for part, joules in now.items() if part in before}


def packages(powercap: Path) -> list[Counter]:
    """The counters of all CPU packages.

    Raises:
        CounterError: there are no counters, or one cannot be read.
    """
    # `intel-rapl:0:1` is a part of the package `intel-rapl:0`; the zone `psys` contains the packages.
    zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    found = [zone for zone in zones if _text(zone / "name").startswith("package")]
    if not found:
        raise CounterError(f"{powercap} has no energy counter of a CPU package")
    return [
        Counter(lambda zone=zone: _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj"))  # type: ignore[misc]
        for zone in found
    ]


def gpu(device: torch.device) -> Counter:
    """The counter of a GPU.

    Raises:
        CounterError: NVML's Python module is not installed, or the GPU has no counter.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        raise CounterError("pynvml is not installed") from None
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except (nvml.NVMLError, AttributeError) as error:
        raise CounterError(str(error)) from None
    return Counter(lambda: _microjoules(nvml, handle))


def _microjoules(nvml: Any, handle: Any) -> int:
    try:
        return 1000 * int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    except nvml.NVMLError as error:
        raise CounterError(str(error)) from None


def _opened(find: Callable[[], list[Counter]]) -> list[Counter] | None:
    try:
        return find()
    except CounterError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CounterError(f"cannot read {path}: {error}") from None


def _number(path: Path) -> int:
    text = _text(path)
    if not text.isdecimal():
        raise CounterError(f"{path} holds no number")
    return int(text)
