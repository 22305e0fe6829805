from transrec.adaptation.bottleneck import HoulsbyConfig
from transrec.adaptation.selective import FullConfig, HeadOnlyConfig
from transrec.nn.parameter_groups import parameter_groups


def names(model, group):
    return {member.name for member in parameter_groups(model)[group]}


def test_every_parameter_is_in_exactly_one_group(build):
    model = build()
    HoulsbyConfig().apply(model)
    grouped = [member.name for members in parameter_groups(model).values() for member in members]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())


def test_the_groups_are_what_their_names_say(build):
    model = build()
    HoulsbyConfig().apply(model)
    norms = names(model, "layer_norm")
    assert "item_encoder.backbone.embeddings.LayerNorm.weight" in norms
    assert "user_encoder.input_norm.bias" in norms
    assert len(norms) == 2 * (1 + 2 * 3 + 1 + 2 * 2)  # weights and biases of BERT's and SASRec's
    assert "item_encoder.backbone.encoder.layer.0.output.dense.weight" in names(model, "backbone")
    assert "item_encoder.backbone.encoder.layer.0.output.dense.adapter.up.weight" in names(model, "adapter")
    assert all(name.startswith("item_encoder.backbone.") for name in names(model, "backbone"))
    head = names(model, "head")
    assert {"item_encoder.projection.weight", "user_encoder.positions.weight"} <= head
    assert not any("backbone" in name or "norm" in name for name in head)


def test_item_ids_are_part_of_the_head(build):
    model = build("id_embedding")
    assert "item_encoder.embedding.weight" in names(model, "head")
    assert not names(model, "backbone")


def test_full_and_head_only(build):
    model = build()
    HeadOnlyConfig().apply(model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == names(model, "head")
    FullConfig().apply(model)
    assert all(p.requires_grad for p in model.parameters())
    HeadOnlyConfig(also_train=["layer_norm"]).apply(model)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == names(model, "head") | names(model, "layer_norm")
