"""Operations against closed forms, and that counting leaves nothing behind."""

from dataclasses import replace

import pytest
import torch
from contents import of_text, without_content
from torch import nn
from transformers import BertConfig

from transrec.adaptation.bottleneck import HoulsbyConfig
from transrec.adaptation.selective import HeadOnlyConfig
from transrec.adaptation.side_network import SideNetworkConfig
from transrec.data.batch import SequenceBatch
from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.item_encoders.multimodal import MultimodalEncoderConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.models.sequential_recommender import SequentialRecommender, SequentialRecommenderConfig
from transrec.objectives.next_item import NextItemConfig
from transrec.protocols import Model
from transrec.training.cost import count_parameters, measure
from transrec.user_encoders.sasrec import SASRecConfig

CPU = torch.device("cpu")
U, B, L, D = 6, 3, 4, 8


def batch(content=None, filled: int = B * L) -> SequenceBatch:
    """B users, `filled` of whose B·L positions hold an item."""
    mask = (torch.arange(B * L) >= B * L - filled).reshape(B, L)
    inputs = torch.arange(B * L).reshape(B, L) % U
    content = content or without_content(torch.arange(1, U + 1))
    rows = {"inputs": inputs, "input_mask": mask, "targets": inputs, "target_mask": mask}
    rows["scored"] = mask.flatten().nonzero()[:, 0]
    negatives = inputs.unsqueeze(-1)
    users = [f"u{i}" for i in range(B)]
    return SequenceBatch(
        content,
        negatives=negatives,
        log_popularity=torch.zeros(U),
        draws=U,
        owned=None,
        user_ids=users,
        counts={"loss": filled},
        occurrences=filled + B + filled,
        **rows,
    )


class Linear(Model):
    """A linear item encoder over given features, the identity as user encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.ones(U, 5), requires_grad=False)
        self.item_encoder = nn.Linear(5, D, bias=False)
        self.user_encoder = nn.Linear(D, D, bias=False)

    def forward(self, batch: SequenceBatch) -> dict[str, torch.Tensor]:
        items = self.item_encoder(self.features)
        return {"loss": self.user_encoder(items[batch.inputs]).sum()}


def text_model(folder, dropout: float = 0.0, beside_ids: bool = False) -> SequentialRecommender:
    BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    ).save_pretrained(folder)
    torch.manual_seed(0)
    text = TextEncoderConfig(backbone=str(folder), pretrained=False, dropout=dropout)
    return SequentialRecommenderConfig(
        width=D,
        max_length=L,
        item_encoder=MultimodalEncoderConfig(text=text, id=IdEmbeddingConfig()) if beside_ids else text,
        user_encoder=SASRecConfig(layers=1, dropout=dropout),
        objective=NextItemConfig(),
    ).build(num_items=U)


def text_batch() -> SequenceBatch:
    ids = torch.randint(1, 50, (U, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[:, 7:] = 0  # 30 % padding
    return batch(of_text(torch.arange(1, U + 1), [{"input_ids": ids, "attention_mask": mask}]))


def test_linear_layers_cost_their_closed_form():
    cost = measure(Linear(), [batch()], CPU, autocast=False)
    item, user = 2 * U * 5 * D, 2 * B * L * D * D
    assert cost.forward == item + user
    assert cost.towers == {"item_encoder": item, "user_encoder": user}
    # The weight's gradient of each, and the user encoder's input: the features are frozen, so there is no more.
    assert cost.backward == item + 2 * user
    assert cost.as_json()["flops_per_user"]["forward"] == round(cost.forward / B)


def test_attention_is_counted(tmp_path):
    """Two products of (n, T, T) and H in each layer, on whatever kernel this device runs."""
    model, given = text_model(tmp_path), text_batch()
    H, T, hidden = 16, 10, 32
    products = 2 * U * T * (4 * H * H + 2 * H * hidden)
    attention = 2 * 2 * U * T * T * H
    projection = 2 * U * H * D
    assert (
        measure(model, [given], CPU, autocast=False).towers["item_encoder"] == 2 * (products + attention) + projection
    )


@pytest.mark.parametrize(
    "adaptation",
    [HeadOnlyConfig(), HoulsbyConfig(bottleneck={"item": 2, "user": 2}, also_train=["head"])],
    ids=["head", "houlsby"],
)
def test_a_frozen_backbone_costs_less_backward(tmp_path, adaptation):
    whole = measure(text_model(tmp_path), [text_batch()], CPU, autocast=False)
    model = text_model(tmp_path)
    adaptation.apply(model)
    frozen = measure(model, [text_batch()], CPU, autocast=False)
    assert frozen.backward < 0.8 * whole.backward
    if adaptation.name == "head_only":
        assert frozen.forward == whole.forward


def test_recomputation_is_counted(tmp_path):
    model = text_model(tmp_path)
    plain = measure(model, [text_batch()], CPU, autocast=False)
    model.enable_gradient_checkpointing()
    again = measure(model, [text_batch()], CPU, autocast=False)
    assert again.forward == plain.forward
    assert plain.backward + 0.9 * plain.forward < again.backward <= plain.backward + plain.forward


def test_counting_leaves_nothing_behind(tmp_path):
    model = text_model(tmp_path, dropout=0.5).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    measure(model, [text_batch()], CPU, autocast=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_padding_is_a_share_of_the_work(tmp_path):
    cost = measure(text_model(tmp_path), [text_batch()], CPU, autocast=False)
    item = cost.towers["item_encoder"] / cost.forward
    assert cost.shares["padded_tokens"] == pytest.approx(0.3 * item)
    assert cost.shares["empty_positions"] == cost.shares["repeated_items"] == 0
    assert cost.advice() == [], "the store bounds it: no setting lowers it"
    flops = cost.as_json()["flops_per_user"]
    assert flops["useful"] == pytest.approx((1 - 0.3 * item) * (flops["forward"] + flops["backward"]), abs=1)


def test_a_tower_among_several_costs_what_it_costs_alone(tmp_path):
    alone, fused = (measure(text_model(tmp_path, beside_ids=b), [text_batch()], CPU, autocast=False) for b in (0, 1))
    assert fused.towers["text"] == alone.towers["text"] == alone.towers["item_encoder"]
    assert fused.shares["padded_tokens"] > 0.2


def test_short_histories_and_repeated_items_are_shares_of_the_work():
    short = measure(Linear(), [batch(filled=3)], CPU, autocast=False)
    user = short.towers["user_encoder"] / short.forward
    assert short.shares["empty_positions"] == pytest.approx(0.75 * user)
    assert ["max_length" in line for line in short.advice()] == [True]
    other = batch(without_content(torch.arange(4, U + 4)))
    twice = measure(Linear(), [batch(), other], CPU, autocast=False)
    assert (twice.encoded_in_step, twice.distinct_in_step) == (2 * U, U + 3)
    assert twice.shares["repeated_items"] == pytest.approx(0.25 * twice.towers["item_encoder"] / twice.forward)


def test_an_empty_batch_is_no_division_by_zero():
    empty = replace(batch(filled=0), user_ids=[])
    assert measure(Linear(), [empty], CPU, autocast=False).as_json()["work"]["positions"] == 0


def test_what_does_not_fit_is_not_counted(monkeypatch):
    model = Linear()

    def too_large(batch):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model, "forward", too_large)
    assert measure(model, [batch()], CPU, autocast=False) is None


def test_parameters_by_tower(tmp_path):
    model = text_model(tmp_path)
    HoulsbyConfig(also_train=["head"]).apply(model)
    towers = count_parameters(model)["towers"]
    assert set(towers) == {"text", "user", "head"}
    assert towers["head"] == {"total": 16 * D + D, "trainable": 16 * D + D, "adapters": 0}
    backbone = list(model.item_encoder.backbone.parameters())
    adapters = [p for n, p in model.item_encoder.backbone.named_parameters() if ".adapter." in n]
    assert towers["text"]["total"] == sum(p.numel() for p in backbone)
    assert towers["text"]["trainable"] == towers["text"]["adapters"] == sum(p.numel() for p in adapters) > 0
    assert sum(tower["total"] for tower in towers.values()) == sum(p.numel() for p in model.parameters())


def test_what_reads_a_tower_belongs_to_it(tmp_path):
    model = text_model(tmp_path)
    SideNetworkConfig(bottleneck={"item": 4, "user": 4}, also_train=["head"]).apply(model)
    towers = count_parameters(model)["towers"]
    assert towers["text"]["adapters"] == sum(p.numel() for p in model.item_encoder.readout.parameters()) > 0
    assert towers["head"]["adapters"] == 0


def test_losses_are_the_same_with_and_without(tmp_path):
    losses = []
    for times in (0, 2):
        model = text_model(tmp_path, dropout=0.5)
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW(model.parameters())
        curve = []
        for _ in range(3):
            for _ in range(times):
                measure(model, [text_batch()], CPU, autocast=True)
            optimizer.zero_grad()
            (loss,) = model(text_batch()).values()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        losses.append(curve)
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3
