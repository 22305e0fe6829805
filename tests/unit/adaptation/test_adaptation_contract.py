"""What every adaptation method of the Union has to do; a newcomer is tested as soon as its line is added."""

import copy

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from transrec import weights
from transrec.adaptation import AdaptationConfig, CombinedConfig
from transrec.adaptation.bottleneck import HoulsbyConfig, PfeifferConfig
from transrec.adaptation.lora import LoRAConfig
from transrec.adaptation.prompt import PromptConfig
from transrec.adaptation.selective import LayerNormConfig
from transrec.config import ConfigError, config_classes
from transrec.item_encoders.families import FAMILIES
from transrec.nn.parameter_groups import members

MEMBERS = [c for c in config_classes(AdaptationConfig) if "name" in c.model_fields and c is not CombinedConfig]
CHOICES = {"also_train": ["layer_norm"], "variant": "released", "mode": "parallel", "inter_modal": True}
ENCODERS = [*FAMILIES, "multimodal"]
SELECTING = {"full", "head_only", "frozen_backbone", "layer_norm", "bitfit", "last_layers"}
EXACT = SELECTING | {"lora", "ia3", "k_adapter", "combined"}


def variants(member):
    """The method as it is, and with each of its choices."""
    yield member.model_fields["name"].default, member()
    for field, value in CHOICES.items():
        try:
            chosen = member.model_validate({field: value})
        except ValidationError:
            continue
        yield f"{chosen.name}-{_said(field, value)}", chosen


def _said(field, value):
    if value is True:
        return field
    return value if isinstance(value, str) else "-".join(value)


CONFIGS = dict(pair for member in MEMBERS for pair in variants(member))
CONFIGS["houlsby-parallel-released"] = HoulsbyConfig(mode="parallel", variant="released")
CONFIGS["combined"] = CombinedConfig(methods=[LoRAConfig(), LayerNormConfig()])


def asked(method):
    """The sites of an item encoder that a method needs."""
    if isinstance(method, CombinedConfig):
        return set().union(*map(asked, method.methods))
    if "item" not in getattr(method, "towers", ["item"]):
        return set()
    if isinstance(method, PromptConfig):
        return {"embeddings"}
    if isinstance(method, PfeifferConfig) and method.variant == "released":
        return {"ffn_norm"}
    return set(getattr(method, "sites", []))


def offered(encoder):
    """The sites of an item encoder, as the table of families has them."""
    if encoder == "multimodal":
        return offered("bert") & offered("vit")
    return {*FAMILIES[encoder].sites} | ({"embeddings"} if FAMILIES[encoder].class_token else set())


# Variants of a method are tried in one family of each kind: norms behind or before a sub-layer, layers unlike in width.
VARIED = ["bert", "vit", "swin", "multimodal"]
NOWHERE = {
    (key, encoder)
    for key, method in CONFIGS.items()
    for encoder in ENCODERS
    if not asked(method) <= offered(encoder) or (key == "side_network-inter_modal" and encoder != "multimodal")
}
# And the released variants. In parallel, the noise is of the size of a sub-layer's input; beside one that is normalised
# first, which leaves no norm at the end of a layer, the output of a random sub-layer is small.
NO_PROMISE = {(m, e) for m in ("prompt", "model_patch-parallel") for e in ENCODERS} | {
    (f"{m}-parallel", e) for m in ("houlsby", "pfeiffer") for e in ENCODERS if "ffn_norm" not in offered(e)
}
PLACES = [
    (key, family)
    for family in ENCODERS
    for key in CONFIGS
    if (key, family) not in NOWHERE
    and (family == "bert" or not key.endswith("-layer_norm"))
    and (family in VARIED or "-" not in key)
]
each = pytest.mark.parametrize(("key", "family"), PLACES)


@pytest.fixture
def adapted(build, key, family):
    def adapted(dropout=0.0, moved=False):
        model = build(family, dropout)
        CONFIGS[key].apply(model)
        if moved:  # away from the zeros that some begin with
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.05 * torch.randn_like(parameter))
        return model

    return adapted


@each
def test_base_parameters_keep_their_names_and_values(adapted, build, family):
    before, model = build(family).state_dict(), adapted()
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(".adapter." in name for name in after.keys() - before.keys())


@each
def test_exactly_what_the_method_says_trains(adapted, key):
    model = adapted()
    trains = CONFIGS[key].selection(model)
    for member in members(model):
        assert member.parameter.requires_grad == trains(member), member.name


@each
def test_what_is_trainable_gets_gradients_and_nothing_else_does(adapted, run):
    model = adapted()
    with torch.no_grad():  # away from zeros, frozen ones too
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    items, users = run(model)
    (users @ items.T).square().sum().backward()
    trainable = set(weights.trainable_names(model))
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trainable
    assert with_gradient <= trainable
    without = trainable - with_gradient
    # Keys' biases cancel in the softmax, and nothing is masked.
    assert {n for n in without if not n.endswith(("key.bias", "k_proj.bias", "k_lin.bias", "mask_token"))} == set()


@each
@torch.no_grad()  # attention is another kernel with gradients
def test_starts_where_it_promises(adapted, build, family, run, key):
    if "released" in key or (key, family) in NO_PROMISE:
        pytest.skip("nothing is promised")
    untouched = "item" if getattr(CONFIGS[key], "towers", None) == ["user"] else None
    for tower, ours, plain in zip(("item", "user"), run(adapted()), run(build(family)), strict=True):
        drift = (ours - plain).norm() / plain.norm()
        if CONFIGS[key].name in EXACT or tower == untouched:
            assert drift == 0
        else:
            assert drift < 0.05
            assert drift > 0 or key == "compacter"  # its first output is so small that rounding may swallow it


@each
def test_gradient_checkpointing_changes_no_gradient(adapted, run):
    def gradients(checkpointing):
        model = adapted(dropout=0.2)
        model.train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        torch.manual_seed(3)
        items, users = run(model)
        (users @ items.T).square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    torch.testing.assert_close(gradients(True), gradients(False))


@each
def test_a_deep_copy_works_on_its_own(adapted, run):
    model = adapted(moved=True).eval()
    expected = run(model)
    twin = copy.deepcopy(model)
    assert weights.trainable_names(twin) == weights.trainable_names(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for ours, theirs in zip(run(twin), expected, strict=True):
        assert torch.equal(ours, theirs)


@each
def test_an_export_loads_into_the_same_model_built_anew(adapted, run, tmp_path, key):
    trained, fresh = adapted(moved=True).eval(), adapted().eval()
    base = weights.base_hash(trained) if key != "full" else None
    weights.export(tmp_path, trained, {"adaptation": CONFIGS[key].model_dump(mode="json")}, base, write_files=True)
    (file,) = tmp_path.glob("*.safetensors")
    assert set(weights.read(file)) == set(weights.trainable_names(trained) if base else weights.names(trained))
    weights.load_export(tmp_path, fresh)
    for ours, theirs in zip(run(fresh), run(trained), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("key", "family"), sorted(NOWHERE))
def test_a_method_without_a_place_in_a_backbone_says_so(build, key, family):
    no_site = r"item tower, has no site '(embeddings|ffn_norm|query|key)': choose among .*ffn_output"
    with pytest.raises(ConfigError, match=f"{no_site}|need an item encoder that reads text and image"):
        CONFIGS[key].apply(build(family))


def test_a_list_is_a_combination_and_stays_one_when_written_down():
    adapter = TypeAdapter(AdaptationConfig)
    listed = adapter.validate_python([{"name": "lora"}, {"name": "layer_norm", "towers": ["item"]}])
    assert listed == CombinedConfig(methods=[LoRAConfig(), LayerNormConfig(towers=["item"])])
    assert adapter.validate_python(listed.model_dump(mode="json")) == listed


def test_two_adapters_at_one_site_are_an_error_that_names_both(build):
    methods = TypeAdapter(AdaptationConfig).validate_python([{"name": "ia3"}, {"name": "lora"}])
    with pytest.raises(
        ConfigError, match=r"item\.value\[0\] already has an adapter, Scale: .* another site for LowRank"
    ):
        methods.apply(build())


@pytest.mark.parametrize("key", ["houlsby", "k_adapter", "prompt", "side_network", "layer_norm", "bitfit"])
def test_one_modality_of_several_can_be_adapted_alone(build, key):
    model = build("multimodal")
    type(CONFIGS[key])(towers=["image"]).apply(model)
    trained = weights.trainable_names(model)
    assert trained
    assert all(name.startswith("item_encoder.image.") for name in trained)
    with pytest.raises(ConfigError, match=r"the model has no image tower: choose among .*item, text, user"):
        type(CONFIGS[key])(towers=["image"]).apply(build("bert"))


def test_adapters_learn_as_fast_as_their_method_says_for_their_modality(build):
    model = build("multimodal")
    rates = rates_by_name(model, CONFIGS["houlsby"].apply(model))
    assert {rate for name, rate in rates.items() if ".text." in name} == {1.5e-4}
    assert {rate for name, rate in rates.items() if ".image." in name} == {4e-4}
    assert {rate for name, rate in rates.items() if name.startswith("user_encoder.")} == {1.5e-4}
    alone = build("vit")
    assert set(CONFIGS["houlsby"].apply(alone).values()) == {4e-4}


def rates_by_name(model, rates):
    return {name: rates[parameter] for name, parameter in model.named_parameters() if parameter in rates}
