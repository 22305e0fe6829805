"""A run against the loop that PyTorch's documentation would write: no engine, no ranks, no micro-batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ForkedCommands
from plain_loop import plain_loop
from run_folder import exported, losses
from tiny_world import ADAPTATIONS, COMPARABLE, Tiny

from transrec.config import load
from transrec.data.content.item_store import ItemStore
from transrec.data.train_stream import TrainStream
from transrec.experiment import Experiment

TOLERANCE = 1e-5


def experiment(tiny: Tiny, *overrides: str) -> Experiment:
    return load(Experiment, tiny.config, ["run_dir=unused", *COMPARABLE, *overrides])


@pytest.mark.parametrize(
    ("objective", "adaptation"),
    [
        ("next_item", "full"),
        ("next_item", "houlsby"),
        ("cpc", "full"),
        ("full_softmax", "full"),
        ("in_batch_softmax", "full"),
    ],
)
def test_a_run_learns_what_the_plain_loop_learns(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path, objective: str, adaptation: str
) -> None:
    overrides = [f"model.objective.name={objective}", ADAPTATIONS[adaptation]]
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *COMPARABLE, *overrides)
    assert finished.code == 0, finished.stderr
    plain = plain_loop(experiment(tiny, *overrides))
    np.testing.assert_allclose(losses(run_dir), plain.losses, rtol=TOLERANCE)
    trained = exported(run_dir)
    assert trained.keys() >= plain.weights.keys()
    for name, weight in plain.weights.items():
        # On two threads sums are rounded otherwise, which Adam turns into whole updates where a gradient is nearly 0.
        torch.testing.assert_close(trained[name], weight, rtol=1e-4, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_clipping_and_schedule_show_in_the_curve(tiny: Tiny) -> None:
    """Else the comparison above would not notice if one of them were ignored."""
    plain = plain_loop(experiment(tiny))
    assert max(plain.gradient_norms) > 1.5
    for left_out in ("clipping", "schedule"):
        other = plain_loop(experiment(tiny), without={left_out})
        assert not np.allclose(other.losses, plain.losses, rtol=100 * TOLERANCE), left_out


def test_gradients_do_not_depend_on_how_a_step_is_cut(tiny: Tiny) -> None:
    """The windows do not fill their eight steps: of sixteen micro-batches, the empty ones add nothing."""
    run = experiment(tiny)
    examples = run.data.scan(run.model.max_length)
    store = ItemStore(examples.folder, run.model.item_encoder.content(), run.data.cache)
    torch.manual_seed(0)
    model = run.model.build(examples.folder.index.counts.items)
    collate = examples.collation(store, run.model.sampling, run.seed)
    assert len(TrainStream(examples, collate, 16, run.seed)) == 8
    for step in (0, 7):
        gradients = []
        for accumulation in (1, 2, 16):
            batches = TrainStream(examples, collate, 16, run.seed, accumulation=accumulation)[step]
            scored = sum(sum(batch.counts.values()) for batch in batches)
            model.zero_grad()
            for batch in batches:
                (sum(model(batch).values()) / scored).backward()
            gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        assert sum(len(batch.user_ids) for batch in batches) in (14, 15)
        for other in gradients[1:]:
            torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-7)
