"""What every adaptation method of the Union has to do; a newcomer is tested as soon as its line is added."""

import copy

import pytest
import torch

from transrec.adaptation import AdaptationConfig
from transrec.adaptation.groups import GROUPS, parameter_groups
from transrec.config import config_classes

MEMBERS = list(config_classes(AdaptationConfig))


def variants(member):
    yield member()
    if "also_train" in member.model_fields:
        yield member(also_train=["layer_norm"])


@pytest.fixture(
    params=[config for member in MEMBERS for config in variants(member)],
    ids=lambda config: f"{config.name}-{'-'.join(getattr(config, 'also_train', []))}".strip("-"),
)
def config(request):
    return request.param


def test_base_parameters_keep_their_names_and_values(config, build):
    before = build().state_dict()
    model = build()
    config.apply(model)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(".adapter." in name for name in after.keys() - before.keys())


def test_exactly_the_trainable_groups_train(config, build):
    model = build()
    config.apply(model)
    for group, members in parameter_groups(model).items():
        assert {p.requires_grad for _, p in members} <= {group in config.trainable_groups}, group


def test_what_is_trainable_gets_gradients_and_nothing_else_does(config, build, run):
    model = build()
    config.apply(model)
    items, users = run(model)
    (users @ items.T).square().sum().backward()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trainable
    assert with_gradient <= trainable
    assert trainable - with_gradient <= {n for n in trainable if "embeddings" in n or "key.bias" in n}


def test_starts_near_the_function_it_adapts(config, build, run):
    plain = run(build())
    model = build()
    config.apply(model)
    for adapted, original in zip(run(model), plain, strict=True):
        assert (adapted - original).norm() / original.norm() < 0.05


def test_gradient_checkpointing_changes_no_gradient(config, build, run):
    def gradients(checkpointing):
        model = build(dropout=0.2)
        config.apply(model)
        model.train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        torch.manual_seed(3)
        items, users = run(model)
        (users @ items.T).square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    torch.testing.assert_close(gradients(True), gradients(False))


def test_a_deep_copy_works_on_its_own(config, build, run):
    model = build()
    config.apply(model)
    expected = run(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for ours, theirs in zip(run(twin), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_of_the_same_method_loads_strictly(config, build, run):
    trained, fresh = build(), build()
    config.apply(trained)
    config.apply(fresh)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    fresh.load_state_dict(trained.state_dict(), strict=True)
    for ours, theirs in zip(run(fresh), run(trained), strict=True):
        assert torch.equal(ours, theirs)


def test_groups_named_are_groups_that_exist(config):
    assert config.trainable_groups <= set(GROUPS)
