import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from transrec.config import ConfigError, validate
from transrec.protocols import Adapter, Model, Tower, TowerEncoder
from transrec.training.optim import LearningRates, OptimizerConfig, build_optimizer, schedule_factor, set_learning_rates

SCHEDULES = ["constant", "linear", "cosine"]
RATES = LearningRates(backbone=1e-5, head=1e-3, adapter=1e-2)


class Two(Adapter):
    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = nn.Linear(4, 4), nn.Linear(4, 4)


class Encoder(TowerEncoder):
    pretrained = ("backbone",)


class Tiny(Model):
    """One matrix and one vector in every group."""

    def __init__(self) -> None:
        super().__init__()
        self.item_encoder = Encoder()
        self.item_encoder.backbone = nn.Module()
        self.item_encoder.backbone.linear = nn.Linear(4, 4)
        self.item_encoder.backbone.linear.adapter = Two()
        self.item_encoder.backbone.norm = nn.LayerNorm(4)
        self.item_encoder.projection = nn.Linear(4, 4)
        self.user_encoder = nn.Module()
        self.user_encoder.norm = nn.LayerNorm(4)

    def towers(self) -> dict[str, Tower]:
        return {"item": Tower("item_encoder", self.item_encoder, "item", "text")}

    @property
    def rates(self) -> dict[nn.Parameter, float]:
        adapter = self.item_encoder.backbone.linear.adapter
        return dict.fromkeys(adapter.outer.parameters(), 2e-2) | dict.fromkeys(adapter.inner.parameters(), 3e-2)


def rate_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> tuple[str, float]:
    [group] = [g for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return group["name"], group["lr"]


def build(config: OptimizerConfig, model: Tiny) -> torch.optim.Optimizer:
    return build_optimizer(config, model, model.rates, offload=False)


def test_schedules_by_hand() -> None:
    def factors(schedule: str, warmup: float, steps: int) -> list[float]:
        config = OptimizerConfig(schedule=schedule, warmup=warmup)
        return [schedule_factor(config, step, steps) for step in range(steps)]

    assert factors("constant", 0.0, 3) == [1, 1, 1]
    assert factors("constant", 0.4, 5) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    assert factors("linear", 0.0, 4) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert factors("linear", 0.2, 10) == pytest.approx([1 / 3, 2 / 3, *[1 - k / 8 for k in range(8)]])
    assert factors("cosine", 0.0, 4) == pytest.approx([1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])


@given(st.sampled_from(SCHEDULES), st.floats(0, 0.99), st.integers(1, 300))
def test_a_schedule_rises_to_the_peak_then_never_rises(schedule: str, warmup: float, steps: int) -> None:
    config = OptimizerConfig(schedule=schedule, warmup=warmup)
    factors = [schedule_factor(config, step, steps) for step in range(steps)]
    warm = round(warmup * steps)
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warm] == sorted(set(factors[:warm]))
    assert factors[warm:] == sorted(factors[warm:], reverse=True)
    if warm < steps:
        assert factors[warm] == 1


@pytest.mark.parametrize(
    ("layer_norm", "backbone_norm", "user_norm"),
    [(None, ("backbone", 1e-5), ("head", 1e-3)), (0.5, ("layer_norm", 0.5), ("layer_norm", 0.5))],
)
def test_every_group_has_its_own_rate(
    layer_norm: float | None, backbone_norm: tuple[str, float], user_norm: tuple[str, float]
) -> None:
    model = Tiny()
    lr = RATES.model_copy(update={"layer_norm": layer_norm})
    optimizer = build(OptimizerConfig(lr=lr), model)
    backbone = model.item_encoder.backbone
    assert rate_of(optimizer, backbone.linear.weight) == ("backbone", 1e-5)
    assert rate_of(optimizer, backbone.linear.adapter.outer.weight) == ("adapter", 1e-2)
    assert rate_of(optimizer, model.item_encoder.projection.weight) == ("head", 1e-3)
    assert rate_of(optimizer, backbone.norm.weight) == backbone_norm
    assert rate_of(optimizer, model.user_encoder.norm.bias) == user_norm


def test_adapters_learn_at_their_own_rates_unless_one_is_configured() -> None:
    model = Tiny()
    adapter = model.item_encoder.backbone.linear.adapter
    outer, inner = adapter.outer, adapter.inner
    own = build(OptimizerConfig(), model)
    assert rate_of(own, outer.weight) == ("adapter_0.02", 2e-2)
    assert rate_of(own, inner.bias) == ("adapter_0.03", 3e-2)
    configured = build(OptimizerConfig(lr=LearningRates(adapter=5e-4)), model)
    assert {rate_of(configured, p) for p in (outer.weight, inner.bias)} == {("adapter", 5e-4)}


def test_every_trainable_parameter_once_and_no_frozen_one() -> None:
    model = Tiny()
    model.item_encoder.backbone.linear.weight.requires_grad_(False)
    taken = [id(p) for group in build(OptimizerConfig(), model).param_groups for p in group["params"]]
    trainable = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(taken) == sorted(trainable)


def test_matrices_decay_and_vectors_do_not() -> None:
    for group in build(OptimizerConfig(weight_decay=0.3), Tiny()).param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0)


def test_decay_shrinks_a_matrix_without_a_gradient_of_its_own() -> None:
    """Decoupled (AdamW): by lr · decay of itself, and nothing else."""
    model = Tiny()
    weight = model.item_encoder.projection.weight
    before = weight.detach().clone()
    optimizer = build(OptimizerConfig(weight_decay=0.1, lr=RATES), model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), before * (1 - 1e-3 * 0.1))


def test_betas_reach_the_optimizer() -> None:
    optimizer = build(OptimizerConfig(betas=(0.5, 0.6)), Tiny())
    assert {group["betas"] for group in optimizer.param_groups} == {(0.5, 0.6)}


def test_a_model_without_a_trainable_parameter_is_a_readable_error() -> None:
    with pytest.raises(ConfigError, match="nothing is trainable"):
        build(OptimizerConfig(), Tiny().requires_grad_(False))


def test_rates_are_scaled_from_their_peak_not_from_each_other() -> None:
    optimizer = build(OptimizerConfig(lr=RATES), Tiny())
    set_learning_rates(optimizer.param_groups, 0.1)
    in_force = set_learning_rates(optimizer.param_groups, 0.5)
    assert in_force == pytest.approx({"adapter": 5e-3, "backbone": 5e-6, "head": 5e-4})
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == in_force


@pytest.mark.parametrize("value", [{"warmup": 1.0}, {"warmup": -0.1}, {"schedule": "step"}])
def test_values_out_of_range_are_refused(value: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(value))):
        validate(OptimizerConfig, value)


@pytest.mark.parametrize("value", [{"weight_decay": -1.0}, {"lr": {"head": -1.0}}, {"betas": [0.9, 1.5]}])
def test_values_that_torch_would_refuse_are_refused(value: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(value))):
        validate(OptimizerConfig, value)
