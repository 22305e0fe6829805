from typing import Any

import pytest

import transrec.training.engine
from transrec.config import ConfigError
from transrec.training.engine import _SET_BY, ZeroConfig, check_extra, deepspeed_config


class Device:
    def __init__(self, fp16: bool) -> None:
        self.fp16 = fp16

    def is_fp16_supported(self) -> bool:
        return self.fp16


def make(zero: ZeroConfig = ZeroConfig(), precision: Any = "fp32", **extra: Any) -> dict[str, Any]:  # noqa: B008 (immutable)
    return deepspeed_config(zero, precision, 8, 2, 1.5, extra)


def test_every_default_that_matters_is_written_out() -> None:
    assert make() == {
        "train_micro_batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.5,
        "zero_optimization": {"stage": 0},
        "zero_allow_untested_optimizer": False,
        "steps_per_print": 10**12,
        "wall_clock_breakdown": False,
    }


def test_clipping_is_written_where_it_is_off_too() -> None:
    """DeepSpeed clips at 1.0 where the key is missing."""
    assert deepspeed_config(ZeroConfig(), "fp32", 1, 1, 0.0, {})["gradient_clipping"] == 0.0


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("fp32", {}),
        ("bf16", {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}),
        ("bf16_weights", {"bf16": {"enabled": True}}),
        ("fp16", {"fp16": {"enabled": True, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2}}),
    ],
)
def test_bf16_is_autocast_and_16_bit_weights_are_deepspeeds_own_modes(
    precision: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transrec.training.engine, "get_accelerator", lambda: Device(fp16=True))
    written = make(precision=precision)
    assert {key: written[key] for key in ("torch_autocast", "bf16", "fp16", "amp") if key in written} == expected


def test_fp16_on_a_device_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transrec.training.engine, "get_accelerator", lambda: Device(fp16=False))
    with pytest.raises(ConfigError, match=r"train\.precision=fp16.*use bf16 or fp32"):
        make(precision="fp16")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_goes_into_zero_optimization(stage: Any) -> None:
    offload = {"device": "cpu", "pin_memory": True}
    zero = ZeroConfig(stage=stage, offload_optimizer=True, offload_parameters=stage == 3)
    expected = {"stage": stage, "offload_optimizer": offload} | ({"offload_param": offload} if stage == 3 else {})
    assert make(zero)["zero_optimization"] == expected


@pytest.mark.parametrize(
    ("zero", "message"),
    [
        (ZeroConfig(stage=0, offload_optimizer=True), "`zero.offload_optimizer` needs `zero.stage` 1, 2 or 3"),
        (ZeroConfig(stage=0, offload_parameters=True), "`zero.offload_parameters` needs `zero.stage=3`"),
        (ZeroConfig(stage=2, offload_parameters=True), "`zero.offload_parameters` needs `zero.stage=3`"),
    ],
)
def test_an_offload_that_the_stage_does_not_have_is_refused(zero: ZeroConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(zero)


@pytest.mark.parametrize("key", sorted(_SET_BY))
def test_a_key_that_a_typed_field_sets_is_refused_and_the_field_named(key: str) -> None:
    extra: dict[str, Any] = {key: 1}
    if "." in key:
        parent, child = key.split(".")
        extra = {parent: {child: 1}}
    with pytest.raises(ConfigError) as raised:
        make(**extra)
    assert f"`deepspeed.{key}` is set by `{_SET_BY[key]}`" in str(raised.value)


def test_every_key_that_is_written_is_refused_from_outside() -> None:
    zero = ZeroConfig(stage=3, offload_optimizer=True, offload_parameters=True)
    settings = make(zero, "bf16")
    ours = set(settings) - {"zero_optimization"} | {f"zero_optimization.{key}" for key in settings["zero_optimization"]}
    assert ours <= set(_SET_BY)


def test_other_keys_pass_through_beside_ours() -> None:
    settings = make(ZeroConfig(stage=2), comms_logger={"enabled": True}, zero_optimization={"overlap_comm": False})
    assert settings["comms_logger"] == {"enabled": True}
    assert settings["zero_optimization"] == {"stage": 2, "overlap_comm": False}
    assert settings["gradient_clipping"] == 1.5


def test_zero_optimization_that_is_no_mapping_is_a_readable_error() -> None:
    with pytest.raises(ConfigError, match="zero_optimization"):
        make(zero_optimization=2)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"prescale_gradients": True},
        {"zero_optimization": {"overlap_comm": False, "stage3_prefetch_bucket_size": 1000}},
        {"activation_checkpointing": {"partition_activations": True}},
        {"flops_profiler": {"enabled": True, "profile_step": 3}},
        {"comms_logger": {"enabled": True}},
        {"aio": {"block_size": 3}},
        {"tensorboard": {"enabled": False}},
        {"communication_data_type": "fp16"},
    ],
)
def test_settings_that_deepspeed_knows_are_accepted(extra: dict[str, Any]) -> None:
    for stage in (0, 3):
        check_extra(extra, stage)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"prescale_gradient": True},
            "`deepspeed.prescale_gradient`: DeepSpeed has no such key; did you mean `deepspeed.prescale_gradients`?",
        ),
        ({"overlap_comm": True}, "`deepspeed.overlap_comm`: DeepSpeed has no such key"),
        (
            {"zero_optimization": {"overlap_com": True}},
            "`deepspeed.zero_optimization.overlap_com`: DeepSpeed has no such",
        ),
        ({"zero_optimization": {"reduce_bucket_size": -1}}, "`deepspeed.zero_optimization.reduce_bucket_size`: Input"),
        ({"comms_logger": {"enabledd": True}}, "`deepspeed.comms_logger.enabledd`: DeepSpeed has no such key"),
        ({"tensorboard": {"enabl": True}}, "`deepspeed.tensorboard.enabl`: DeepSpeed has no such key"),
        (
            {"activation_checkpointing": {"partition_activation": True}},
            "did you mean `deepspeed.activation_checkpointing.partition_activations`?",
        ),
        ({"aio": {"blok_size": 3}}, "`deepspeed.aio.blok_size`: DeepSpeed has no such key"),
        ({"flops_profiler": 3}, "`deepspeed.flops_profiler`: DeepSpeed refuses it"),
        ({"communication_data_type": "fp1"}, "`deepspeed.communication_data_type`: DeepSpeed refuses it"),
        ({"bfloat16": {"enabled": True}}, "`deepspeed.bfloat16` is set by `train.precision`"),
    ],
)
def test_settings_that_deepspeed_does_not_know_are_named(extra: dict[str, Any], message: str) -> None:
    """It ignores an unknown top-level key, and answers a nested one with a traceback."""
    with pytest.raises(ConfigError) as raised:
        check_extra(extra, 0)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="gradient_allreduce_op='sum' is not supported with ZeRO stage 3"):
        check_extra({"gradient_allreduce_op": "sum"}, 3)
