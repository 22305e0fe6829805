"""Energy from counters that wrap around, are reset, cannot be read, or are missing."""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from transrec.distributed.world import World
from transrec.training import energy
from transrec.training.energy import Counter, CounterError, EnergyMeter, added, gpu, packages

LIMIT = 262_143_328_850  # microjoules, of a real package


def counter(values: Sequence[int], limit: int | None = None) -> Counter:
    """A counter that has the given values in turn."""
    return Counter(iter(values).__next__, limit)


def write_zone(powercap: Path, zone: str, name: str, energy_uj: str) -> Path:
    folder = powercap / zone
    folder.mkdir(parents=True)
    for file, text in {"name": name, "energy_uj": energy_uj, "max_energy_range_uj": str(LIMIT)}.items():
        (folder / file).write_text(f"{text}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without counters, to write some."""
    folder = tmp_path / "powercap"
    monkeypatch.setattr(energy, "POWERCAP", folder)
    return folder


@pytest.mark.parametrize(
    ("values", "limit", "expected"),
    [
        ([100, 150, 175], None, 75),
        ([100, 100], None, 0),
        ([LIMIT - 10, 20], LIMIT, 30),  # it began again
        ([LIMIT - 10, 20, 50, LIMIT - 5, 5], LIMIT, LIMIT + 15),
        ([1000, 20], LIMIT, 20),  # reset: a full round is not possible in so short a time
        ([1000, 20, 30], None, 30),  # reset: the driver was loaded again
        ([LIMIT + 1000, 20], LIMIT, 20),  # above what it says that it holds
    ],
)
def test_a_counter_adds_up_what_was_counted_between_readings(
    values: list[int], limit: int | None, expected: int
) -> None:
    found = counter(values, limit)
    for _ in values[1:]:
        found.update()
    assert found.counted == expected


def test_packages_are_counted_and_neither_their_parts_nor_what_contains_them(powercap: Path) -> None:
    files = [write_zone(powercap, f"intel-rapl:{i}", f"package-{i}", "1000") for i in (0, 1)]
    write_zone(powercap, "intel-rapl:2", "psys", "1000")
    write_zone(powercap, "intel-rapl:0:0", "core", "1000")
    found = packages(powercap)
    files[0].write_text("1500\n")
    files[1].write_text("1020\n")
    for each in found:
        each.update()
    assert [each.counted for each in found] == [500, 20]


@pytest.mark.parametrize("text", ["", "-1", "much"])
def test_a_file_that_holds_no_number_is_no_counter(powercap: Path, text: str) -> None:
    write_zone(powercap, "intel-rapl:0", "package-0", text)
    with pytest.raises(CounterError, match="holds no number"):
        packages(powercap)


def test_a_machine_without_counters_tells_nothing(powercap: Path) -> None:
    with pytest.raises(CounterError, match="has no energy counter"):
        packages(powercap)
    meter = EnergyMeter(World())
    with meter.reading():
        assert meter.joules() == {}
    assert meter.joules() == {}


def test_a_file_that_may_not_be_read_tells_nothing(powercap: Path) -> None:
    file = write_zone(powercap, "intel-rapl:0", "package-0", "1000")
    file.unlink()
    file.mkdir()  # root may read any file, but no folder
    meter = EnergyMeter(World())
    with meter.reading():
        assert meter.joules() == {}


def test_joules_are_those_since_the_counting_began(powercap: Path) -> None:
    file = write_zone(powercap, "intel-rapl:0", "package-0", str(LIMIT - 1_000_000))
    meter = EnergyMeter(World())
    with meter.reading():
        assert meter.joules() == {"cpu": 0.0}
        file.write_text("2500000\n")
        assert meter.joules() == {"cpu": 3.5}
    with meter.reading():
        assert meter.joules() == {"cpu": 0.0}


def test_counters_are_read_in_the_meantime(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter that goes round several times between two checkpoints is counted right."""
    reads: list[int] = []

    def read() -> int:
        reads.append(len(reads) * (LIMIT // 3) % LIMIT)
        return reads[-1]

    monkeypatch.setattr(energy, "packages", lambda _: [Counter(read, LIMIT)])
    monkeypatch.setattr(energy, "_BETWEEN_READINGS", 0.001)
    meter, until = EnergyMeter(World()), time.monotonic() + 30
    with meter.reading():
        while len(reads) < 10 and time.monotonic() < until:
            time.sleep(0.001)
    assert meter.joules() == {"cpu": (len(reads) - 1) * (LIMIT // 3) / 1e6}
    assert len(reads) > 10
    assert "energy" not in {thread.name for thread in threading.enumerate()}


def test_a_counter_that_fails_later_leaves_its_part_out_for_good(powercap: Path) -> None:
    file = write_zone(powercap, "intel-rapl:0", "package-0", "1000")
    meter = EnergyMeter(World())
    with meter.reading():
        assert meter.joules() == {"cpu": 0.0}
        file.unlink()
        assert meter.joules() == {}
        file.write_text("2000\n")
        assert meter.joules() == {}, "what was counted meanwhile is not known"


class Together(World):
    """A rank among others, whose numbers are given."""

    others: tuple[list[int], ...] = ()

    def gather_ints(self, values: list[int]) -> Tensor:
        return torch.tensor([values, *self.others])


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([[0, 0, 0, 0, 0, 0]], {"cpu": 0.5}),  # another rank of the node: its CPUs are counted once
        ([[1, 1, 2_000_000, 0, 0, 0]], {"cpu": 2.5}),  # another node
        ([[1, 0, 0, 0, 0, 0]], {}),  # a node that does not count
        ([[1, 1, 0, 1, 1, 3_000_000], [0, 0, 0, 1, 1, 1_000_000]], {"cpu": 0.5, "gpu": 4.0}),
        ([[1, 1, 0, 1, 1, 3_000_000], [0, 0, 0, 1, 0, 0]], {"cpu": 0.5}),  # a GPU that does not count
    ],
)
def test_ranks_are_added_up_if_all_of_them_count(
    powercap: Path, others: list[list[int]], expected: dict[str, float]
) -> None:
    file = write_zone(powercap, "intel-rapl:0", "package-0", "1000000")
    world = Together(size=1 + len(others))
    object.__setattr__(world, "others", tuple(others))
    meter = EnergyMeter(world)
    with meter.reading():
        file.write_text("1500000\n")
        assert meter.joules() == expected


def test_only_the_first_rank_of_a_node_counts_its_cpus(powercap: Path) -> None:
    write_zone(powercap, "intel-rapl:0", "package-0", "1000000")
    meter = EnergyMeter(World(rank=5, local_rank=1))
    with meter.reading():
        assert meter.joules() == {}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, {"cpu": 1.0}, {"cpu": 1.0}),
        ({"cpu": 2.0, "gpu": 3.0}, {"cpu": 1.0, "gpu": 1.0}, {"cpu": 3.0, "gpu": 4.0}),
        ({"cpu": 2.0}, {}, {}),  # resumed where nothing counts
        ({}, {"cpu": 1.0}, {}),  # begun where nothing counted, or by an earlier version
    ],
)
def test_a_run_that_goes_on_has_the_energy_of_all_its_steps_or_none(
    before: dict[str, float] | None, now: dict[str, float], expected: dict[str, float]
) -> None:
    assert added(before, now) == expected


class FakeError(Exception):
    pass


def fake_nvml(**changes: Any) -> SimpleNamespace:
    readings = iter([5000, 5250])
    functions = {
        "NVMLError": FakeError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: next(readings),
    }
    return SimpleNamespace(**functions | changes)


def not_supported(*_: Any) -> None:
    raise FakeError("Not Supported")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="a-b"))
    return torch.device("cuda", 0)


def test_a_gpu_is_found_by_its_identifier_and_counts_millijoules(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    nvml = fake_nvml(nvmlDeviceGetHandleByUUID=asked.append)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = gpu(device)
    found.update()
    assert (asked, found.counted) == (["GPU-a-b"], 250_000)


@pytest.mark.parametrize(
    "name", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"], ids=str
)
def test_a_gpu_that_does_not_count_is_left_out(
    name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(**{name: not_supported}))
    with pytest.raises(CounterError, match="Not Supported"):
        gpu(device)


def test_without_the_library_a_gpu_is_left_out(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(CounterError, match="pynvml is not installed"):
        gpu(device)
