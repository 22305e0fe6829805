"""The model over every combination of its parts, and the pool against encoding every occurrence.

Shape letters: B users, L positions, P scored positions, K negatives, T tokens, D width.
"""

from dataclasses import replace
from itertools import product

import pytest
import torch
from contents import of_text
from host_waits import step_without_waiting
from pydantic import ValidationError
from torch import Tensor, nn

from transrec.config import ConfigError, config_classes, load
from transrec.data.batch import ItemContent, ModalityContent, Sampling, SequenceBatch
from transrec.data.examples.questions import Histories
from transrec.evaluation.evaluator import inference
from transrec.item_encoders import ItemEncoderConfig
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.multimodal import MultimodalEncoderConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.models.sequential_recommender import SequentialRecommender, SequentialRecommenderConfig
from transrec.objectives import ObjectiveConfig
from transrec.user_encoders import UserEncoderConfig

NUM_ITEMS, L, D = 12, 5, 16
HISTORIES = [[3, 7, 3, 9, 1, 2], [4, 3, 7], [8, 1]]  # item 3 occurs three times, once as a target of its own user
TEXTS = {
    item: torch.randint(4, 60, (2 + item % 4,), generator=torch.Generator().manual_seed(item)).tolist()
    for item in range(1, NUM_ITEMS + 1)
}

SMALL = {"layers": 1, "dropout": 0.0, "pretrained": False, "negatives": 2}


def small(member, bert_folder):
    values = SMALL | {"backbone": str(bert_folder)}
    if member is ImageEncoderConfig:
        values["backbone"] = str(bert_folder / "vision")
    if member is MultimodalEncoderConfig:
        values |= {"text": small(TextEncoderConfig, bert_folder), "image": small(ImageEncoderConfig, bert_folder)}
    return member(**{key: value for key, value in values.items() if key in member.model_fields})


def build(bert_folder, item_encoder=None, user_encoder=None, objective=None, **values) -> SequentialRecommender:
    def chosen(union, name):
        members = list(config_classes(union))
        named = [m for m in members if m.model_fields["name"].default == name]
        return small((named or members)[0], bert_folder)

    torch.manual_seed(0)
    return SequentialRecommenderConfig(
        width=D,
        max_length=L,
        item_encoder=chosen(ItemEncoderConfig, item_encoder),
        user_encoder=chosen(UserEncoderConfig, user_encoder),
        objective=chosen(ObjectiveConfig, objective),
        **values,
    ).build(NUM_ITEMS)


def tokens(items: list[int]) -> dict[str, Tensor]:
    longest = max(len(TEXTS[item]) for item in items)
    ids = [TEXTS[item] + [0] * (longest - len(TEXTS[item])) for item in items]
    ids_nT = torch.tensor(ids)
    return {"input_ids": ids_nT, "attention_mask": (ids_nT > 0).long()}


def with_images(content: ItemContent) -> ItemContent:
    """Every second item of the pool has an image too."""
    rows = torch.arange(0, len(content.items), 2)
    pixels = torch.randint(256, (len(rows), 3, 16, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    images = ModalityContent(rows, [{"pixel_values": pixels}], {"pixel_values": pixels[:1]}, passes=1)
    return replace(content, modalities=content.modalities | {"image": images})


def negatives_of(history: list[int], count: int) -> list[int]:
    return [item for item in range(1, NUM_ITEMS + 1) if item not in history][:count]


def make_batch(sampling: Sampling) -> SequenceBatch:
    """`HISTORIES` as the stream would lay them out, in two chunks."""
    positions, k = (L if sampling.positions == "all" else 1), sampling.negatives
    used = {item for history in HISTORIES for item in history}
    used |= {item for history in HISTORIES for item in negatives_of(history, k)}
    pool = sorted(used if sampling.pool == "batch" else TEXTS, key=lambda item: (len(TEXTS[item]), item))
    row = {item: i for i, item in enumerate(pool)}
    inputs, targets = torch.zeros(len(HISTORIES), L).long(), torch.zeros(len(HISTORIES), L).long()
    mask = torch.zeros(len(HISTORIES), L, dtype=torch.bool)
    negatives = torch.zeros(len(HISTORIES), L, k).long()
    owned = torch.zeros(len(HISTORIES), len(pool), dtype=torch.bool)
    for user, history in enumerate(HISTORIES):
        n = len(history) - 1
        inputs[user, L - n :] = torch.tensor([row[item] for item in history[:-1]])
        targets[user, L - n :] = torch.tensor([row[item] for item in history[1:]])
        negatives[user, L - n :] = torch.tensor([row[item] for item in negatives_of(history, k)]).long()
        mask[user, L - n :] = True
        owned[user, [row[item] for item in history]] = True
    if sampling.masked:  # the last item of each history is the one to be found
        inputs, targets = targets, targets.where(torch.arange(L) == L - 1, 0)
    half = len(pool) // 2
    target_mask = (mask & (torch.arange(L) == L - 1) if sampling.masked else mask)[:, -positions:]
    return SequenceBatch(
        content=with_images(of_text(torch.tensor(pool), [tokens(pool[:half]), tokens(pool[half:])])),
        inputs=inputs,
        input_mask=mask,
        targets=targets[:, -positions:],
        target_mask=target_mask,
        scored=target_mask.flatten().nonzero()[:, 0],
        negatives=negatives[:, -positions:],
        log_popularity=torch.full((len(pool),), 1 / len(pool)).log(),
        draws=12,
        owned=owned if sampling.owned else None,
        user_ids=["a", "b", "c"],
        candidates=torch.arange(0, len(pool), 2) if sampling.candidates else None,
        log_inclusion=torch.full((len(pool),), 0.5).log() if sampling.candidates else None,
        masked=mask & (torch.arange(L) == L - 1) if sampling.masked else None,
        counts={},
        occurrences=0,
    )


def possible(user_encoder, objective) -> bool:
    """A state that depends on later items may not be asked for them."""
    sampling = objective().sampling
    return user_encoder().causal or sampling.masked > 0 or sampling.positions == "last"


COMBINATIONS = [
    tuple(member.model_fields["name"].default for member in members)
    for members in product(*map(config_classes, (ItemEncoderConfig, UserEncoderConfig, ObjectiveConfig)))
    if possible(*members[1:])
]


EACH_PART_ONCE = [names for names in COMBINATIONS if names[0] == "id_embedding" or names[1:] == ("sasrec", "next_item")]


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_every_combination_gives_one_finite_loss_that_trains_the_model(bert_folder, names):
    model = build(bert_folder, *names)
    batch = make_batch(model.objective.sampling)
    model.enable_gradient_checkpointing()
    losses = model(batch)
    assert list(losses) == [names[2]]
    (value,) = losses.values()
    value.backward()
    assert value.isfinite()
    for tower in (model.item_encoder, model.user_encoder):
        assert any(p.grad is not None and p.grad.any() for p in tower.parameters())


@pytest.mark.parametrize("names", EACH_PART_ONCE, ids="-".join)
def test_the_host_waits_for_no_part(bert_folder, names):
    model = build(bert_folder, *names)
    step_without_waiting(model, make_batch(model.objective.sampling))


@pytest.mark.parametrize("user_encoder", ["sasrec", "gru4rec"])
@pytest.mark.parametrize("objective", ["next_item", "cpc"])
def test_the_pool_equals_encoding_every_occurrence(bert_folder, user_encoder, objective):
    """The reference encodes the text of each input, target and negative where it stands, padding included."""
    pooled, plain = (build(bert_folder, "text", user_encoder, objective).double() for _ in range(2))
    batch = make_batch(pooled.objective.sampling)
    value = pooled(batch)[objective]
    value.backward()

    def encode_each(rows: Tensor) -> Tensor:
        items = batch.content.items[rows.flatten()].tolist()
        vectors = [plain.item_encoder(of_text(torch.tensor([i]), [tokens([i])])) for i in items]
        return torch.cat(vectors).unflatten(0, rows.shape)

    states = plain.user_encoder(encode_each(batch.inputs), batch.input_mask)[:, -batch.targets.shape[1] :]
    positive = (states * encode_each(batch.targets)).sum(-1)
    negative = (states.unsqueeze(2) * encode_each(batch.negatives)).sum(-1)
    bce = nn.functional.binary_cross_entropy_with_logits
    terms = bce(positive, torch.ones_like(positive), reduction="none")
    terms = terms + bce(negative, torch.zeros_like(negative), reduction="none").mean(-1)
    expected = terms[batch.target_mask].sum()
    expected.backward()

    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    gradients = {name: p.grad for name, p in pooled.named_parameters() if p.grad is not None}
    references = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert gradients.keys() == references.keys()
    largest = max(g.abs().max().item() for g in references.values())
    for name, reference in references.items():
        torch.testing.assert_close(gradients[name], reference, rtol=1e-5, atol=1e-6 * largest, msg=name)


@pytest.mark.parametrize("objective", ["next_item", "cpc", "in_batch_softmax"])
def test_where_padding_points_at_does_not_matter(bert_folder, objective):
    model = build(bert_folder, "text", "sasrec", objective)
    batch = make_batch(model.objective.sampling)
    elsewhere = replace(
        batch,
        inputs=batch.inputs.masked_fill(~batch.input_mask, 3),
        targets=batch.targets.masked_fill(~batch.target_mask, 2),
        negatives=batch.negatives.masked_fill(~batch.target_mask.unsqueeze(-1), 1),
    )
    gradients = []
    for case in (batch, elsewhere):
        model.zero_grad()
        value = model(case)[objective]
        value.backward()
        gradients.append([value.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(*gradients)


def test_user_encoders_see_zeros_where_a_window_is_padded(bert_folder):
    model = build(bert_folder)
    batch = make_batch(model.objective.sampling)
    seen = []
    model.user_encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(batch)
    model.encode_users(torch.ones(3, L, D), batch.input_mask)
    assert all(not x[~batch.input_mask].any() and x[batch.input_mask].any() for x in seen)
    assert len(seen) == 2


def test_a_later_item_changes_no_earlier_loss(bert_folder):
    model = build(bert_folder, "text", "sasrec", "next_item")
    batch = make_batch(model.objective.sampling)
    mask = batch.target_mask & (torch.arange(L) < 3)
    first_three = replace(batch, target_mask=mask, scored=mask.flatten().nonzero()[:, 0])
    changed = batch.inputs.clone()
    changed[0, 3:] = (changed[0, 3:] + 1) % len(batch.content.items)
    assert torch.equal(model(first_three)["next_item"], model(replace(first_three, inputs=changed))["next_item"])
    assert not torch.equal(model(batch)["next_item"], model(replace(batch, inputs=changed))["next_item"])


def test_encode_users_is_the_state_the_last_position_was_trained_with(bert_folder):
    model = build(bert_folder, "text", "sasrec", "cpc").eval()
    batch = make_batch(model.objective.sampling)
    pool = model.encode_items(batch.content)
    users = model.encode_users(pool[batch.inputs], batch.input_mask)
    assert users.shape == (3, D)
    positive = (users * pool[batch.targets[:, 0]]).sum(-1)
    negative = (users.unsqueeze(1) * pool[batch.negatives[:, 0]]).sum(-1)
    expected = nn.functional.softplus(-positive) + nn.functional.softplus(negative).mean(-1)
    torch.testing.assert_close(model(batch)["cpc"], expected.sum())


def test_a_hidden_item_reaches_no_state_and_the_mask_token_does(bert_folder):
    model = build(bert_folder, "id_embedding", "nextitnet", "cloze")
    batch = make_batch(model.objective.sampling)
    seen = []
    model.user_encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    value = model(batch)["cloze"]
    value.backward()
    token = model.mask_token.token.weight
    assert (seen[0][batch.masked] == token[0]).all()
    assert not (seen[0][batch.input_mask & ~batch.masked] == token[0]).all(-1).any()
    assert token.grad.any()
    elsewhere = replace(batch, inputs=batch.inputs.masked_fill(batch.masked, 0))
    assert torch.equal(model(elsewhere)["cloze"], value)


def test_cloze_asks_for_a_user_where_the_next_item_would_be(bert_folder):
    """The state behind the newest L - 1 items is the one that a hidden last item is found by."""
    model = build(bert_folder, "id_embedding", "nextitnet", "cloze").eval()
    batch = make_batch(model.objective.sampling)
    pool = model.encode_items(batch.content)
    seen = []
    model.user_encoder.register_forward_hook(lambda module, args, output: seen.append(output))
    model(batch)
    older = replace(batch, inputs=batch.inputs.roll(1, dims=1), input_mask=batch.input_mask.roll(1, dims=1))
    users = model.encode_users(pool[older.inputs], older.input_mask)
    torch.testing.assert_close(users, seen[0][:, -1])


def test_an_untied_output_scores_items_by_vectors_and_biases_of_their_own(bert_folder):
    model = build(bert_folder, "id_embedding", "sasrec", "full_softmax", output="untied")
    with torch.no_grad():
        model.output.bias.weight.normal_()
    batch = make_batch(model.objective.sampling)
    items = batch.content.items
    states = []
    model.user_encoder.register_forward_hook(lambda module, args, output: states.append(output))
    value = model(batch)["full_softmax"]
    logits = states[0][batch.target_mask] @ model.output.vectors.weight[items].T + model.output.bias.weight[items, 0]
    expected = nn.functional.cross_entropy(logits, batch.targets[batch.target_mask], reduction="sum")
    torch.testing.assert_close(value, expected)
    catalogue = torch.zeros(NUM_ITEMS + 1, D)
    users = model.encode_users(model.encode_items(batch.content)[batch.inputs], batch.input_mask)
    scores = users @ model.encode_targets(catalogue).T
    torch.testing.assert_close(scores[:, items], logits[batch.target_mask.cumsum(1)[:, -1].cumsum(0) - 1])


def test_what_has_seen_both_ways_cannot_predict_the_next_item_of_every_position():
    values = {"item_encoder": {"name": "id_embedding"}, "user_encoder": {"name": "nextitnet", "causal": False}}
    for name in ("cloze", "cpc"):
        SequentialRecommenderConfig.model_validate(values | {"objective": {"name": name}})
    with pytest.raises(ValidationError, match="reads the items that full_softmax predicts: choose the objective"):
        SequentialRecommenderConfig.model_validate(values | {"objective": {"name": "full_softmax"}})


def test_chunks_of_other_ranks_change_nothing(bert_folder):
    model = build(bert_folder, "text")
    batch = make_batch(model.objective.sampling)
    more = replace(batch, content=batch.content.with_passes([4, 1]))
    assert torch.equal(model(more)["next_item"], model(batch)["next_item"])


def test_is_configured_by_names(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(
        "item_encoder: {name: id_embedding}\nuser_encoder: {name: sasrec}\nobjective: {name: cpc, negatives: 3}\n"
    )
    config = load(SequentialRecommenderConfig, path, ["width=32", "user_encoder.heads=4"])
    model = config.build(NUM_ITEMS)
    assert config.sampling == Sampling(loss="cpc", positions="last", negatives=3)
    assert model.item_encoder.embedding.weight.shape == (NUM_ITEMS + 1, 32)
    with pytest.raises(ConfigError, match=r"did you mean `user_encoder\.heads`"):
        load(SequentialRecommenderConfig, path, ["user_encoder.head=4"])


@pytest.mark.parametrize("user_encoder", [c.model_fields["name"].default for c in config_classes(UserEncoderConfig)])
def test_weights_of_16_bits_score_a_catalogue_of_32(bert_folder, user_encoder):
    """Training in fp16 leaves such weights, and vectors of a catalogue are always kept in fp32."""
    model = build(bert_folder, user_encoder=user_encoder, objective="cpc").half()
    catalogue = torch.randn(NUM_ITEMS + 1, D, generator=torch.Generator().manual_seed(0))
    with inference(model):
        question = Histories(torch.tensor([[0, 0, 1, 2, 3]]))
        scores = model.scorer(catalogue)(question)(0, NUM_ITEMS + 1)
        wide = model.float().scorer(catalogue)(question)(0, NUM_ITEMS + 1)
    torch.testing.assert_close(scores, wide, rtol=0.05, atol=0.05)


def test_cosines_ignore_the_lengths_of_vectors(bert_folder):
    question = Histories(torch.tensor([[0, 0, 1, 2, 3]]))
    model = build(bert_folder, "id_embedding", objective="full_softmax", similarity="cosine").eval()
    catalogue = torch.randn(NUM_ITEMS + 1, D, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = model.scorer(catalogue)(question)(1, NUM_ITEMS + 1)
        user = model.encode_users(catalogue[question.inputs], question.inputs > 0)
    expected = torch.nn.functional.cosine_similarity(user, catalogue[1:]) / model.objective.logits.temperature
    torch.testing.assert_close(scores[0], expected)


@pytest.mark.parametrize(
    ("objective", "values", "message"),
    [
        ("next_item", {}, "needs a temperature, which next_item lacks"),
        ("full_softmax", {"output": "untied"}, "ignores the biases of an untied output"),
    ],
)
def test_what_cosines_cannot_score_is_refused(bert_folder, objective, values, message):
    with pytest.raises(ValueError, match=message):
        build(bert_folder, objective=objective, similarity="cosine", **values)


def test_a_learned_temperature_trains_and_scores(bert_folder):
    model = build(bert_folder, "id_embedding", objective="full_softmax")
    learned = type(model.objective)(model.objective.sampling, 0.5, learn_temperature=True)
    states = torch.randn(2, D)
    torch.testing.assert_close(learned.logits(states), states / 0.5)
    learned.logits(states).sum().backward()
    assert learned.logits.log_temperature.grad.abs() > 0


def test_scores_are_the_logits_of_the_objective(bert_folder):
    question = Histories(torch.tensor([[0, 0, 1, 2, 3]]))
    catalogue = torch.randn(NUM_ITEMS + 1, D, generator=torch.Generator().manual_seed(0))
    scores = []
    for temperature in (1.0, 4.0):
        model = build(bert_folder, objective="full_softmax")
        model.objective.logits.temperature = temperature
        with inference(model):
            scores.append(model.scorer(catalogue)(question)(0, NUM_ITEMS + 1))
    torch.testing.assert_close(scores[1], scores[0] / 4)
