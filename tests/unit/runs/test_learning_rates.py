"""The line about learning rates at the start of a training."""

import pytest

from transrec.adaptation import AdaptationConfig
from transrec.config import validate
from transrec.experiment import Experiment
from transrec.runs.learning_rates import told


def adaptation(value: object) -> AdaptationConfig:
    model = {
        "item_encoder": {"name": "id_embedding"},
        "user_encoder": {"name": "sasrec"},
        "objective": {"name": "in_batch_softmax"},
    }
    values = {"run_dir": "runs/x", "data": {"path": "shards"}, "model": model, "adaptation": value}
    return validate(Experiment, values).adaptation


@pytest.mark.parametrize(
    ("method", "rates", "line"),
    [
        ({"name": "full"}, {"backbone": 5e-5, "head": 1e-4}, "learning rates: backbone 5e-5, head 1e-4"),
        ({"name": "houlsby"}, {"adapter_0.00015": 1.5e-4}, "learning rates: houlsby 1.5e-4"),
        ({"name": "lora"}, {"adapter": 0.03, "head": 2e-3}, "learning rates: lora 0.03, head 2e-3"),
        (
            {"name": "k_adapter"},
            {"adapter_5e-06": 5e-6, "adapter_1e-05": 1e-5},
            "learning rates: k_adapter 5e-6 and 1e-5",
        ),
        (
            [{"name": "lora"}, {"name": "layer_norm"}, {"name": "prompt"}],
            {"adapter_0.001": 1e-3, "adapter_5e-05": 5e-5, "layer_norm": 0.0},
            "learning rates: lora and prompt 1e-3 and 5e-5, layer_norm 0",
        ),
    ],
)
def test_every_group_has_its_rate_and_adapters_have_their_methods(
    method: object, rates: dict[str, float], line: str
) -> None:
    assert told(adaptation(method), rates) == line
