"""Seconds and work of phases."""

import pytest

from transrec import phases
from transrec.phases import did, phase, recorded, recording


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(phases.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(phases.time, "process_time", lambda: now[0] / 2)
    return now


def test_a_second_belongs_to_the_innermost_phase(clock: list[float]) -> None:
    with recording():
        clock[0] += 100  # before any
        with phase("steps"):
            clock[0] += 1
            with phase("validation"):
                clock[0] += 10
            clock[0] += 2
        with phase("validation"):
            clock[0] += 20
        found = recorded()
    assert found == {
        "steps": {"seconds": 3, "processor_seconds": 1.5, "times": 1},
        "validation": {"seconds": 30, "processor_seconds": 15, "times": 2},
    }


def test_work_adds_up_in_the_innermost_phase(clock: list[float]) -> None:
    with recording():
        did(windows=1)  # in none
        with phase("steps"):
            did(windows=2, steps=1)
            with phase("validation"):
                did(questions=5)
            did(windows=3)
        found = recorded()
    assert found["steps"]["windows"] == 5
    assert found["steps"]["steps"] == 1
    assert found["validation"]["questions"] == 5


def test_a_phase_that_is_open_is_not_recorded_yet(clock: list[float]) -> None:
    with recording(), phase("results"):
        assert recorded() == {}


def test_a_phase_that_fails_is_over(clock: list[float]) -> None:
    def fail() -> None:
        with phase("checkpoint"):
            clock[0] += 1
            raise OSError("full")

    with recording():
        with pytest.raises(OSError, match="full"):
            fail()
        with phase("export"):
            clock[0] += 2
        assert {name: entry["seconds"] for name, entry in recorded().items()} == {"checkpoint": 1, "export": 2}


def test_without_a_recording_nothing_happens() -> None:
    with phase("steps"):
        did(windows=1)
    assert recorded() == {}
