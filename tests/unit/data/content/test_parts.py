"""Several processes fill a folder part by part; what is finished survives whoever is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import counted_work
import pytest
from commands import ENVIRONMENT
from counted_work import CountedWork, expected

from transrec.data.content import filled_folder as module
from transrec.data.content.filled_folder import filled_folder, partial_folder
from transrec.files import StorageError

NAME, OTHER = f"pixels-{'0a' * 12}", f"tokens-{'1b' * 12}"
PARTS = 12


def start(target: Path, seconds: float) -> "subprocess.Popen[str]":
    """A process that takes part and needs so long for each part."""
    command = [sys.executable, counted_work.__file__, str(target), str(PARTS), str(seconds)]
    return subprocess.Popen(command, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "not so in time"
        time.sleep(0.02)


def filled(folder: Path) -> list[tuple[int, int]]:
    """(process, part) for each part that was filled."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(pid), int(part)) for pid, part in map(str.split, lines)]


def fill(target: Path, before: Callable[[int], None], parts: int = PARTS) -> None:
    filled_folder(target, lambda: CountedWork(parts, before))


class StopError(Exception):
    """A process ends here."""


def stop_at(last: int) -> Callable[[int], None]:
    """Raises in part `last`, in the middle of its bytes."""

    def before(part: int) -> None:
        if part == last:
            raise StopError

    return before


def stopped(target: Path, last: int) -> Path:
    """The partial folder of a process that ended in part `last`."""
    with pytest.raises(StopError):
        fill(target, stop_at(last))
    return partial_folder(target)


def test_all_processes_fill_parts(tmp_path: Path) -> None:
    target = tmp_path / NAME
    processes = [start(target, 0.3) for _ in range(3)]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert (target / "numbers.bin").read_bytes() == expected(PARTS)
    assert sorted(part for _, part in filled(tmp_path)) == list(range(PARTS)), "each part is filled once"
    assert len(Counter(pid for pid, _ in filled(tmp_path))) == 3
    assert {path.name for path in tmp_path.iterdir()} == {NAME, "log"}
    assert [path.name for path in target.iterdir()] == ["numbers.bin"]


def test_killed_processes_lose_only_what_they_had_in_hand(tmp_path: Path) -> None:
    target = tmp_path / NAME
    killed = [start(target, 0.2) for _ in range(2)]
    wait_until(lambda: len(filled(tmp_path)) >= 5)
    for process in killed:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    before = len(filled(tmp_path))
    assert 5 <= before < PARTS
    last = start(target, 0)
    said = last.communicate(timeout=60)[1]
    assert last.returncode == 0, said
    assert (target / "numbers.bin").read_bytes() == expected(PARTS)
    again = len(filled(tmp_path)) - PARTS
    assert again <= 2, "one part of each killed process, whose note was not yet written"
    assert f"resuming {partial_folder(target)}: " in said
    assert f" of {PARTS} parts are finished" in said


def test_who_helps_takes_charge_when_the_first_is_killed(tmp_path: Path) -> None:
    target = tmp_path / NAME
    first = start(target, 0.3)
    wait_until(lambda: (partial_folder(target) / ".parts" / "session").exists())
    helper = start(target, 0.3)
    wait_until(lambda: any(pid == helper.pid for pid, _ in filled(tmp_path)))
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    assert helper.communicate(timeout=60)[1].count("going on") == 0, "its session goes on: nothing is checked again"
    assert helper.returncode == 0
    assert (target / "numbers.bin").read_bytes() == expected(PARTS)


def test_a_finished_part_that_has_changed_is_filled_again(tmp_path: Path) -> None:
    target, again = tmp_path / NAME, list[int]()
    partial = stopped(target, 8)
    with (partial / "numbers.bin").open("r+b") as file:
        file.seek(35)
        file.write(b"x")
    fill(target, again.append)
    assert again == [3, 8, 9, 10, 11]
    assert (target / "numbers.bin").read_bytes() == expected(PARTS)


@pytest.mark.parametrize("damage", ["not JSON", "[1]", "[]", ""])
def test_a_note_that_is_damaged_finishes_nothing(tmp_path: Path, damage: str) -> None:
    target, again = tmp_path / NAME, list[int]()
    (note,) = (stopped(target, 1) / ".parts").glob("000000.*.json")
    note.write_text(damage)
    fill(target, again.append)
    assert again == list(range(PARTS))


def test_parts_of_another_size_are_not_gone_on_with(tmp_path: Path) -> None:
    target, again = tmp_path / NAME, list[int]()
    stopped(target, 8)
    fill(target, again.append, parts=5)
    assert again == list(range(5))
    assert (target / "numbers.bin").read_bytes() == expected(5)


def test_what_fails_in_the_first_part_leaves_nothing(tmp_path: Path) -> None:
    stopped(tmp_path / NAME, 0)
    assert not list(tmp_path.iterdir())


def test_an_old_partial_folder_is_removed_by_the_next_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = stopped(tmp_path / OTHER, 8)
    fill(tmp_path / NAME, stop_at(-1))
    assert partial.exists(), "its run may be started again"
    monkeypatch.setattr(module, "KEPT_SECONDS", -1.0)
    shutil.rmtree(tmp_path / NAME)
    fill(tmp_path / NAME, stop_at(-1))
    assert not partial.exists()


def test_too_little_room_is_one_sentence_before_the_work_begins(tmp_path: Path) -> None:
    stopped(tmp_path / OTHER, 8)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(StorageError) as caught:
        filled_folder(tmp_path / NAME, lambda: CountedWork(PARTS, stop_at(0), total_bytes=10 * free))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} has ")
    assert (
        f"bytes free, but {NAME} needs {10 * free:,}: make room on that disk "
        f"(unfinished folders there: {OTHER}.partial-" in message
    )
    assert {path.name for path in tmp_path.iterdir()} == {partial_folder(tmp_path / OTHER).name}


def test_what_is_on_disk_already_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path / NAME, 8)
    monkeypatch.setattr(module, "_size_on_disk", lambda folder: 10**18)
    filled_folder(tmp_path / NAME, lambda: CountedWork(PARTS, stop_at(-1), total_bytes=10**18))


def test_progress_counts_the_parts_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper's environment has another local rank, so only the process in charge has anything to say."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    target = tmp_path / NAME
    first = start(target, 0.5)
    wait_until(lambda: (partial_folder(target) / ".parts" / "session").exists())
    helper = start(target, 0.5)
    said = first.communicate(timeout=120)[1]
    assert helper.communicate(timeout=60)[1] == ""
    total = 10 * PARTS
    assert f"counting: {total} of {total} items" in said
    assert " of 120 items  " in said
    assert " min left" in said
