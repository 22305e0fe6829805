"""Who is dead, who is awaited, who is whose child."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from transrec.distributed import watchdog
from transrec.distributed.watchdog import BEAT_SECONDS, DEAD_SECONDS, WAITING_SECONDS, Beat, Launcher, Watch, parent_of


def beats(*numbers_and_arrivals: tuple[int, int]) -> list[Beat]:
    return [Beat(number, arrivals, "host", 100 + rank) for rank, (number, arrivals) in enumerate(numbers_and_arrivals)]


def test_a_beat_survives_the_store() -> None:
    beat = Beat(3, 7, "node-1.example", 4242)
    assert Beat.decode(beat.encode().encode()) == beat


def test_a_rank_that_stops_beating_is_dead_after_a_while() -> None:
    watch, now = Watch(), 0.0
    for number in range(1, 30):
        now += BEAT_SECONDS
        watch.hear(beats((number, number), (min(number, 5), 5), (number, 5)), now)
        assert watch.dead(now) == ([1] if now - 5 * BEAT_SECONDS > DEAD_SECONDS else []), now


def test_a_living_rank_that_keeps_the_others_waiting_is_named_but_not_dead() -> None:
    """Rank 1 works on (its first tokenisation, say); rank 0 and 2 have come to the collective after it."""
    watch, now, named = Watch(), 0.0, []
    for number in range(1, 100):
        now += BEAT_SECONDS
        watch.hear(beats((number, 8), (number, 7), (number, 8)), now)
        assert watch.dead(now) == []
        if awaited := watch.awaited(now):
            named.append((awaited, now))
    assert [ranks for ranks, _ in named] == [[1]] * len(named)
    assert WAITING_SECONDS < named[0][1] < WAITING_SECONDS + 3 * BEAT_SECONDS
    assert 2 <= len(named) <= 6, "said once in a while, not at every beat"


def test_ranks_in_step_are_never_named() -> None:
    watch = Watch()
    for number in range(1, 100):
        watch.hear(beats((number, number), (number, number - 1)), number * BEAT_SECONDS)
        assert watch.awaited(number * BEAT_SECONDS) == []


def test_a_long_phase_without_collectives_is_nobodys_fault() -> None:
    watch = Watch()
    for number in range(1, 100):
        watch.hear(beats((number, 5), (number, 5)), number * BEAT_SECONDS)
        assert watch.awaited(number * BEAT_SECONDS) == []


def test_only_a_process_of_the_same_launcher_is_a_sibling() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        watch, here = Watch(), socket.gethostname()
        known = [Beat(1, 1, here, os.getpid()), Beat(1, 1, here, child.pid), Beat(1, 1, "elsewhere", os.getpid())]
        watch.hear(known, 0.0)
        assert watch.sibling(0) == os.getpid(), "its parent is ours"
        assert watch.sibling(1) is None, "its parent is this process"
        assert watch.sibling(2) is None, "a process number of another host"
        assert parent_of(child.pid) == os.getpid()
    finally:
        child.kill()
        child.wait()


def test_a_process_with_spaces_and_brackets_in_its_name_has_a_parent(tmp_path: Path) -> None:
    program = tmp_path / "a) b (c"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "60"])
    try:
        assert parent_of(child.pid) == os.getpid()
    finally:
        child.kill()
        child.wait()


def test_no_process_no_parent() -> None:
    assert parent_of(2**22 + 1) is None


def test_a_process_started_by_hand_has_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Launcher.of_this_process() is None
    monkeypatch.setattr(watchdog, "_command_line", lambda pid: b"python\0-m\0deepspeed.launcher.launch\0")
    launcher = Launcher.of_this_process()
    assert launcher is not None
    assert not launcher.is_gone()
    assert Launcher(launcher.pid, started_by=1 if launcher.started_by != 1 else 2).is_gone()
