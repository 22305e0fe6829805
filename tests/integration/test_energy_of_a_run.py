"""The energy of a run, in its summary, its tables and its card, if the machine counts it."""

import json
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from commands import Finished, ForkedCommands
from tiny_world import Tiny

from transrec.training import energy
from transrec.training.energy import Counter, CounterError


def one_package(microjoules: int) -> None:
    """From now on in this process, there is one package, which counts `microjoules` with each reading; 0: none."""
    readings = count(step=microjoules)

    def packages(powercap: Path) -> list[Counter]:
        if not microjoules:
            raise CounterError("not counted here")
        return [Counter(readings.__next__)]

    energy.packages = packages


def train(
    commands: ForkedCommands, tiny: Tiny, run_dir: Path, steps: int, microjoules: int, ranks: int = 1
) -> Finished:
    arguments = ["--config", tiny.config, f"run_dir={run_dir}", f"train.steps={steps}"]
    before = partial(one_package, microjoules)
    finished = commands.start("train", *arguments, ranks=ranks, before=before).wait()
    assert finished.code == 0, finished.stderr
    return finished


def summary(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "summary.json").read_text("utf-8"))
    return found


def test_what_is_counted_is_shown_and_kept(commands: ForkedCommands, tiny: Tiny, run_dir: Path) -> None:
    printed = train(commands, tiny, run_dir, steps=2, microjoules=500_000_000).stdout
    joules = summary(run_dir)["energy_joules"]
    assert joules.keys() == {"cpu"}
    assert joules["cpu"] >= 500
    shown = f"{joules['cpu'] / 1e3:,.1f} kJ of CPUs"
    assert shown in printed
    assert f"| energy of training | {shown} |" in (run_dir / "export" / "README.md").read_text("utf-8")
    train(commands, tiny, run_dir, steps=4, microjoules=500_000_000)
    assert summary(run_dir)["energy_joules"]["cpu"] > joules["cpu"], "the steps of both"
    train(commands, tiny, run_dir, steps=6, microjoules=0)
    assert "energy_joules" not in summary(run_dir), "that of its last steps is not known"


def test_nothing_is_shown_where_nothing_is_counted(commands: ForkedCommands, tiny: Tiny, run_dir: Path) -> None:
    printed = train(commands, tiny, run_dir, steps=2, microjoules=0).stdout
    assert "energy" not in printed
    assert "energy_joules" not in summary(run_dir)
    assert "energy" not in (run_dir / "export" / "README.md").read_text("utf-8")


def test_two_ranks_of_a_node_count_its_cpus_once(commands: ForkedCommands, tiny: Tiny, tmp_path: Path) -> None:
    """The fake package counts with each reading, and each rank reads equally often."""
    for ranks in (1, 2):
        train(commands, tiny, tmp_path / str(ranks), steps=2, microjoules=1_000_000, ranks=ranks)
    one, two = (summary(tmp_path / name)["energy_joules"]["cpu"] for name in ("1", "2"))
    assert one == two > 0
