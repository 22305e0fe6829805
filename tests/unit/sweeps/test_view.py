"""Progress of a running sweep: the time left, and the best run so far."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from transrec.sweeps.view import View


@pytest.fixture
def driver() -> Any:
    """A pretraining and three adaptations, one of which was there before."""
    unfinished = SimpleNamespace(run_dir=Path("nowhere"))
    names = {"pretraining": "p", "adaptation": "abc"}
    runs = {stage: [SimpleNamespace(hash=name, experiment=unfinished) for name in names[stage]] for stage in names}
    states = {name: SimpleNamespace(status="pending") for name in "pabc"}
    states["a"].status = "done"
    return SimpleNamespace(plan=SimpleNamespace(of=runs.get), states=states, sweep=SimpleNamespace(name="s"))


def test_what_is_left_is_told_by_the_pace_of_its_stage(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(minutes=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: 60 * clock.minutes)
    view = View(driver, Console())
    assert view.table().caption == "0.0 min"
    for clock.minutes, name, said in [
        (40, "p", "40.0 min"),
        (42, "b", "42.0 min, about 2 min left for adaptations"),
        (44, "c", "44.0 min"),
    ]:
        driver.states[name].status = "done"
        assert view.table().caption == said


@pytest.mark.parametrize(("monitor", "best"), [("HR@10", "HR@10 0.9000  lr=2"), ("loss", "loss 0.1000  lr=1")])
def test_the_best_run_is_the_best_by_its_monitor(driver: Any, tmp_path: Path, monitor: str, best: str) -> None:
    runs = []
    for name, value in (("a", 0.1), ("b", 0.9)):
        (tmp_path / name).mkdir()
        summary = {"valid": {monitor: value}, "test": {monitor: 1 - value}}
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
        experiment = SimpleNamespace(run_dir=tmp_path / name, train=SimpleNamespace(monitor=monitor))
        runs.append(SimpleNamespace(hash=name, experiment=experiment))
    driver.plan.trials = [SimpleNamespace(run=n, source=None, axes={"lr": i}) for i, n in enumerate("ab", start=1)]
    assert View(driver, Console())._best(runs) == best  # type: ignore[arg-type]
