"""Fusions of one and of two streams over tokens, against their equations for one item at a time."""

import pytest
import torch
from torch import Tensor

from transrec.item_encoders.fusions.single_stream import SingleStreamConfig
from transrec.item_encoders.fusions.two_stream import TwoStreamConfig
from transrec.nn.readout import Modalities

WIDTH = 8
PRESENT = torch.tensor(
    [[True] * 5, [True, False, True, False, False], [False, False, False, True, True], [True, True, False, False, True]]
)


def items() -> Modalities:
    """Texts of two tokens and images of three, in which some are masked or missing."""
    vectors = torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    return Modalities(["text", "image"], vectors, PRESENT, {}, [2, 3])


def of_item(x: Modalities, item: int) -> tuple[Tensor, Tensor]:
    text, image = (v[item][p[item]] for v, p in zip(x.each(x.vectors), x.each(x.present), strict=True))
    return text, image


def seeded(config: SingleStreamConfig | TwoStreamConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return config.build(2, WIDTH).eval()


@pytest.mark.parametrize("layers", [1, 2])
def test_one_stream_marks_the_tokens_of_each_modality(layers: int) -> None:
    model, x = seeded(SingleStreamConfig(layers=layers)), items()
    for item, fused in enumerate(model(x)):
        first, *kinds = model.kinds
        marked = [tokens + kind for tokens, kind in zip(of_item(x, item), kinds, strict=True)]
        z = torch.cat([first[None], *marked])[None]
        for block in model.blocks:
            z = block(z, None)
        torch.testing.assert_close(fused, z[0, 0])


@pytest.mark.parametrize("layers", [1, 2])
def test_in_two_streams_tokens_attend_to_those_of_the_others_and_modalities_count_alike(layers: int) -> None:
    model, x = seeded(TwoStreamConfig(layers=layers)), items()
    for item, fused in enumerate(model(x)):
        parts = list(of_item(x, item))
        for layer in model.layers:
            found = []
            for own, other, stream in zip(parts, reversed(parts), layer.streams, strict=True):
                read = stream.cross(own[None], None, other[None])[0] if len(other) else 0
                mixed = stream.cross_norm(own + read)
                found.append(stream.ffn_norm(mixed + stream.ffn(mixed)))
            parts = found
        means = [tokens.mean(0) for tokens in parts if len(tokens)]
        torch.testing.assert_close(fused, torch.stack(means).mean(0))
