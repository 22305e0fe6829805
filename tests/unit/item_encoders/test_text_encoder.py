import pytest
import torch
from contents import of_text, without_content
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from transrec.config import ConfigError
from transrec.data.batch import ItemContent
from transrec.item_encoders.text import TextEncoder, TextEncoderConfig

WIDTH = 8


def encoder(folder, **fields) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoderConfig(backbone=str(folder), dropout=0.0, **fields).build(WIDTH, num_items=9)


def chunk(rows: list[list[int]], length: int) -> dict[str, torch.Tensor]:
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


ROWS = [[2, 5, 3], [2, 8, 3], [2, 5, 8, 9, 3], [2, 9, 9, 8, 5, 3]]


def content(*chunks: dict[str, torch.Tensor], passes: int | None = None) -> ItemContent:
    items = torch.arange(1, 1 + sum(len(c["input_ids"]) for c in chunks))
    return of_text(items, list(chunks), passes)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    # The key bias has no effect on attention; its gradient is rounding noise.
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None and "key.bias" not in n}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_is_gelu_of_the_projected_pooled_state(tiny_bert, pooling):
    model = encoder(tiny_bert, pooling=pooling)
    vectors = model(content(chunk(ROWS, 6)))
    for row, vector in zip(ROWS, vectors, strict=True):
        states = model.backbone(torch.tensor([row])).last_hidden_state[0]
        pooled = states[0] if pooling == "cls" else states.mean(0)
        torch.testing.assert_close(
            vector, nn.functional.gelu(nn.functional.linear(pooled, model.projection.weight, model.projection.bias))
        )


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_neither_chunking_nor_padding_changes_a_vector(tiny_bert, pooling):
    model = encoder(tiny_bert, pooling=pooling)
    whole = model(content(chunk(ROWS, 12)))
    parts = model(content(chunk(ROWS[:2], 3), chunk(ROWS[2:], 6)))
    torch.testing.assert_close(parts, whole)


def test_extra_passes_run_forward_and_backward_and_change_nothing(tiny_bert):
    chunks = [chunk(ROWS[:2], 3), chunk(ROWS[2:], 6)]
    weights = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))

    def run(passes):
        model = encoder(tiny_bert)
        calls = {"forward": 0, "backward": 0}

        def count(direction):
            calls[direction] += 1

        last = model.backbone.get_submodule("encoder.layer.0.output.dense")
        last.register_forward_hook(lambda *_: count("forward"))
        last.register_full_backward_hook(lambda *_: count("backward"))
        vectors = model(content(*chunks, passes=passes))
        (vectors * weights).sum().backward()
        return calls, vectors, gradients(model)

    calls, vectors, plain = run(2)
    assert calls == {"forward": 2, "backward": 2}
    calls, padded_vectors, padded = run(5)
    assert calls == {"forward": 5, "backward": 5}
    assert torch.equal(padded_vectors, vectors)
    torch.testing.assert_close(padded, plain)


def test_gradient_checkpointing_changes_no_gradient(tiny_bert):
    def run(checkpointing):
        model = encoder(tiny_bert)
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(content(chunk(ROWS, 6), passes=2)).square().sum().backward()
        return gradients(model)

    torch.testing.assert_close(run(True), run(False))


def test_whole_passes_keep_no_states_of_layers_until_the_backward_pass(tiny_bert):
    def kept(*passes):
        model, states = encoder(tiny_bert), []
        for layer in model.backbone.encoder.layer:
            layer.register_forward_hook(lambda *of: states.append(StorageWeakRef(of[2].untyped_storage())))
        for of in passes:
            model.enable_gradient_checkpointing(passes=of)
        vectors = model(content(chunk(ROWS[:2], 6), chunk(ROWS[2:], 6)))
        assert vectors.requires_grad
        assert len(states) == 6
        return sum(not state.expired() for state in states)

    assert kept() == kept(False) == 4  # the last layer of each chunk is only pooled
    assert kept(True) == 0


def test_random_weights_and_fewer_layers(tiny_bert):
    shallow = encoder(tiny_bert, layers=1, pretrained=False)
    assert shallow.num_layers == 1
    assert shallow(content(chunk(ROWS, 6))).shape == (4, WIDTH)


def test_more_tokens_than_positions_is_an_error(tiny_bert):
    with pytest.raises(ConfigError, match=r"`max_tokens` is 41, .* has only 40 positions"):
        encoder(tiny_bert, max_tokens=41)


def test_a_batch_without_text_is_an_error(tiny_bert):
    with pytest.raises(ValueError, match="reads text, which the batch lacks"):
        encoder(tiny_bert)(without_content(torch.tensor([1])))
