"""Nobody waits inside a collective for a fill: it may take longer than the time-out of the process group."""

import json
import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ForkedCommands, Running
from pictured import build_pictured, random_histories, vision_model
from short_time_out import give_up_after
from tiny_world import Tiny

from transrec.data.content import filled_folder, opening
from transrec.files import StorageError

TIME_OUT, FILL = 8.0, 12.0  # seconds
KEPT = ["adaptation={name: head_only}", "model.item_encoder.dropout=0"]


@pytest.fixture
def pictured(tmp_path: Path) -> Path:
    """A configuration whose items are images."""
    shards = build_pictured(tmp_path, 60, range(1, 61), (), random_histories(200, 60))
    vision_model("vit").save_pretrained(tmp_path / "vision")
    values = {
        "data": {"path": str(shards), "workers": 0},
        "model": {
            "width": 16,
            "max_length": 4,
            "item_encoder": {"name": "image", "backbone": str(tmp_path / "vision"), "chunk_images": 8},
            "user_encoder": {"name": "sasrec", "layers": 1},
            "objective": {"name": "next_item"},
        },
        "train": {"steps": 4, "batch_size": 4, "log_every": 1, "evaluate_every": "never"},
        "optimizer": {"lr": {"backbone": 2e-4, "head": 1e-3, "adapter": 2e-3}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return tmp_path / "config.yaml"


def train(commands: ForkedCommands, config: Path, run_dir: Path, slow: Any, *settings: str, ranks: int = 2) -> Running:
    given = [f"run_dir={run_dir}", f"data.cache={run_dir.parent / 'cache'}", "train.steps=4", *settings]
    return commands.start("train", "--config", config, *given, ranks=ranks, before=slow)


def assert_finished(running: Running, run_dir: Path, awaited: str) -> None:
    finished = running.wait()
    assert finished.code == 0, finished.stderr
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == 4
    assert "transrec: waiting for " in finished.stderr
    assert re.search(rf"waiting for .*process \d+ .*to {awaited}", finished.stderr)
    assert "the other ranks have been waiting for" not in finished.stderr, "the watchdog blames nobody"


def test_a_tokenisation_may_take_longer_than_a_collective_waits(
    commands: ForkedCommands, tiny: Tiny, run_dir: Path
) -> None:
    running = train(commands, tiny.config, run_dir, partial(fill_slowly, "tokenising"))
    assert_finished(running, run_dir, "fill .*/tokens-")


def test_a_fill_that_fails_ends_those_who_wait_with_a_sentence(
    commands: ForkedCommands, tiny: Tiny, run_dir: Path
) -> None:
    finished = train(commands, tiny.config, run_dir, fail_to_fill).wait()
    assert finished.code == 1
    assert "error: no room" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.slow
def test_so_may_the_decoding_of_images(commands: ForkedCommands, pictured: Path, run_dir: Path) -> None:
    running = train(commands, pictured, run_dir, partial(fill_slowly, "decoding"))
    assert_finished(running, run_dir, "fill .*/pixels-")


@pytest.mark.slow
def test_so_may_the_states_behind_frozen_layers(commands: ForkedCommands, tiny: Tiny, run_dir: Path) -> None:
    running = train(commands, tiny.config, run_dir, partial(fill_slowly, "computing states"), *KEPT)
    assert_finished(running, run_dir, "fill .*/states-")


@pytest.mark.slow
def test_so_may_the_search_for_bad_samples(commands: ForkedCommands, tiny: Tiny, run_dir: Path) -> None:
    running = train(commands, tiny.config, run_dir, search_slowly, "data.on_bad_sample=skip")
    assert_finished(running, run_dir, "find its unreadable samples")


@pytest.mark.slow
def test_a_run_takes_over_the_fill_of_one_that_is_killed(commands: ForkedCommands, tiny: Tiny, tmp_path: Path) -> None:
    first = train(commands, tiny.config, tmp_path / "first", partial(fill_slowly, "tokenising", 600.0), ranks=1)
    first.wait_until(lambda: bool(list((tmp_path / "cache").glob(".tokens-*.lock"))))
    second = train(commands, tiny.config, tmp_path / "second", partial(fill_slowly, "tokenising"), ranks=2)
    second.wait_until(lambda: f"waiting for process {first.processes[0].pid} on " in second.stderr)
    first.signal(signal.SIGKILL)
    assert_finished(second, tmp_path / "second", "fill .*/tokens-")
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert all(re.fullmatch("[a-z]+-[0-9a-f]{24}", name) for name in kept), "no half, no lock"
    assert {name.split("-")[0] for name in kept} == {"evidence", "states", "tokens"}, "baselines need the first two"


def fill_slowly(kind: str, seconds: float = FILL) -> None:
    """A fill of that kind takes so long, in this process whose collectives give up earlier."""
    give_up_after(TIME_OUT)
    do_all = filled_folder._do_all

    def slow(parts: Any, work: Any) -> None:
        if work.name == kind:
            time.sleep(seconds)
        do_all(parts, work)

    filled_folder._do_all = slow
    filled_folder._help = lambda *_: False  # a set of one part has nothing to help with


def fail_to_fill() -> None:
    def fail(*arguments: Any) -> None:
        time.sleep(1)
        raise StorageError("no room")

    filled_folder._do_all = fail


def search_slowly() -> None:
    give_up_after(TIME_OUT)
    find = opening.find_bad

    def slow(samples: Any, numbers: Any, agree: Any) -> Any:
        if numbers != ():
            time.sleep(FILL)
        return find(samples, numbers, agree)

    opening.find_bad = slow
