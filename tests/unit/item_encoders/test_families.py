"""Everything that the entry of a family promises; a newcomer is tested as soon as its entry is there."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_backbones import SIDE, tiny_config, tiny_inputs, tiny_model, tiny_two_towers
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel

from transrec.config import ConfigError
from transrec.item_encoders import backbones, families, layer_by_layer
from transrec.item_encoders.dropout import rates
from transrec.item_encoders.families import FAMILIES
from transrec.item_encoders.families.family import run_layer
from transrec.item_encoders.pooling import pool

each = pytest.mark.parametrize("model_type", sorted(FAMILIES))
TEXTS = sorted(name for name, kind in FAMILIES.items() if kind.modality == "text")
STACKS = sorted(name for name, kind in FAMILIES.items() if kind.run_layer is run_layer)
MATRICES = ("query", "key", "value", "attention_output", "ffn_output")
NOISE = torch.arange((SIDE / 8) ** 2)  # that leaves the patches of a masked autoencoder in their order


def model_of(model_type: str) -> PreTrainedModel:
    return tiny_model(model_type, **({"mask_ratio": 0.0} if FAMILIES[model_type].masks_patches else {}))


def run(model: PreTrainedModel, keep_all: bool = False) -> Any:
    inputs = tiny_inputs(model.config.model_type)
    states = layer_by_layer.embed(model, inputs)
    return layer_by_layer.run_layers(model, states, inputs.get("attention_mask"), keep_all=keep_all)


def own_forward(model: PreTrainedModel) -> Any:
    masks = FAMILIES[model.config.model_type].masks_patches
    return model(**tiny_inputs(model.config.model_type), **({"noise": NOISE.expand(2, -1)} if masks else {}))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of every family, pretrained so to say."""
    root = tmp_path_factory.mktemp("families")
    for model_type in FAMILIES:
        tiny_model(model_type).save_pretrained(root / model_type)
    return root


def load(folder: Path, model_type: str, **changes: Any) -> PreTrainedModel:
    asked: dict[str, Any] = {"pretrained": True, "layers": None, "dropout": None} | changes
    return backbones.load_backbone(str(folder), FAMILIES[model_type].modality, **asked)


@each
def test_every_path_leads_to_the_right_kind_of_module(model_type: str) -> None:
    model, kind = tiny_model(model_type), FAMILIES[model_type]
    sites, layers = families.site_paths(model), families.layers(model)
    assert len(layers) == families.num_layers(model) == len(families.state_widths(model)) - 1
    for site in sites.keys() & set(MATRICES):
        for path, (layer, *_) in zip(sites[site], layers, strict=True):
            module = model.get_submodule(path)
            assert isinstance(module, nn.Linear)
            assert module in list(layer.modules())
    for paths in sites.values():
        assert all(isinstance(model.get_submodule(path), nn.Module) for path in paths)
    assert ("embeddings" in sites) == (kind.class_token is not None)
    assert all(isinstance(model.get_submodule(path), nn.Module) for path in kind.drops_nothing)


@each
def test_every_parameter_lies_in_a_part_that_a_pass_runs_through(model_type: str) -> None:
    model = tiny_model(model_type)
    of_parts = {p for part in layer_by_layer.stages(model) for module in part for p in module.parameters()}
    assert set(model.parameters()) == of_parts


@each
def test_its_configuration_knows_every_field_that_is_named(model_type: str) -> None:
    kind, config = FAMILIES[model_type], type(tiny_config(model_type))()
    named = [*kind.dropout, *kind.stochastic_depth, *kind.jitter, kind.registers, kind.head and kind.head.width]
    assert kind.dropout
    assert [field for field in named if field is not None and not hasattr(config, field)] == []
    assert hasattr(config, "mask_ratio") == kind.masks_patches


@each
@torch.no_grad()
def test_layer_by_layer_is_bit_for_bit_the_model_s_own_forward(model_type: str) -> None:
    model = model_of(model_type)
    hidden, own = run(model, keep_all=True), own_forward(model).last_hidden_state
    if model_type == "clip_vision_model":  # whose own states come without the norm, which its pooled output has
        own = model.post_layernorm(own)
    assert torch.equal(hidden.states[-1], own)
    assert [states.shape[-1] for states in hidden.states] == families.state_widths(model)


@pytest.mark.parametrize("model_type", STACKS)
@torch.no_grad()
def test_sites_are_the_two_ends_of_the_sub_layers(model_type: str) -> None:
    """All norms of a random model are plain, so that they need no names here; layers normalise before or after."""
    model, seen = model_of(model_type), {}
    norm = next(module for module in families.layers(model)[1][0].modules() if isinstance(module, nn.LayerNorm))

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=norm.eps)

    for site, paths in families.site_paths(model).items():
        for layer, path in enumerate(paths):
            model.get_submodule(path).register_forward_hook(
                lambda _, args, kwargs, y, key=(site, layer): seen.update({key: ([*args, *kwargs.values()][0], y)}),
                with_kwargs=True,
            )
    states = [*run(model, keep_all=True).states[:-1]]
    for layer, (x, after) in enumerate(pairwise(states)):
        attended, fed = seen["attention_output", layer][1], seen["ffn_output", layer][1]
        middle = normalised(x + attended)
        torch.testing.assert_close(seen["ffn_input", layer][0], middle)
        if "ffn_norm" in FAMILIES[model_type].sites:
            torch.testing.assert_close(seen["attention_input", layer][0], x)
            torch.testing.assert_close(normalised(middle + fed), after)
            torch.testing.assert_close(seen["ffn_norm", layer][1], after)
        else:
            normed = x if model_type == "modernbert" and layer == 0 else normalised(x)  # its embeddings end with a norm
            torch.testing.assert_close(seen["attention_input", layer][0], normed)
            torch.testing.assert_close(x + attended + fed, after)


@pytest.mark.parametrize("model_type", TEXTS)
def test_max_tokens_is_the_longest_input_that_there_are_positions_for(model_type: str) -> None:
    model = tiny_model(model_type)
    longest = min(families.max_tokens(model.config), 600)
    tokens = torch.full((1, longest + 1), 5)
    model(tokens[:, :-1], torch.ones_like(tokens[:, :-1]))
    if any("position" in name for name, _ in model.named_parameters()):  # not those that rotate
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            model(tokens, torch.ones_like(tokens))


@each
def test_gradient_checkpointing_recomputes_and_changes_nothing(model_type: str) -> None:
    def gradients(checkpointing: bool) -> tuple[int, dict[str, Any]]:
        model = model_of(model_type).train()
        if checkpointing:
            layer_by_layer.enable_gradient_checkpointing(model)
        calls: list[int] = []
        dense = model.get_submodule(families.site_paths(model)["attention_output"][0])
        dense.register_forward_hook(lambda *_: calls.append(1))
        torch.manual_seed(3)  # dropout is on: the recomputation has to draw the same masks
        run(model).states[-1].square().sum().backward()
        return len(calls), {name: p.grad for name, p in model.named_parameters()}

    (once, plain), (twice, recomputed) = gradients(False), gradients(True)
    assert (once, twice) == (1, 2)
    torch.testing.assert_close(recomputed, plain)


@each
@pytest.mark.parametrize("head", [True, False])
def test_weights_are_those_of_the_folder_and_are_written_whole_again(
    folders: Path, tmp_path: Path, model_type: str, head: bool
) -> None:
    theirs, ours = tiny_model(model_type).state_dict(), load(folders / model_type, model_type, head=head)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.state_dict().items())
    kept = FAMILIES[model_type].head is None or head
    assert (theirs.keys() == ours.state_dict().keys()) == kept
    backbones.save_whole(ours, tmp_path / "whole")
    loader = transformers.SiglipTextModel if model_type == "siglip_text_model" else AutoModel
    again, info = loader.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in ours.state_dict().items())


@each
def test_the_first_layers_alone_give_the_states_behind_them(folders: Path, tmp_path: Path, model_type: str) -> None:
    if FAMILIES[model_type].cut is None:
        with pytest.raises(ConfigError, match="cannot be cut"):
            load(folders / model_type, model_type, layers=1)
        return
    shallow, whole = (load(folders / model_type, model_type, layers=layers).eval() for layers in (2, None))
    assert families.num_layers(shallow) == 2
    for model in (shallow, whole):
        model.config.update({"mask_ratio": 0.0} if FAMILIES[model_type].masks_patches else {})
    kept, states = run(shallow, keep_all=True).states, run(whole, keep_all=True).states
    assert all(torch.equal(one, other) for one, other in zip(kept[:2], states[:2], strict=True))
    backbones.save_whole(shallow, tmp_path)
    assert families.num_layers(load(tmp_path, model_type)) == 2


@each
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_dropout_is_what_was_asked_for(tmp_path: Path, model_type: str, rate: float) -> None:
    kind = FAMILIES[model_type]
    own = dict.fromkeys(kind.dropout, 0.3) | dict.fromkeys(kind.stochastic_depth, 0.4) | dict.fromkeys(kind.jitter, 1.5)
    tiny_config(model_type, **own).save_pretrained(tmp_path)
    plain, model = (load(tmp_path, model_type, pretrained=False, head=True, dropout=asked) for asked in (None, rate))
    assert 0.3 in rates(plain).values()
    built = {name: value for name, value in rates(model).items() if not name.startswith((*kind.drops_nothing, "-"))}
    assert set(built.values()) <= {rate}
    assert rate == 0 or built
    assert [getattr(model.config, field) for field in kind.jitter] == [None] * len(kind.jitter)


@each
def test_a_dropout_that_cannot_be_applied_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    kind = FAMILIES[model_type]
    tiny_config(model_type, **dict.fromkeys(kind.dropout, 0.1)).save_pretrained(tmp_path)
    for forgotten in kind.dropout:
        other = tuple("a_field_that_nobody_reads" if field == forgotten else field for field in kind.dropout)
        monkeypatch.setitem(FAMILIES, model_type, replace(kind, dropout=other))
        with pytest.raises(ConfigError, match=r"`dropout` is 0\.2, but the rate of .*(drop|\.p).* is 0\.1"):
            load(tmp_path, model_type, pretrained=False, dropout=0.2)


@pytest.mark.parametrize("model_type", [name for name, kind in FAMILIES.items() if kind.stochastic_depth])
def test_stochastic_depth_that_stays_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    tiny_config(model_type, drop_path_rate=0.4).save_pretrained(tmp_path)
    monkeypatch.setitem(FAMILIES, model_type, replace(FAMILIES[model_type], stochastic_depth=()))
    with pytest.raises(ConfigError, match=r"drop_path\.drop_prob in this .* is 0\.\d"):
        load(tmp_path, model_type, pretrained=False, dropout=0.0)


@pytest.mark.parametrize("model_type", sorted(families.TWO_TOWERS))
@pytest.mark.parametrize("modality", ["text", "image"])
def test_of_two_towers_the_one_asked_for_is_loaded(tmp_path: Path, model_type: str, modality: Any) -> None:
    both = tiny_two_towers(model_type)
    both.save_pretrained(tmp_path)
    tower = both.text_model if modality == "text" else both.vision_model
    for pretrained in (True, False):
        model = backbones.load_backbone(
            str(tmp_path), modality, pretrained=pretrained, layers=None, dropout=0.0, head=True
        )
        assert type(model) is type(tower)
        assert model.state_dict().keys() == tower.state_dict().keys()
        alike = all(torch.equal(value, tower.state_dict()[name]) for name, value in model.state_dict().items())
        assert alike == pretrained


@each
@torch.no_grad()
def test_what_is_pooled_is_what_the_family_pools(model_type: str) -> None:
    model, kind = model_of(model_type), FAMILIES[model_type]
    hidden = run(model)
    own = own_forward(model)
    pooling: Any = "cls" if kind.head is None else "head"
    if "pooler_output" not in own or (kind.class_token is None and kind.head is None):
        pytest.skip("it has no output of its own for a whole text or image")
    assert torch.equal(pool(model, pooling, hidden.states[-1], hidden.mask), own.pooler_output)


@torch.no_grad()
def test_register_tokens_are_no_patches_and_prompts_are() -> None:
    model = model_of("dinov3_vit")
    states = run(model).states[-1]
    torch.testing.assert_close(pool(model, "mean", states, None), states[:, 3:].mean(1))
    prompted = torch.cat([states[:, :1], torch.full((2, 5, 32), 7.0), states[:, 1:]], dim=1)
    expected = torch.cat([prompted[:, 1:6], states[:, 3:]], dim=1).mean(1)
    torch.testing.assert_close(pool(model, "mean", prompted, None), expected)


def test_rotary_positions_are_those_of_the_size_that_is_read() -> None:
    model, pixels = model_of("dinov3_vit"), torch.randn(2, 3, 24, 24)
    with pytest.raises(ValueError, match=r"\(24, 24\) where the configuration has 16"):
        layer_by_layer.embed(model, {"pixel_values": pixels})
    backbones.set_image_size(model, 24)
    states = layer_by_layer.run_layers(model, layer_by_layer.embed(model, {"pixel_values": pixels}), None).states[-1]
    assert torch.equal(states, model(pixels).last_hidden_state)
