"""Readings and the pass that gathers them: of another kind of question, over ranks, and only of what is asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from transrec.distributed.world import World
from transrec.evaluation import readings
from transrec.evaluation.estimates import Counts, Interval, Statistic
from transrec.evaluation.evaluator import KINDS
from transrec.evaluation.measure import measure
from transrec.evaluation.metric import Metric
from transrec.evaluation.metrics import METRICS, METRICS_AT_K, metric
from transrec.evaluation.readings import READINGS, READINGS_AT_K, Ranking, Reading, at_cutoffs, join_targets
from transrec.nn.dot_product import InnerProducts


@dataclass(frozen=True)
class Shown:
    """Toy questions: B items that were shown to users, and which of them were clicked."""

    users: Tensor
    features: Tensor  # (B, 2)
    labels: Tensor


SHOWN: dict[str, Reading[Tensor, Shown, Tensor]] = {
    "user": Reading(lambda weights, shown, scores: shown.users),
    "label": Reading(lambda weights, shown, scores: shown.labels),
    "score": Reading(lambda weights, shown, scores: scores, torch.float64),
}


class AUC(Metric):
    """How often a clicked item is scored above one that was not; ties count half."""

    name = "AUC"
    reads = ("score", "label")

    def statistic(self, *columns: Tensor) -> Statistic:
        score, label = (column.numpy() for column in columns)
        above = (score[:, None] > score) + 0.5 * (score[:, None] == score)
        pairs = np.outer(label, 1 - label)

        def auc(counts: Counts) -> np.ndarray:
            return np.einsum("ri,ij,rj->r", counts, above * pairs, counts) / np.einsum(
                "ri,ij,rj->r", counts, pairs, counts
            )

        return auc


@pytest.fixture
def auc(monkeypatch: pytest.MonkeyPatch) -> Metric:
    monkeypatch.setitem(METRICS, "AUC", AUC())
    return metric("AUC")


ALONE = World()
WEIGHTS = torch.tensor([1.0, -0.5])


def batches(count: int = 7) -> list[Shown]:
    """Two users in each, of whom one likes what the scores are high for, and the other by chance the contrary."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        features = torch.from_numpy(rng.standard_normal((12 + number, 2))).float()
        of_second = torch.arange(12 + number) > 5
        tastes = torch.where(of_second, 3.0, float(rng.choice([-2.0, 2.0])))
        chances = torch.sigmoid(tastes * (features @ WEIGHTS)).numpy()
        labels = torch.from_numpy(rng.random(12 + number) < chances).long()
        found.append(Shown(2 * number + of_second.long(), features, labels))
    return found


def scores(shown: Shown | None) -> Tensor:
    return torch.zeros(0) if shown is None else shown.features @ WEIGHTS


def ask(names: tuple[str, ...], world: World = ALONE, shown: list[Shown | None] | None = None) -> dict[str, Tensor]:
    asked = {name: SHOWN[name] for name in names}
    return measure(batches() if shown is None else shown, scores, asked, WEIGHTS, world)


def test_a_metric_of_another_kind_of_question_is_a_class_and_a_table_of_readings(auc: Metric) -> None:
    columns = ask(("user", *auc.reads))
    found = auc.estimate([columns[name] for name in auc.reads], columns["user"], Interval(resamples=200))
    clicked, left = (columns["score"][columns["label"] == of].numpy() for of in (1, 0))
    expected = stats.mannwhitneyu(clicked, left).statistic / (len(clicked) * len(left))
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high


def test_its_interval_draws_whole_users(auc: Metric) -> None:
    columns = ask(("user", *auc.reads))
    read = [columns[name] for name in auc.reads]
    found = auc.estimate(read, columns["user"], Interval(0.9, 2000))
    rng, of_user = np.random.default_rng(1), [np.flatnonzero(columns["user"] == u) for u in columns["user"].unique()]
    drawn = []
    for _ in range(1000):
        rows = np.concatenate([of_user[i] for i in rng.integers(len(of_user), size=len(of_user))])
        drawn.append(float(auc.statistic(*(column[rows] for column in read))(np.ones((1, len(rows))))[0]))
    low, high = np.quantile(drawn, [0.05, 0.95])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_columns_have_the_type_of_their_reading() -> None:
    found = ask(("user", "label", "score"))
    assert [column.dtype for column in found.values()] == [torch.int64, torch.int64, torch.float64]


class Together(World):
    """A rank of two; what the other has is given."""

    def gather_rows(self, rows: Tensor) -> Tensor:
        other: Tensor = self.control  # type: ignore[assignment]
        return torch.cat([rows, other])


class Rows(World):
    """Keeps what it would send."""

    def gather_rows(self, rows: Tensor) -> Tensor:
        object.__setattr__(self, "control", rows)
        return rows


def test_ranks_together_read_what_one_reads_alone() -> None:
    """Two ranks share seven batches: the first has 0, 2, 4 and 6, the second 1, 3, 5 and an empty one."""
    names = ("user", "label", "score")
    everything = batches()
    second = Rows(rank=1, size=2)
    ask(names, second, [*everything[1::2], None])
    together = ask(names, Together(rank=0, size=2, control=second.control), [*everything[::2]])
    alone = ask(names)
    assert all(together[name].equal(alone[name]) for name in names)


def test_a_rank_answers_also_where_it_has_no_questions() -> None:
    """Under ZeRO-3 its encoder must run."""
    turns: list[Shown | None] = []
    found = measure([None, None], lambda shown: turns.append(shown), {"user": SHOWN["user"]}, WEIGHTS, World())  # type: ignore[arg-type,func-returns-value]
    assert turns == [None, None]
    assert found["user"].shape == (0,)


# Readings of rankings


@dataclass(frozen=True)
class Held:
    users: Tensor
    targets: Tensor
    left_out: Tensor


def ranked(names: tuple[str, ...]) -> dict[str, Tensor]:
    scored = torch.tensor([[0.0, 3.0, 2.0, 1.0], [0.0, 3.0, 2.0, 1.0]])
    asked = Held(torch.tensor([4, 9]), torch.tensor([1, 3]), torch.tensor([[0], [2]]))
    popularity = torch.tensor([0, 4, 2, 2])
    ranking = Ranking(3, torch.arange(4) > 0, "count", torch.device("cpu"), popularity)
    found = {**READINGS, **at_cutoffs(READINGS_AT_K, names)}
    found = {name: found[name] for name in names}
    return measure([asked], lambda _: lambda a, b: scored[:, a:b], found, ranking, World())


def test_readings_of_a_ranking() -> None:
    found = ranked(tuple(READINGS))
    assert found["user"].tolist() == [4, 9]
    assert found["target"].tolist() == [1, 3]
    assert found["rank"].tolist() == [1, 2]
    assert found["sampled_rank"].tolist() == [1, 2]
    assert found["predicted"].tolist() == [1, 1]
    assert ranked(("user", "novelty@1"))["novelty@1"].tolist() == [1, 1]
    assert ranked(("user", "novelty@2"))["novelty@2"].tolist() == [1.5, 1.5]
    assert ranked(("user", "novelty@9"))["novelty@9"].tolist() == [pytest.approx(5 / 3), 1.5]  # one item is left out
    logits = torch.tensor([3.0, 2.0, 1.0])
    expected = [float(logits.logsumexp(0)) - 3, float(logits[[0, 2]].logsumexp(0)) - 1]
    torch.testing.assert_close(found["loss"], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("at_once", [1, 5, 1024])
@pytest.mark.parametrize("kind", ["products", "counts"])
def test_batches_that_are_read_together_are_read_as_each(
    at_once: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Histories of different lengths, batches without questions, and two ranks' numbers of batches."""
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(41, 8, generator=generator)
    users, asked = [], []
    for number, size in enumerate([3, 1, 4, 2]):
        users.append(torch.randn(size, 8, generator=generator))
        numbers = (number << 32) + torch.arange(size)
        left_out = torch.randint(0, 41, (size, number + 1), generator=generator)
        asked.append(Held(numbers, torch.randint(1, 41, (size,), generator=generator), left_out))

    table = {**READINGS, **at_cutoffs(READINGS_AT_K, [f"{family}@10" for family in READINGS_AT_K])}

    def answer(one: Held | None) -> Any:
        score = InnerProducts(users[0 if one is None else int(one.users[0]) >> 32], items)
        return score if kind == "products" else score.__call__

    def read(join: Any) -> dict[str, Tensor]:
        ranking = Ranking(40, torch.arange(41) > 0, "count", torch.device("cpu"), torch.arange(41))
        return measure([asked[0], None, *asked[1:], None], answer, table, ranking, World(), join)

    monkeypatch.setattr("transrec.evaluation.measure._QUESTIONS_AT_ONCE", at_once)
    together, apart = read(join_targets), read(None)
    assert all(torch.equal(together[name], apart[name]) for name in table if name != "loss")
    torch.testing.assert_close(together["loss"], apart["loss"], rtol=1e-6, atol=0)


def forbidden(*arguments: object) -> Iterator[Tensor]:
    raise AssertionError("measured, though no metric reads it")


def test_only_what_is_asked_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sampled_candidates", "top_items", "target_losses"):
        monkeypatch.setattr(readings, name, forbidden)
    assert ranked(("user", "rank"))["rank"].tolist() == [1, 2]
    with pytest.raises(AssertionError, match="no metric reads it"):
        ranked(("user", "loss"))


@pytest.mark.parametrize("name", ["sampled_99_HR@5", *METRICS, *(f"{family}@10" for family in METRICS_AT_K)])
def test_every_metric_can_be_read_off_one_kind_of_question(name: str) -> None:
    asked = set(metric(name).reads)
    assert any(asked <= {*kind.readings, *at_cutoffs(kind.readings_at_k, asked)} for kind in KINDS.values())
