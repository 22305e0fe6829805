"""The ranking model: what it reads, what its losses reach, and how its second stage starts."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from transrec.adaptation.lora import LoRAConfig
from transrec.config import ConfigError, validate
from transrec.data.batch import ImpressionBatch, Impressions, ItemContent
from transrec.item_encoders.backbone_encoder import Features
from transrec.models.ranking_model import CONTRAST, RankingModel, RankingModelConfig
from transrec.nn.principal_components import Axes

U, B, L, WIDTH = 9, 5, 4, 6
VOCABULARIES = {
    "user": {"kind": "values", "values": ["a", "b", "c"]},
    "item": {"kind": "values", "values": [str(n) for n in range(U)]},
    "hour": {"kind": "buckets", "size": 24},
}
VALUES: dict[str, Any] = {
    "width": WIDTH,
    "max_length": L,
    "item_encoder": {"name": "id_embedding"},
    "features": {
        "user": {"of": "user_id", "width": 3},
        "item": {"of": "item_id", "width": 5},
        "hour": {"of": "time", "part": "hour", "width": 2},
    },
    "id_interest": {"name": "din"},
    "dnn": {"widths": [8], "dropout": 0.0},
}


def settings(**changes: Any) -> RankingModelConfig:
    return validate(RankingModelConfig, VALUES | changes).with_vocabularies(VOCABULARIES)


def build(**changes: Any) -> RankingModel:
    torch.manual_seed(0)
    return settings(**changes).build(U)


def shown(length: int = L) -> Impressions:
    generator = torch.Generator().manual_seed(1)
    history = torch.randint(0, U, (B, L), generator=generator)
    mask = torch.tensor([[False] * (L - n) + [True] * n for n in (0, 1, 2, 3, 4)])
    return Impressions(
        items=torch.arange(1, U + 1),
        item_features={"item": torch.randint(0, U + 1, (U, 1), generator=generator)},
        candidates=torch.randint(0, U, (B,), generator=generator),
        history=F.pad(history * mask, (length - L, 0)),
        history_mask=F.pad(mask, (length - L, 0)),
        features={
            "user": torch.randint(0, 4, (B, 1), generator=generator),
            "hour": torch.randint(1, 25, (B, 1), generator=generator),
        },
    )


def batch(observed: Tensor | None = None) -> ImpressionBatch:
    labels = torch.tensor([[1.0], [0], [0], [1], [0]])
    return ImpressionBatch(
        content=ItemContent(torch.arange(1, U + 1), {}),
        shown=shown(),
        labels=labels,
        observed=torch.ones(B, 1, dtype=torch.bool) if observed is None else observed,
        drawn=torch.tensor([0, 3]),
        has_content=torch.ones(U, dtype=torch.bool),
        user_ids=["x"] * B,
        counts={"click": B},
    )


def logits(model: RankingModel, of: Impressions) -> Tensor:
    vectors = model.encode_items(ItemContent(of.items, {}))
    return model.eval()._logits(of, vectors, model._ids(of))


def test_the_loss_is_the_cross_entropy_of_what_was_observed() -> None:
    model, observed = build(), torch.tensor([[True], [True], [False], [True], [False]])
    expected = F.binary_cross_entropy_with_logits(
        logits(model, shown())[observed[:, 0]], batch().labels[observed[:, 0]], reduction="sum"
    )
    assert model(batch(observed))["click"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_every_parameter_learns() -> None:
    model = build()
    sum(model(batch()).values()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_what_lies_behind_the_mask_changes_no_bit() -> None:
    model, of = build(), shown()
    other = replace(of, history=torch.where(of.history_mask, of.history, 7))
    assert torch.equal(logits(model, other), logits(model, of))


def test_a_longer_history_that_is_empty_changes_nothing() -> None:
    model = build()
    torch.testing.assert_close(logits(model, shown(20)), logits(model, shown()), rtol=0, atol=1e-6)


def test_it_starts_at_the_rate_of_its_answers() -> None:
    torch.manual_seed(0)
    model = settings().model_copy(update={"rates": [0.03]}).build(U)
    assert torch.sigmoid(logits(model, shown())).mean().item() == pytest.approx(0.03, rel=0.5)


def test_low_rank_at_the_key_of_the_interest_starts_as_it_was() -> None:
    model = build(id_interest={"name": "content_interest"})
    before = logits(model, shown())
    key = model.id_interest.key.weight.clone()  # type: ignore[union-attr]
    rank = {"item": 2, "user": 2, "id_interest": 2}
    lora = validate(LoRAConfig, {"towers": ["id_interest"], "sites": ["interest_key"], "rank": rank})
    lora.apply(model)
    torch.testing.assert_close(logits(model, shown()), before, rtol=0, atol=1e-6)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(name.startswith("id_interest.key.") for name in trained)
    assert any(torch.equal(p, key) for p in model.id_interest.parameters() if not p.requires_grad)


def test_the_probability_is_corrected_for_thinned_negatives() -> None:
    """Among the 20 % of the negatives that are kept, the odds are five times as large."""
    model = build()
    bias = model.dnn[-1].bias
    expected = model(batch())["click"]
    with torch.no_grad():
        bias -= math.log(5)
    torch.testing.assert_close(model(replace(batch(), log_kept=math.log(0.2)))["click"], expected)


def test_similarity_is_compared_around_the_mean_of_all_items() -> None:
    """Items without the modality are like nothing, wherever the mean lies."""
    model = settings().model_copy(update={"centres": {"text": [1.0, 1.0]}}).build(U)
    found = model._centred(
        "text", Features(3, torch.tensor([0, 2]), torch.tensor([[4.0, 1.0], [1.0, -1.0]]), torch.ones(2, 1))
    )
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, -1.0]]))
    assert "centre_of_text" not in model.state_dict(), "another channel has another mean"


def test_what_was_counted_travels_with_the_export(tmp_path: Path) -> None:
    axes = {"text": Axes([1.0, 1.0], [[0.5, 2.0]])}
    known = settings().model_copy(update={"centres": {"text": [1.0, 1.0]}, "axes": axes})
    known.save_assets(tmp_path)
    found = settings().model_copy(update={"vocabularies": {}}).known_from(tmp_path)
    assert (found.vocabularies, found.centres, found.axes) == (known.vocabularies, known.centres, axes)


def test_an_export_from_before_there_were_axes_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "features.json").write_text('{"vocabularies": {}, "centres": {}}')
    assert settings().known_from(tmp_path).axes == {}


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"vocabularies": {}}', '{"vocabularies": {}, "centres": [1]}'])
def test_an_export_whose_features_are_damaged_is_named(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "features.json").write_text(damaged)
    with pytest.raises(ConfigError, match=r"features\.json cannot be read"):
        settings().known_from(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"similarity": True}, "needs an item_encoder that reads content"),
        ({"principal_components": True}, "needs an item_encoder that reads content"),
        ({"objective": {"content_id_contrast": {}}}, "needs an item_encoder that reads content"),
        ({"features": {"user": {"of": "user_id"}}}, "need a feature of items"),
        ({"features": {}, "item_encoder": None, "id_interest": None}, "the model has no inputs"),
    ],
)
def test_what_it_cannot_read_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_only_an_encoder_of_content_is_contrasted() -> None:
    assert settings().sampling.contrasts is None
    text = {"name": "text", "backbone": "all-MiniLM-L6-v2"}
    sampling = settings(item_encoder=text, objective={"content_id_contrast": {"count": 5}}).sampling
    assert (sampling.contrasts, sampling.drawn) == (CONTRAST, 5)
