"""What asks a run to stop, and what it asks for."""

import os
import signal
import threading
import time

import pytest

from transrec.config import ConfigError, validate
from transrec.training.stopping import Stop, StopRequest, seconds
from transrec.training.trainer import TrainConfig


@pytest.mark.parametrize(("text", "expected"), [("3h50m", 13800), ("90s", 90), ("1d", 86400), ("1d2h3m4s", 93784)])
def test_a_duration_has_units(text: str, expected: int) -> None:
    assert seconds(text) == expected
    assert validate(TrainConfig, {"time_limit": text}).time_limit == text


@pytest.mark.parametrize("value", ["", "3h 50m", "50", 600, "3.5h", "0s", "m", "50m3h", "3:50:00", "-1h"])
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="is not a duration: write it like 3h50m, 90s or 1d"):
        validate(TrainConfig, {"time_limit": value})


def test_a_run_without_a_limit_is_never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    request = StopRequest(None)
    monkeypatch.setattr(time, "monotonic", lambda: 1e12)
    assert request.now() == Stop.NO


def test_the_time_limit_counts_from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    request = StopRequest("1m30s")
    for now, expected in ((1089.0, Stop.NO), (1091.0, Stop.PAUSE)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        assert request.now() == expected


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([signal.SIGUSR1], Stop.PAUSE),
        ([signal.SIGTERM], Stop.END),
        ([signal.SIGINT], Stop.END),
        ([signal.SIGTERM, signal.SIGUSR1], Stop.END),
        ([signal.SIGUSR1, signal.SIGTERM], Stop.END),
    ],
)
def test_of_several_signals_the_strongest_counts(numbers: list[signal.Signals], expected: Stop) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)]
    request = StopRequest(None)
    with request.listening():
        for number in numbers:
            os.kill(os.getpid(), number)
    assert request.now() == expected
    assert [signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_interrupt_does_not_wait() -> None:
    with StopRequest(None).listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_keep_their_meaning_in_a_thread() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), []

    def listen() -> None:
        with StopRequest(None).listening():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert inside == [before]
