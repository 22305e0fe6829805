"""Model patches on NextItNet and SASRec: their formula, where they start, what trains, how large they are."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from transrec import weights
from transrec.adaptation.bottleneck import HoulsbyConfig, PfeifferConfig
from transrec.adaptation.lora import LoRAConfig, merge
from transrec.adaptation.model_patch import ModelPatch, ModelPatchConfig
from transrec.config import ConfigError
from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.models.sequential_recommender import SequentialRecommenderConfig
from transrec.objectives.next_item import FullSoftmaxConfig
from transrec.training.cost import count_parameters
from transrec.user_encoders.gru4rec import GRU4RecConfig
from transrec.user_encoders.nextitnet import NextItNetConfig
from transrec.user_encoders.sasrec import SASRecConfig

L, D, ITEMS = 9, 16, 30


@pytest.fixture(params=[NextItNetConfig(dilations=[1, 4]), SASRecConfig(dropout=0.0)], ids=lambda c: c.name)
def user_encoder(request):
    return request.param


def build(user_encoder, width=D):
    torch.manual_seed(0)
    return SequentialRecommenderConfig(
        width=width,
        max_length=L,
        item_encoder=IdEmbeddingConfig(),
        user_encoder=user_encoder,
        objective=FullSoftmaxConfig(),
    ).build(ITEMS)


def patched(user_encoder, **values):
    model = build(user_encoder)
    torch.manual_seed(1)
    ModelPatchConfig(**values).apply(model)
    return model


def states(model):
    x = torch.randn(4, L, D, generator=torch.Generator().manual_seed(2))
    mask = torch.arange(L) >= torch.tensor([[0], [2], [6], [8]])
    return model.user_encoder(x, mask)[mask]


def patches_of(model):
    return [module for module in model.modules() if isinstance(module, ModelPatch)]


def test_formula():
    torch.manual_seed(0)
    x, y = torch.randn(2, 6), torch.randn(2, 6)

    def change(patch, z):
        hidden = F.gelu(z @ patch.down.weight.T + patch.down.bias, approximate="tanh")
        return hidden @ patch.up.weight.T + patch.up.bias

    def patch(parallel, inner_skip):
        patch = ModelPatch(6, 3, 1.0, parallel, inner_skip)
        for bias in (patch.down.bias, patch.up.bias):
            bias.data.normal_()
        return patch

    serial, parallel, without_skip = patch(False, True), patch(True, True), patch(True, False)
    torch.testing.assert_close(serial(x, y), y + change(serial, y))
    torch.testing.assert_close(parallel(x, y), y + x + change(parallel, x))
    torch.testing.assert_close(without_skip(x, y), y + change(without_skip, x))


def test_a_patched_block_equals_the_computation_by_hand():
    """ReLU(LN(H(DC(x)))), or ReLU(LN(DC(x) + H(x))), for each of the two convolutions."""
    for mode in ("serial", "parallel"):
        block = patched(NextItNetConfig(dilations=[1]), mode=mode, init_std=0.3).user_encoder.blocks[0]
        x = torch.randn(2, L, D)
        plain = copy.deepcopy(block)
        for conv in (plain.conv1, plain.conv2):
            conv.linear._forward_hooks.clear()
        h = x
        for conv, norm in ((plain.conv1, plain.norm1), (plain.conv2, plain.norm2)):
            patch, y = conv.linear.adapter, conv(h)
            h = F.relu(norm(y + h + patch.change(h) if mode == "parallel" else y + patch.change(y)))
        torch.testing.assert_close(block(x, torch.ones(2, L, 1)), x + h)


@pytest.mark.parametrize("patches", [1, 2])
@pytest.mark.parametrize(
    ("choice", "same"),
    [({"mode": "serial"}, True), ({"mode": "parallel"}, False), ({"mode": "parallel", "inner_skip": False}, True)],
    ids=["serial", "parallel", "parallel without skip"],
)
@torch.no_grad()
def test_with_w_up_of_zero_the_pretrained_states_are_there_or_not(user_encoder, choice, same, patches):
    model = patched(user_encoder, patches=patches, **choice)
    assert len(patches_of(model)) == 2 * patches
    for patch in patches_of(model):
        patch.up.weight.zero_()
    assert torch.equal(states(model), states(build(user_encoder))) == same


def test_at_the_start_a_serial_patch_is_near_the_identity(user_encoder):
    plain = states(build(user_encoder))
    drift = (states(patched(user_encoder)) - plain).norm() / plain.norm()
    assert 0 < drift < 0.05


def test_training_moves_patches_and_second_norms_and_no_other_bit_of_the_towers(user_encoder):
    model = patched(user_encoder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        states(model).square().sum().backward()
        optimizer.step()
    after = model.state_dict()
    second = "norm2" if user_encoder.name == "nextitnet" else "ffn_norm"
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".adapter." in name or second in name}
    assert changed == set(weights.trainable_names(model))


def test_norms_may_stay_as_they_are(user_encoder):
    trained = weights.trainable_names(patched(user_encoder, norms="none"))
    assert trained
    assert all(".adapter." in name for name in trained)


def test_what_lies_outside_both_towers_trains(user_encoder):
    model = build(user_encoder)
    model.head = torch.nn.Linear(D, 3)
    ModelPatchConfig().apply(model)
    assert {"head.weight", "head.bias"} <= set(weights.trainable_names(model))


@pytest.mark.parametrize(
    ("patches", "reduction", "parameters", "share"),
    [(1, 4, 33_088, 0.084), (2, 4, 66_176, 0.168), (1, 8, 16_672, 0.042), (2, 8, 33_344, 0.084)],
)
@pytest.mark.parametrize("cardinality", [1, 4])
def test_size_per_block_is_as_the_paper_has_it(patches, reduction, parameters, share, cardinality):
    with torch.device("meta"):
        model = build(NextItNetConfig(), width=256)
        ModelPatchConfig(patches=patches, reduction=reduction, cardinality=cardinality).apply(model)
    counts = count_parameters(model)["towers"]["user"]
    assert counts["adapters"] == 8 * parameters
    assert counts["total"] - counts["adapters"] == 8 * 394_752
    assert parameters / 394_752 == pytest.approx(share, abs=5e-4)


def test_the_default_is_less_than_a_tenth_of_the_convolutions():
    with torch.device("meta"):
        model = build(NextItNetConfig(), width=256)
        ModelPatchConfig().apply(model)
    convolutions = sum(p.numel() for n, p in model.named_parameters() if ".linear.weight" in n)
    assert 0.08 < count_parameters(model)["towers"]["user"]["adapters"] / convolutions < 0.1


def test_parallel_bottlenecks_are_one_bottleneck():
    """The sum of four patches of two units each, biases and all, is a patch of eight."""
    torch.manual_seed(0)
    narrow = [ModelPatch(D, 2, 0.5, False, True) for _ in range(4)]
    wide = ModelPatch(D, 8, 0.5, False, True)
    with torch.no_grad():
        for patch in narrow:
            patch.up.bias.normal_()
        wide.down.weight.copy_(torch.cat([patch.down.weight for patch in narrow]))
        wide.up.weight.copy_(torch.cat([patch.up.weight for patch in narrow], dim=1))
        wide.up.bias.copy_(sum(patch.up.bias for patch in narrow))
    y = torch.randn(3, D)
    torch.testing.assert_close(wide.change(y), sum(patch.change(y) for patch in narrow))


def test_a_serial_patch_keeps_its_skip():
    with pytest.raises(ValidationError, match="replaces the sub-layer's output"):
        ModelPatchConfig(inner_skip=False)


def test_a_recurrent_user_encoder_has_no_place_for_patches():
    with pytest.raises(
        ConfigError, match=r"GRU4Rec, the user tower, has no site 'attention_output': choose among .*none"
    ):
        ModelPatchConfig().apply(build(GRU4RecConfig()))


@pytest.mark.parametrize(
    ("method", "places"),
    [
        (HoulsbyConfig(towers=["user"]), {"conv1", "conv2"}),
        (HoulsbyConfig(towers=["user"], mode="parallel"), {"conv1", "conv2"}),
        (PfeifferConfig(towers=["user"]), {"conv2"}),
        (LoRAConfig(towers=["user"], sites=["conv1", "conv2"]), {"conv1", "conv2"}),
    ],
    ids=["houlsby", "houlsby parallel", "pfeiffer", "lora"],
)
def test_other_methods_find_the_convolutions(method, places):
    model = build(NextItNetConfig(dilations=[1, 4]))
    plain = states(model)
    method.apply(model)
    adapted = {name for name, module in model.named_modules() if hasattr(module, "adapter")}
    assert adapted == {f"user_encoder.blocks.{i}.{place}.linear" for i in (0, 1) for place in places}
    assert (states(model) - plain).norm() < 0.1 * plain.norm()


def test_a_low_rank_change_of_a_convolution_can_be_merged():
    model = build(NextItNetConfig(dilations=[1, 4]))
    LoRAConfig(towers=["user"], sites=["conv2"]).apply(model)
    for name, parameter in model.named_parameters():
        if ".adapter.b." in name:
            torch.nn.init.normal_(parameter)
    expected = states(model)
    assert not torch.allclose(expected, states(build(NextItNetConfig(dilations=[1, 4]))))
    merge(model)
    torch.testing.assert_close(states(model), expected, rtol=1e-4, atol=1e-5)
