"""Ranks that meet without a collective: in threads over a store in memory, and in processes of a gloo group."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch.distributed as dist
from commands import ForkedCommands, json_lines
from short_time_out import give_up_after

from transrec.distributed import meetings
from transrec.distributed.meetings import MeetingError, Meetings
from transrec.distributed.world import World, start, stop

TIME_OUT, WORK = 3.0, 6.0  # seconds


def in_threads(size: int, act: Callable[[Meetings], None]) -> None:
    """Let each rank do `act`, all at once."""
    store = dist.HashStore()
    threads = [threading.Thread(target=act, args=(Meetings(rank, size, store),)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_nobody_leaves_before_all_have_come() -> None:
    came: list[float] = []
    left: list[float] = []

    def act(ranks: Meetings) -> None:
        for late in (2, 0):
            time.sleep(0.3 if ranks.rank == late else 0)
            came.append(time.monotonic())
            ranks.meet("wait")
            left.append(time.monotonic())

    in_threads(3, act)
    assert max(sorted(came)[:3]) <= min(sorted(left)[:3])
    assert max(came) <= min(sorted(left)[3:])


def test_the_first_of_those_who_wait_names_who_is_late_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(meetings, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(meetings.os, "getpid", lambda: 4242)
    monkeypatch.setattr(meetings.socket, "gethostname", lambda: "node-1")

    def act(ranks: Meetings) -> None:
        time.sleep(1.5 if ranks.rank in (1, 3) else 0)
        ranks.meet("tokenise the items")

    in_threads(4, act)
    lines = capsys.readouterr().err.splitlines()
    late = "rank 1 (process 4242 on node-1), rank 3 (process 4242 on node-1)"
    assert set(lines) == {f"transrec: waiting for {late} to tokenise the items"}
    assert 1 <= len(lines) <= 4, "after 0.2 s, and each time after twice as long"


def test_a_meeting_without_a_wait_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    in_threads(3, lambda ranks: ranks.meet("nothing"))
    assert capsys.readouterr().err == ""


def test_where_the_store_is_gone_the_meeting_is_off() -> None:
    class Gone:
        def set(self, key: str, value: str) -> None: ...

        def add(self, key: str, amount: int) -> int:
            raise dist.DistNetworkError("Connection reset by peer")

        def get(self, key: str) -> bytes:
            return b""

        def check(self, keys: list[str]) -> bool:
            return False

    with pytest.raises(MeetingError, match="rank 0 has ended while this rank waited for it to fill the item store"):
        Meetings(1, 2, Gone()).meet("fill the item store")


def test_a_process_alone_meets_nobody() -> None:
    world, done = World(), []
    world.meet("nothing")
    assert world.together("count", lambda: done.append(1) or len(done)) == 1
    assert world.union([3, 1]) == {1, 3}


def test_ranks_may_be_later_than_a_collective_waits(commands: ForkedCommands) -> None:
    finished = commands.call(meet_late, "meet", ranks=2)
    assert sorted(line["rank"] for line in json_lines(finished)) == [0, 1]
    assert all(line["gathered"] == [[0], [1]] for line in json_lines(finished))
    assert all(line["found"] == [1, 10, 11] for line in json_lines(finished))
    assert "waiting for rank 1 (process " in finished.stderr
    assert "to sleep\n" in finished.stderr


def test_a_collective_gives_up_on_them(commands: ForkedCommands) -> None:
    """So the time-out of the test above is as short as it says."""
    finished = commands.call(meet_late, "barrier", ranks=2)
    assert finished.code != 0
    assert "imed out" in finished.stderr or "imeout" in finished.stderr


def meet_late(how: str) -> None:
    give_up_after(TIME_OUT)
    world = start()
    if world.rank == 1:
        time.sleep(WORK)
    world.meet("sleep") if how == "meet" else world.barrier()
    gathered = world.gather_ints([world.rank]).tolist()
    if world.rank == 0:
        time.sleep(WORK)
    found = sorted(world.union([1, 10 + world.rank]))
    line = f'{{"rank": {world.rank}, "gathered": {gathered}, "found": {found}}}\n'
    print(line, end="", flush=True)
    stop(world)


def test_work_done_together_may_take_one_rank_longer_than_a_collective_waits(commands: ForkedCommands) -> None:
    finished = commands.call(work_together, ranks=2)
    lines = json_lines(finished)
    assert sorted(line["rank"] for line in lines) == [0, 1]
    assert all(line["total"] == [1, 2] for line in lines)
    assert "waiting for rank 1 (process " in finished.stderr
    assert "to work\n" in finished.stderr


def work_together() -> None:
    give_up_after(TIME_OUT)
    world = start()

    def work() -> int:
        time.sleep(WORK * world.rank)
        return world.rank

    done = world.together("work", work)
    if world.rank == 0:
        time.sleep(WORK)
    total = world.total("count", np.array([done, 1])).tolist()
    print(f'{{"rank": {done}, "total": {total}}}\n', end="", flush=True)
    stop(world)
