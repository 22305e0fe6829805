"""Where the task token stands and where the answer is read: behind the items, or at both ends.

Shape letters: B users, L positions, D width, K targets.
"""

import pytest
import torch
from contents import without_content
from torch import Tensor, nn

from transrec.data.batch import SequenceBatch, Targets
from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.models.sequential_recommender import SequentialRecommender, SequentialRecommenderConfig
from transrec.models.task_head import TaskHead
from transrec.objectives.classification import ClassificationConfig
from transrec.user_encoders.gru4rec import GRU4RecConfig
from transrec.user_encoders.nextitnet import NextItNetConfig
from transrec.user_encoders.sasrec import SASRecConfig

L, D, K = 6, 4, 3
LENGTHS = [0, 1, 3, 6]
MASK = torch.arange(L) >= L - torch.tensor(LENGTHS).unsqueeze(1)
ITEMS = torch.arange(len(LENGTHS) * L * D).reshape(len(LENGTHS), L, D).float() * MASK.unsqueeze(-1)

SHORT = [1, 4]
ENCODERS = {
    "sasrec": SASRecConfig(layers=1, dropout=0),
    "gru4rec": GRU4RecConfig(dropout=0),
    "causal": NextItNetConfig(dilations=SHORT),
    "both ways": NextItNetConfig(dilations=SHORT, causal=False),
}


def head(causal: bool) -> TaskHead:
    torch.manual_seed(0)
    return TaskHead(D, K, causal)


def real(x: Tensor, mask: Tensor, user: int) -> list[list[float]]:
    return x[user][mask[user]].tolist()


def test_a_causal_encoder_sees_the_token_behind_the_newest_items() -> None:
    task = head(causal=True)
    token = task.token.weight[0].tolist()
    x, mask, stands = task.ask(ITEMS, MASK)
    assert x.shape == ITEMS.shape
    for user, length in enumerate(LENGTHS):
        newest = real(ITEMS, MASK, user)[-(L - 1) :]
        assert real(x, mask, user) == [*newest, token]
        assert stands[user].tolist() == [False] * (L - 1) + [True]
        assert mask[user].sum() == min(length, L - 1) + 1


def test_an_encoder_that_looks_both_ways_sees_it_at_both_ends() -> None:
    task = head(causal=False)
    token = task.token.weight[0].tolist()
    x, mask, stands = task.ask(ITEMS, MASK)
    for user, length in enumerate(LENGTHS):
        kept = min(length, L - 2)
        assert real(x, mask, user) == [token, *real(ITEMS, MASK, user)[length - kept :], token]
        assert mask[user].tolist() == [False] * (L - 2 - kept) + [True] * (kept + 2), "left-padded"
        assert stands[user].nonzero().squeeze(1).tolist() == [L - 2 - kept, L - 1]


def test_the_answer_is_read_where_the_token_stands() -> None:
    states = torch.randn(len(LENGTHS), L, D)
    causal, both = head(causal=True), head(causal=False)
    torch.testing.assert_close(causal.read(states, causal.ask(ITEMS, MASK)[2]), states[:, -1])
    first = torch.tensor([L - 2 - min(length, L - 2) for length in LENGTHS])
    expected = states[torch.arange(len(LENGTHS)), first] + states[:, -1]
    torch.testing.assert_close(both.read(states, both.ask(ITEMS, MASK)[2]), expected)


# In the model


def build(encoder: str) -> SequentialRecommender:
    torch.manual_seed(0)
    model = SequentialRecommenderConfig(
        width=D,
        max_length=L,
        item_encoder=IdEmbeddingConfig(),
        user_encoder=ENCODERS[encoder],
        objective=ClassificationConfig(),
    ).build(num_items=9)
    model.answer(Targets(K, of_items=False))
    assert model.task is not None
    nn.init.normal_(model.task.token.weight)
    nn.init.normal_(model.task.targets.weight)
    return model


EVERY_ENCODER = pytest.mark.parametrize("encoder", ENCODERS)


def batch_of(histories: list[list[int]], targets: list[int]) -> SequenceBatch:
    """Pool row r is item r + 1."""
    padded = torch.tensor([[0] * (L - len(history)) + history for history in histories])
    rows = len(histories)
    return SequenceBatch(
        content=without_content(torch.arange(1, 10)),
        inputs=(padded - 1).clamp(min=0),
        input_mask=padded > 0,
        targets=torch.tensor(targets).unsqueeze(1),
        target_mask=torch.ones(rows, 1, dtype=torch.bool),
        scored=torch.arange(rows),
        negatives=torch.zeros(rows, 1, 0, dtype=torch.int64),
        log_popularity=torch.zeros(9),
        draws=0,
        owned=None,
        user_ids=[f"u{n}" for n in range(rows)],
        counts={"classification": rows},
        occurrences=int((padded > 0).sum()),
    )


@EVERY_ENCODER
def test_the_loss_is_the_cross_entropy_of_the_scores_that_evaluation_takes(encoder: str) -> None:
    model, histories, targets = build(encoder).eval(), [[3, 7, 5], [1, 2, 3, 4, 5, 6]], [2, 0]
    batch = batch_of(histories, targets)
    users = model.encode_users(model.encode_items(batch.content)[batch.inputs], batch.input_mask)
    vectors = model.encode_targets(torch.zeros(10, D))
    assert vectors.shape == (K + 1, D)
    assert not vectors[0].any()
    expected = nn.functional.cross_entropy(users @ vectors[1:].T, torch.tensor(targets), reduction="sum")
    torch.testing.assert_close(model(batch)["classification"], expected)


@EVERY_ENCODER
def test_every_item_that_fits_beside_the_token_has_a_say_and_padding_has_none(encoder: str) -> None:
    model = build(encoder).eval()

    def answer(history: list[int], padding: int = 0) -> Tensor:
        batch = batch_of([history], [0])
        items = model.encode_items(batch.content)[batch.inputs]
        return model.encode_users(items + padding * ~batch.input_mask.unsqueeze(-1), batch.input_mask)

    history = [1, 2, 3, 4]
    for place in range(len(history)):
        changed = [*history[:place], 9, *history[place + 1 :]]
        assert not torch.allclose(answer(changed), answer(history)), place
    torch.testing.assert_close(answer(history, padding=7), answer(history), rtol=0, atol=0)


@EVERY_ENCODER
def test_token_and_table_get_gradients(encoder: str) -> None:
    model = build(encoder)
    model(batch_of([[3, 7, 5], []], [2, 0]))["classification"].backward()
    assert model.task is not None
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.task.parameters())
