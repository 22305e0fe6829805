import io
from collections.abc import Callable

import pytest
from rich.console import Console

from transrec.data import progress as module
from transrec.data.progress import line, progress, tracked

Clock = Callable[[float], None]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """`wait(seconds)`: let the clock go on."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_off_a_terminal_a_line_now_and_then_and_one_at_the_end(wait: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("tokenising", 20_000) as advance:
        for _ in range(5):
            wait(20)
            advance(4000)
    assert capsys.readouterr().err.splitlines() == [
        "tokenising: 4,000 of 20,000 items  200/s  1.3 min left",
        "tokenising: 12,000 of 20,000 items  200/s  0.7 min left",
        "tokenising: 20,000 of 20,000 items  200/s  took 1.7 min",
    ]


def test_short_work_shows_nothing(wait: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("decoding", 10) as advance:
        for _ in range(10):
            wait(0.15)
            advance(1)
    assert capsys.readouterr().err == ""


def test_work_that_fails_is_not_reported_as_done(wait: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with progress("decoding", 10) as advance:
            wait(3)
            advance(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capsys.readouterr().err == "decoding: 1 of 10 items  0.3/s  0.5 min left\n"


def test_of_processes_that_do_the_same_the_first_of_the_node_speaks(
    wait: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with progress("decoding", 10) as advance:
        wait(100)
        advance(5)
    assert capsys.readouterr().err == ""


def test_things_count_as_done_one_by_one(wait: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in tracked("checking", range(4)):
        wait(1)
    assert capsys.readouterr().err.splitlines() == [
        "checking: 2 of 4 items  1.0/s  0.0 min left",
        "checking: 4 of 4 items  1.0/s  took 0.1 min",
    ]


def test_on_a_terminal_a_bar_that_comes_after_the_first_seconds(wait: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=100)
    monkeypatch.setattr(module, "messages", lambda: terminal)
    with progress("decoding", 10) as advance:
        wait(1)
        advance(1)
        assert shown.getvalue() == ""
        wait(2)
        advance(4)
    assert "decoding" in shown.getvalue()
    assert "5/10" in shown.getvalue()


def test_a_slow_rate_keeps_a_digit_behind_the_point() -> None:
    assert line("computing states", 64, 1_000_000, 128.0) == (
        "computing states: 64 of 1,000,000 items  0.5/s  33,331.2 min left"
    )
