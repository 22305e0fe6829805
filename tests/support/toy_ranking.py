"""A toy of another shape than the project's models: it ranks shown items, with two heads and a tower of its own.

It stands for whatever a newcomer brings: a model, a kind of example, its questions, readings and a metric.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.config import Config
from transrec.data.batch import ItemContent, Sampling, Targets
from transrec.data.examples import DataConfig, NextItemExamplesConfig
from transrec.data.examples.histories import HistoriesConfig, open_users
from transrec.data.shards.user_shards import UserShards
from transrec.evaluation.evaluator import Kind
from transrec.evaluation.metric import MeanMetric
from transrec.evaluation.readings import Reading
from transrec.experiment import Experiment
from transrec.models.sequential_recommender import SequentialRecommenderConfig
from transrec.protocols import Model, ModelSettings, Part, Scorer, Tower, TowerEncoder

HEADS = ("click", "buy")

# The model


class RankerConfig(ModelSettings):
    name: Literal["toy_ranker"] = "toy_ranker"
    max_length: int = 1
    width: int = 8

    @property
    def sampling(self) -> Sampling:
        return Sampling()

    def build(self, num_items: int) -> "Ranker":
        return Ranker(self, num_items)


class Interest(TowerEncoder):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, width)
        self.hidden_size, self.num_layers = width, 1
        self.site_paths = {"interest_key": ["key"]}

    def forward(self, items: Tensor) -> Tensor:
        return self.key(items).tanh()


class Ranker(Model):
    def __init__(self, config: RankerConfig, num_items: int) -> None:
        super().__init__()
        self.content = nn.Embedding(num_items + 1, config.width)
        self.interest = Interest(config.width)
        self.heads = nn.ModuleDict({head: nn.Linear(2 * config.width, 1) for head in HEADS})

    def towers(self) -> dict[str, Tower]:
        return {"interest": Tower("interest", self.interest, "interest", "text")}

    def forward(self, batch: "ImpressionBatch") -> dict[str, Tensor]:
        logits = self.logits(self.encode_items(batch.content)[batch.candidate])
        return {
            head: F.binary_cross_entropy_with_logits(logits[head], batch.labels[:, i], reduction="sum")
            for i, head in enumerate(HEADS)
        }

    def logits(self, items: Tensor) -> dict[str, Tensor]:
        features = torch.cat([items, self.interest(items)], dim=-1)
        return {name: head(features)[:, 0] for name, head in self.heads.items()}

    def encode_items(self, content: ItemContent) -> Tensor:
        return self.content(content.items)

    def scorer(self, items: Tensor) -> Scorer:
        return lambda shown: self.logits(items[shown.candidate.to(items.device)])["click"]


# Its examples


class Impression(NamedTuple):
    user_id: str
    place: int
    candidate: int

    @property
    def key(self) -> str:
        return f"{self.user_id}\0{self.place}"

    @property
    def labels(self) -> tuple[float, float]:
        return float(self.candidate % 2), float(self.candidate % 3 == 0)


@dataclass(frozen=True)
class ImpressionBatch:
    content: ItemContent
    candidate: Tensor  # (B,) pool rows
    labels: Tensor  # (B, 2)
    counts: Mapping[str, int] = field(default_factory=dict)
    digest: int = 0

    @property
    def size(self) -> int:
        return len(self.candidate)

    occurrences = size

    @property
    def positions(self) -> tuple[int, int]:
        return self.size, self.size


@dataclass(frozen=True)
class Shown:
    """Questions about B items shown to users."""

    users: Tensor
    candidate: Tensor
    labels: Tensor


class ImpressionsConfig(Config):
    name: Literal["impressions"] = "impressions"

    def scan(self, config: HistoriesConfig, max_length: int, agree: Any = set) -> "Impressions":
        return Impressions(open_users(config, agree))


class Impressions:
    """Every interaction is an impression; the last of each user validates and tests."""

    name = "impressions"

    def __init__(self, shards: UserShards) -> None:
        self.shards, self.folder, self.skipped = shards, shards.folder, shards.skipped
        self.targets, self.block_shard, self.identity = Targets(shards.index.counts.items), shards.block_shard, {}
        self.counts = [len(shards.block(number).items) - len(shards.block(number)) for number in range(len(shards))]

    @property
    def ranked(self) -> NDArray[np.int64]:
        return np.arange(1, self.targets.size + 1)

    def check_training(self) -> None:
        assert sum(self.counts)

    def example(self, number: int, within: int) -> Impression:
        block = self.shards.block(number)
        last = block.offsets[1:] - 1
        place = int(np.delete(np.arange(len(block.items)), last)[within])
        user = int(np.searchsorted(block.offsets, place, side="right")) - 1
        return Impression(block.user_ids[user].as_py(), place, int(block.items[place]))

    def collation(self, store: Any, sampling: Sampling, seed: int) -> Any:
        def collate(step: int, first_slot: int, shown: Sequence[Impression | None]) -> ImpressionBatch:
            filled = [impression for impression in shown if impression is not None]
            items, rows = np.unique([i.candidate for i in filled] or [1], return_inverse=True)
            labels = torch.tensor([i.labels for i in filled]).reshape(-1, 2)
            counts = dict.fromkeys(HEADS, len(filled))
            return ImpressionBatch(store.content(items), torch.from_numpy(rows)[: len(filled)], labels, counts)

        return collate

    def sample_users(self, part: str, most: int) -> None:
        return None

    def questions(self, part: str, rank: int = 0, world_size: int = 1, sample: None = None) -> Iterator[Shown | None]:
        for turn in range(-(-len(self.shards) // world_size)):
            number = turn * world_size + rank
            yield self._shown(number) if number < len(self.shards) else None

    def _shown(self, number: int) -> Shown:
        block = self.shards.block(number)
        items = torch.from_numpy(block.items[block.offsets[1:] - 1].astype(np.int64))
        return Shown(torch.arange(len(items)) + 1000 * number, items, (items % 2).float())

    @property
    def nobody(self) -> Shown:
        return Shown(torch.zeros(1), torch.ones(1, dtype=torch.int64), torch.zeros(1))

    def question_users(self, part: str, sample: None = None) -> Iterator[pa.StringArray]:
        return (self.shards.block(number).user_ids for number in range(len(self.shards)))

    def target_names(self) -> pa.StringArray:
        return pa.array([], pa.string())

    def remarks(self, part: Part) -> list[str]:
        return []

    def training_size(self) -> dict[str, int]:
        return {"impressions": sum(self.counts), "windows": sum(self.counts)}


# Its evaluation


class Accuracy(MeanMetric):
    """The share of impressions whose click has the more probable label: a metric of a score."""

    name = "click_accuracy"
    reads = ("score", "label")

    def values(self, *columns: Tensor) -> Tensor:
        score, label = columns
        return ((score > 0) == (label > 0)).double()


JUDGED = Kind(
    readings={
        "user": Reading(lambda context, shown, scores: shown.users),
        "score": Reading(lambda context, shown, scores: scores, torch.float64),
        "label": Reading(lambda context, shown, scores: shown.labels),
    },
    context=lambda config, examples, world: None,
    baselines=(),
    kept=("score", "label"),
)

# The unions with one line more


class ToyData(DataConfig):
    examples: Annotated[NextItemExamplesConfig | ImpressionsConfig, Field(discriminator="name")]


class ToyExperiment(Experiment):
    data: ToyData
    model: Annotated[SequentialRecommenderConfig | RankerConfig, Field(discriminator="name")]
