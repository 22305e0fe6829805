"""What every item encoder of the Union has to do; a newcomer is tested as soon as its line is added."""

import pytest
import torch
from contents import of_text
from torch import nn

from transrec.adaptation.attach import OF_THE_TOWER
from transrec.config import Config, config_classes
from transrec.data.batch import ItemContent
from transrec.item_encoders import ItemEncoderConfig

MEMBERS = list(config_classes(ItemEncoderConfig))
WIDTH, NUM_ITEMS = 8, 6


@pytest.fixture(params=MEMBERS, ids=lambda member: member.__name__)
def config(request, tiny_bert) -> Config:
    small = {"backbone": str(tiny_bert), "dropout": 0.0}
    return request.param(**{key: value for key, value in small.items() if key in request.param.model_fields})


@pytest.fixture
def content() -> ItemContent:
    ids = torch.tensor([[2, 5, 3], [2, 8, 3], [2, 9, 3]])
    text = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
    return of_text(torch.tensor([4, 1, 6]), text)


def test_one_vector_per_item_that_learns(config, content):
    encoder = config.build(WIDTH, NUM_ITEMS)
    vectors = encoder(content)
    assert vectors.shape == (3, WIDTH)
    vectors.square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_sites_lead_to_modules(config):
    encoder = config.build(WIDTH, NUM_ITEMS)
    for site, paths in encoder.site_paths.items():
        assert len(paths) == (1 if site in OF_THE_TOWER else encoder.num_layers)
        assert all(isinstance(encoder.get_submodule(path), nn.Module) for path in paths)


def test_gradient_checkpointing_changes_no_gradient(config, content):
    def gradients(checkpointing):
        torch.manual_seed(0)
        encoder = config.build(WIDTH, NUM_ITEMS)
        if checkpointing:
            encoder.enable_gradient_checkpointing()
        encoder(content).square().sum().backward()
        return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}

    torch.testing.assert_close(gradients(True), gradients(False))


def test_content_says_how_records_are_read_or_that_none_are_needed(config):
    assert all(how.key for how in config.content().values())


def test_configs_are_told_apart_by_name():
    assert len({member.model_fields["name"].default for member in MEMBERS}) == len(MEMBERS)
