"""The Fusion-Q-Former against its equations, written out for one item."""

import math
from dataclasses import replace

import pytest
import torch

from transrec.config import ConfigError
from transrec.item_encoders.fusions.fq_former import FusionQFormer, FusionQFormerConfig
from transrec.nn.readout import Modalities

WIDTH = 8


def fusion(**settings) -> FusionQFormer:
    torch.manual_seed(0)
    return FusionQFormerConfig(**settings).build(modalities=3, width=WIDTH).eval()


def items(present: torch.Tensor) -> Modalities:
    vectors = torch.randn(*present.shape, WIDTH, generator=torch.Generator().manual_seed(1))
    return Modalities(["text", "image", "id"][: present.shape[1]], vectors, present, {})


def by_hand(model: FusionQFormer, *modalities: torch.Tensor) -> torch.Tensor:
    """The result for one item with these tokens (T, D) of each modality, head by head and position by position."""
    z = torch.cat([model.queries, *modalities])
    for attention, norm in zip(model.attentions, model.norms, strict=True):
        heads = []
        for rows in torch.arange(WIDTH).chunk(attention.heads):
            q, k, v = ((z @ w.weight.T)[:, rows] for w in (attention.query, attention.key, attention.value))
            weights = torch.softmax(q @ k.T / math.sqrt(len(rows)), dim=1)
            heads.append(weights @ v)
        z = torch.nn.functional.layer_norm(
            z + torch.cat(heads, dim=1) @ attention.output.weight.T, (WIDTH,), norm.weight, norm.bias, norm.eps
        )
    read = model.output(z[: len(model.queries)].flatten())
    return read if model.skip is None else read + torch.stack([tokens.mean(0) for tokens in modalities]).mean(0)


@pytest.mark.parametrize(
    "settings", [{}, {"residual": False}, {"layers": 3, "heads": 2, "queries": 1}, {"queries": 4, "heads": 8}]
)
def test_by_hand(settings):
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    model, x = fusion(**settings), items(present)
    pairs = zip(x.vectors, present, strict=True)
    expected = torch.stack([by_hand(model, *vectors[there].unsqueeze(1)) for vectors, there in pairs])
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("settings", [{}, {"residual": False}])
def test_tokens_by_hand(settings):
    """Three word pieces, four patches and an id; the residual counts modalities alike."""
    present = torch.tensor([[True] * 8, [True, False, False, True, True, False, True, False], [False] * 7 + [True]])
    model, x = fusion(**settings), replace(items(present), names=("text", "image", "id"), lengths=(3, 4, 1))
    parts = zip(x.vectors.split([3, 4, 1], 1), present.split([3, 4, 1], 1), strict=True)
    text, image, id_ = ([v[there] for v, there in zip(vectors, of, strict=True)] for vectors, of in parts)
    expected = [by_hand(model, *(t for t in tokens if len(t))) for tokens in zip(text, image, id_, strict=True)]
    torch.testing.assert_close(model(x), torch.stack(expected))


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_the_length_of_the_result_does_not_depend_on_the_modalities(modalities):
    assert fusion()(items(torch.ones(5, modalities, dtype=torch.bool))).shape == (5, WIDTH)


def test_queries_and_attention_learn_and_nothing_gives_no_nan():
    model, x = fusion(), items(torch.tensor([[True, True, False], [False] * 3]))
    fused = model(x)
    assert not fused[1].any()
    fused.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.queries.grad.any()


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"`model\.width` 8 must be divisible by the 3 heads"):
        fusion(heads=3)
