"""`fill` does ahead of time, in all processes together, what a training would do at its start."""

import re
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands import ForkedCommands
from small_disk import SmallDisk
from tiny_world import Tiny

from transrec.data.content import filled_folder, prefix_store, text_store
from transrec.data.content.parts import Parts

KEPT = ["run_dir=unwritten", "adaptation={name: head_only}", "model.item_encoder.dropout=0", "data.workers=0"]


def cut_small(seconds: float = 0.0) -> None:
    """Cut the work of this process into small parts, each of which takes so long."""
    text_store.ITEMS_OF_A_PART, prefix_store.ITEMS_OF_A_PART = 8, 8
    do = Parts._do

    def slow(parts: Parts, part: int, advance: Any) -> None:
        time.sleep(seconds)
        do(parts, part, advance)
        print(f"part {part} of {parts._work.name}", file=sys.stderr, flush=True)

    Parts._do = slow  # type: ignore[method-assign]


def contents(cache: Path) -> dict[str, bytes]:
    """The files of the cache, by name."""
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_two_ranks_write_the_bytes_of_one(commands: ForkedCommands, tiny: Tiny, tmp_path: Path) -> None:
    one = commands.run("fill", "--config", tiny.config, f"data.cache={tmp_path / 'one'}", *KEPT)
    assert one.code == 0, one.stderr
    place = re.escape(str(tmp_path / "one"))
    assert re.fullmatch(rf"text: {place}/states-[0-9a-f]{{24}}, [\d,]+ bytes\n", one.stdout)
    running = commands.start(
        "fill",
        "--config",
        tiny.config,
        f"data.cache={tmp_path / 'two'}",
        *KEPT,
        ranks=2,
        before=partial(cut_small, 0.2),
    )
    two = running.wait()
    assert two.code == 0, two.stderr
    parts = re.findall(r"^part \d+ of .*$", two.stderr, re.MULTILINE)
    assert len(parts) == len(set(parts)) > 4, "each part is filled by one of them"
    assert {name.split("-")[0] for name in contents(tmp_path / "two")} == {"tokens", "states"}
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_training_takes_what_is_filled(commands: ForkedCommands, tiny: Tiny, tmp_path: Path, run_dir: Path) -> None:
    cache = f"data.cache={tmp_path / 'cache'}"
    assert commands.run("fill", "--config", tiny.config, cache, *KEPT).code == 0
    settings = [*KEPT, f"run_dir={run_dir}", cache, "train.steps=2"]
    finished = commands.start("train", "--config", tiny.config, *settings, before=refuse_to_fill).wait()
    assert finished.code == 0, finished.stderr


def refuse_to_fill() -> None:
    """Let the training fill nothing but the evidence of its baselines."""
    do_all = filled_folder._do_all

    def refuse(parts: Any, work: Any) -> None:
        assert work.name.split()[0] in {"pairs", "evidence", "counts"}, f"{work.name} again"
        do_all(parts, work)

    filled_folder._do_all = refuse


def test_a_killed_fill_goes_on(commands: ForkedCommands, tiny: Tiny, tmp_path: Path) -> None:
    arguments = ["--config", tiny.config, f"data.cache={tmp_path / 'cache'}", *KEPT]
    first = commands.start("fill", *arguments, before=partial(cut_small, 0.5))
    first.wait_until(lambda: "part 2 of computing states" in first.stderr)
    first.signal(signal.SIGKILL)
    first.wait()
    second = commands.start("fill", *arguments, before=cut_small).wait()
    assert second.code == 0, second.stderr
    assert re.search(r"transrec: resuming \S+/states-\S+: [34] of \d+ parts are finished", second.stderr)
    whole = commands.run("fill", "--config", tiny.config, f"data.cache={tmp_path / 'whole'}", *KEPT)
    assert whole.code == 0, whole.stderr
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


def test_no_room_is_one_sentence(commands: ForkedCommands, tiny: Tiny, small_disk: SmallDisk) -> None:
    small_disk.fill()
    finished = commands.run("fill", "--config", tiny.config, f"data.cache={small_disk.path}", *KEPT)
    assert finished.code == 1
    (message,) = re.findall(r"^error: (.*)$", finished.stderr, re.MULTILINE)
    place = re.escape(str(small_disk.path))
    assert re.match(rf"{place} has [\d,]+ bytes free, but tokens-[0-9a-f]{{24}} needs [\d,]+: make room", message)
    assert "Traceback" not in finished.stderr
    assert [path.name for path in small_disk.path.iterdir()] == ["filler"], "not even a lock"


@pytest.mark.parametrize("value", ["nowhere", "train.steps=0"])
def test_a_wrong_configuration_is_one_sentence(commands: ForkedCommands, tiny: Tiny, value: str) -> None:
    finished = commands.run("fill", "--config", tiny.config, "run_dir=unwritten", value)
    assert finished.code == 1
    assert finished.stderr.startswith("error: ")
    assert "Traceback" not in finished.stderr
