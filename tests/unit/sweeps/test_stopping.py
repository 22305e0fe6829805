"""Which run is behind its rivals depends on the metric they are monitored by."""

from dataclasses import dataclass
from unittest.mock import MagicMock

import pytest

from transrec.sweeps.config import Asha, Median
from transrec.sweeps.ray_executor import _stopping

pytest.importorskip("ray.tune")


@dataclass(frozen=True)
class Trial:
    trial_id: str


@pytest.mark.parametrize("rule", [Asha(name="asha", grace=10, factor=2), Median(name="median", grace=10)])
@pytest.mark.parametrize(("monitor", "behind"), [("NDCG@10", 0.1), ("loss", 0.9)])
def test_the_run_that_is_behind_is_stopped(rule: Asha | Median, monitor: str, behind: float) -> None:
    """Four others are at 0.5 when it is judged."""
    scheduler, controller = _stopping(rule, monitor), MagicMock()
    for name in "abcd":
        scheduler.on_trial_add(controller, Trial(name))
        scheduler.on_trial_result(controller, Trial(name), {"step": 10, monitor: 0.5})
    for value, decision in ((behind, "STOP"), (1 - behind, "CONTINUE")):
        trial = Trial(f"at {value}")
        scheduler.on_trial_add(controller, trial)
        assert scheduler.on_trial_result(controller, trial, {"step": 10, monitor: value}) == decision
