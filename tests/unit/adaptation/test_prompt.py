import pytest
import torch

from transrec.adaptation.prompt import Prompt, PromptConfig, ReplacingPrompt
from transrec.config import ConfigError


def test_formulas():
    y = torch.arange(10.0).view(1, 5, 2)
    prompt, replacing = (kind(torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])) for kind in (Prompt, ReplacingPrompt))
    assert prompt(None, y).tolist() == [[[0, 1], [-1, -2], [-3, -4], [2, 3], [4, 5], [6, 7], [8, 9]]]
    assert replacing(None, y).tolist() == [[[-1, -2], [-3, -4], [4, 5], [6, 7], [8, 9]]]
    assert replacing(None, y[:, :1]).tolist() == [[[-1, -2]]]


@pytest.mark.parametrize(("variant", "read"), [("canonical", True), ("released", False)])
def test_is_the_title_still_read(build, variant, read):
    model = build().eval()
    PromptConfig(variant=variant).apply(model)
    ids = torch.randint(1, 60, (2, 30))
    chunk = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        one, other = model.item_encoder.encode(chunk)
    assert torch.equal(one, other) != read


@pytest.mark.parametrize("variant", ["canonical", "released"])
def test_padding_does_not_matter(build, variant):
    model = build().eval()
    PromptConfig(tokens=4, variant=variant).apply(model)
    ids = torch.randint(1, 60, (2, 6))
    longer = torch.nn.functional.pad(ids, (0, 3))
    with torch.no_grad():
        short = model.item_encoder.encode({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        padded = model.item_encoder.encode({"input_ids": longer, "attention_mask": (longer > 0).long()})
    torch.testing.assert_close(short, padded)


def test_words_start_as_the_embeddings_of_words_and_patches_at_zero(build):
    text, image = build(dropout=0.5), build("vit")
    for model in (text, image):
        PromptConfig(tokens=3).apply(model)
    tokens = text.item_encoder.backbone.embeddings.adapter.tokens
    words = text.item_encoder.backbone.embeddings.word_embeddings.weight
    types = text.item_encoder.backbone.embeddings.token_type_embeddings.weight[0]
    places = text.item_encoder.backbone.embeddings.position_embeddings.weight[:3]
    norm = text.item_encoder.backbone.embeddings.LayerNorm
    possible = norm(words[:, None] + types + places)  # every word at each of the three places
    assert (tokens.detach() - possible).abs().amax(-1).amin(0).max() < 1e-6
    assert text.item_encoder.backbone.training
    assert not image.item_encoder.backbone.embeddings.adapter.tokens.any()


def test_more_prompts_than_positions_are_an_error(build):
    with pytest.raises(ConfigError, match="is 513, but the backbone has only 512 positions"):
        PromptConfig(tokens=513).apply(build())
