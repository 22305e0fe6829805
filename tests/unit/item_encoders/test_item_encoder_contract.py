"""What every item encoder of the Union has to do; a newcomer is tested as soon as its line is added."""

from dataclasses import replace

import pytest
import torch
from contents import of_text
from torch import nn

from transrec.adaptation.attach import OF_THE_TOWER
from transrec.config import Config, config_classes
from transrec.data.batch import ItemContent, ModalityContent
from transrec.data.content.item_store import STORES
from transrec.item_encoders import ItemEncoderConfig

MEMBERS = list(config_classes(ItemEncoderConfig))
WIDTH, NUM_ITEMS = 8, 6


@pytest.fixture(params=MEMBERS, ids=lambda member: member.__name__)
def config(request, tiny_bert, tiny_vit) -> Config:
    small = {
        name: {"backbone": str(folder), "dropout": 0.0} for name, folder in (("text", tiny_bert), ("image", tiny_vit))
    }
    fields = request.param.model_fields
    parts = {name: values for name, values in small.items() if name in fields}
    return request.param(**small.get(fields["name"].default, parts))


@pytest.fixture
def content() -> ItemContent:
    """Three items, the last without an image."""
    ids = torch.tensor([[2, 5, 3], [2, 8, 3], [2, 9, 3]])
    text = of_text(torch.tensor([4, 1, 6]), [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}])
    pixels = {"pixel_values": torch.arange(2 * 3 * 16 * 16).remainder(251).to(torch.uint8).reshape(2, 3, 16, 16)}
    image = ModalityContent(torch.arange(2), [pixels], pixels, passes=1)
    return replace(text, modalities={**text.modalities, "image": image})


def test_one_vector_per_item_that_learns(config, content):
    encoder = config.build(WIDTH, NUM_ITEMS)
    vectors = encoder(content)
    assert vectors.shape == (3, WIDTH)
    vectors.square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_sites_lead_to_modules(config):
    encoder = config.build(WIDTH, NUM_ITEMS)
    for tower in encoder.towers.values():
        for site, paths in tower.site_paths.items():
            assert len(paths) == (1 if site in OF_THE_TOWER else tower.num_layers)
            assert all(isinstance(tower.get_submodule(path), nn.Module) for path in paths)


@pytest.mark.parametrize("passes", [False, True])
def test_gradient_checkpointing_changes_no_gradient(config, content, passes):
    def gradients(checkpointing):
        torch.manual_seed(0)
        encoder = config.build(WIDTH, NUM_ITEMS)
        if checkpointing:
            encoder.enable_gradient_checkpointing(passes)
        encoder(content).square().sum().backward()
        return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}

    torch.testing.assert_close(gradients(True), gradients(False))


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_passes_change_no_gradient_and_no_name(config, content, checkpointing):
    def gradients(compile_passes):
        torch.manual_seed(0)
        encoder = config.build(WIDTH, NUM_ITEMS).train()
        if checkpointing:
            encoder.enable_gradient_checkpointing()
        if compile_passes:
            encoder.compile_passes()
        encoder(content).square().sum().backward()
        return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}

    torch._dynamo.reset()
    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-4, atol=1e-6)


def test_there_is_a_store_for_all_it_reads(config):
    assert config.content().keys() <= STORES.keys()


def test_it_says_whether_it_is_tied_to_a_catalogue(config):
    sizes = {num_items: sum(p.numel() for p in config.build(WIDTH, num_items).parameters()) for num_items in (6, 7)}
    assert config.embeds_ids == (sizes[6] != sizes[7])


def test_configs_are_told_apart_by_name():
    assert len({member.model_fields["name"].default for member in MEMBERS}) == len(MEMBERS)
