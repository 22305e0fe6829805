"""Interfaces between packages: everything that one package may require of another.

Data, training and evaluation use components only through these. Components with parameters are base classes, so that a
new one inherits the defaults that suit nearly all of them; the others are protocols, which any class with the right
methods satisfies.

Designs considered for finding modules in a model. Matching parts of parameter names: a model with other
names is silently skipped. A registry in which every module must be entered: easy to forget. Chosen: methods of the
model that return its modules.

Shape letters: U distinct items of a batch, D width, B users or questions, L positions, N items of the catalogue.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor, nn

from transrec.config import Config
from transrec.data.batch import ItemContent, Sampling, SeenItems, Targets

Modality = Literal["text", "image"]
Part = Literal["valid", "test"]
Score = Callable[[int, int], Tensor]  # (a, b) -> (B, b - a), the scores of targets a..b-1 for each of B users
Scorer = Callable[[Any], Any]  # maps questions to answers; for ranked targets, to a `Score`


class BoundedScore(ABC):
    """A `Score` that can also be computed faster, with a bounded error, and for single items."""

    @abstractmethod
    def __call__(self, a: int, b: int) -> Tensor: ...

    @abstractmethod
    def rough(self, a: int, b: int) -> Tensor:
        """Approximate scores (B, b - a), in memory that the caller may overwrite and that the next call overwrites."""

    @abstractmethod
    def margin(self, a: int, b: int) -> Tensor:
        """(B, 1) a bound on the error of `rough`, including the rounding when the bound is added to a score. If
        a bound is not finite, the scores are not finite either, or are too large for a bound."""

    @abstractmethod
    def at(self, rows: Tensor, items: Tensor) -> Tensor:
        """(P,) the exact scores of `items` for users `rows`; pairs with equal vectors have equal scores."""

    @abstractmethod
    def joined(self, others: Sequence[Any]) -> "BoundedScore":
        """The scores of these users, followed by those of others, over the same targets."""


# Batches and examples


class Batch(Protocol):
    """A frozen dataclass. The stream sets `digest`; the trainer sets the parts of `content` that ranks agree on, and
    moves all tensors to the device."""

    @property
    def content(self) -> ItemContent:
        """The distinct items of the batch."""
        ...

    @property
    def size(self) -> int:
        """Number of examples, without empty slots."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of terms in the sum of each loss, by loss name."""
        ...

    @property
    def occurrences(self) -> int:
        """Number of item slots that would be encoded without pooling distinct items."""
        ...

    @property
    def positions(self) -> tuple[int, int]:
        """Numbers of history positions: (filled, computed)."""
        ...

    @property
    def digest(self) -> int:
        """Hash of which examples are in which slots; the hashes of the parts of a global batch add up to its own."""
        ...


class Example(Protocol):
    """One slot of a batch."""

    @property
    def user_id(self) -> str: ...

    @property
    def key(self) -> str:
        """A key that is unique among the examples of the run."""
        ...


Collation = Callable[[int, int, Sequence[Any]], Any]  # (step, first slot, examples, None for an empty slot) -> Batch


class Evidence(Protocol):
    """Scores of candidates that follow from a history alone, without a user encoder."""

    def scores(self, seen: SeenItems) -> Any:
        """The scores (B, N + 1) of every item after each history, at least 0: a sparse matrix of scipy in CSR form."""
        ...


class Examples(Protocol):
    """A kind of example: the training examples and evaluation questions of a run."""

    name: str
    targets: Targets

    @property
    def folder(self) -> Any:
        """The set of shards."""
        ...

    @property
    def counts(self) -> Sequence[int]:
        """Number of training examples in each block of users."""
        ...

    @property
    def block_shard(self) -> NDArray[np.int64]:
        """(blocks,) the number of the shard that contains each block."""
        ...

    @property
    def skipped(self) -> Mapping[int, Any]:
        """Unreadable blocks of users, which are skipped, by block number."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Hashes of the inputs besides the shards, by name; a checkpoint is valid only for the same hashes."""
        ...

    @property
    def ranked(self) -> NDArray[np.int64]:
        """The targets that are ranked, in ascending order."""
        ...

    @property
    def nobody(self) -> Any:
        """A dummy question, with which a rank that has no questions left takes part in collectives."""
        ...

    @property
    def evidence(self) -> Sequence[Evidence]:
        """The evidence whose scores are part of questions."""
        ...

    def check_training(self) -> None:
        """Check that there is something to train on; evaluation does not need it.

        Raises:
            ConfigError: there is nothing.
        """
        ...

    def example(self, number: int, within: int) -> Any:
        """Training example `within` of block `number`."""
        ...

    def collation(self, store: Any, sampling: Sampling, seed: int) -> Collation:
        """The function that builds batches."""
        ...

    def sample_users(self, part: Part, most: int) -> Any:
        """A sample of `most` users who have a question of `part`, the same on every rank; None if at most that many
        users have one, so that all are evaluated."""
        ...

    def questions(self, part: Part, rank: int = 0, world_size: int = 1, sample: Any = None) -> Iterator[Any]:
        """This rank's questions about the users of the sample, or about all users, one block at a time; None for a
        block without questions."""
        ...

    def question_users(self, part: Part, sample: Any = None) -> Iterator[pa.StringArray]:
        """The user id of each question, in the order of the data, one block at a time."""
        ...

    def target_names(self) -> pa.StringArray:
        """The target names; target t is entry t - 1."""
        ...

    def training_size(self) -> dict[str, int]:
        """Sizes of the training data, by name."""
        ...

    def remarks(self, part: Part) -> list[str]:
        """Remarks on the questions of `part` that prevent a misreading of their results."""
        ...


class Stream(Protocol):
    """Training batches by step number; each is a function of (seed, step)."""

    seed: int

    def __len__(self) -> int:
        """Number of steps in an epoch."""
        ...

    def epoch_of(self, step: int) -> int: ...

    def slots(self, step: int) -> Sequence[Example | None]:
        """The examples of a step; None for an empty slot."""
        ...

    def load(self, start: int, stop: int, workers: int) -> Generator[list[Any]]:
        """The micro-batches of the steps [start, stop) on this rank."""
        ...


class Engine(Protocol):
    """The part of DeepSpeed's engine around a `Model` that the training loop uses."""

    module: Any
    optimizer: Any

    def __call__(self, batch: Any) -> dict[str, Tensor]: ...

    def train(self) -> Any: ...

    def backward(self, loss: Tensor) -> Any: ...

    def step(self) -> Any: ...

    def is_gradient_accumulation_boundary(self) -> bool: ...

    def zero_optimization(self) -> bool: ...

    def zero_optimization_stage(self) -> int: ...

    def get_global_grad_norm(self) -> Any: ...


# Models and their parts


class TowerEncoder(nn.Module):
    """An encoder with sites where adapters can be attached; none by default.

    Sites have the same names in all encoders (`query`, `attention_output`, `ffn_output`, …). The paths of a site are
    module paths relative to the encoder: one per layer, or a single one for `embeddings`, `readout` and `fusion`.
    """

    modality: str = "text"  # of the items it encodes
    hidden_size: int = 0  # width of the final hidden states
    num_layers: int = 0  # number of layers with sites
    pretrained: ClassVar[tuple[str, ...]] = ()  # child modules with pretrained weights
    body: ClassVar[tuple[str, ...]] = ()  # child modules that make up the tower itself; empty: all of them
    passes: ClassVar[tuple[str, ...]] = ()  # methods that an enclosing encoder calls instead of `forward`

    def __init__(self) -> None:
        super().__init__()
        self.site_paths: dict[str, list[str]] = {}
        self.layer_paths: list[tuple[str, ...]] = []  # modules of each layer that `last_layers` counts, in order
        self.second_norms: list[str] = []  # the LayerNorm after the second sub-layer of each layer

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass; does nothing by default."""

    def compile_passes(self) -> None:
        """Compile the passes over the chunks of a training batch; does nothing by default."""


class ItemEncoder(TowerEncoder):
    """`forward(content) -> (U, D)`: the vector of each distinct item.

    Its configuration defines `content()`, the content that the item store must hold, by modality; `embeds_ids`, whether
    its weights belong to the items of one catalogue; and `build(width, num_items)`, which creates the encoder.
    """

    def enable_gradient_checkpointing(self, passes: bool = False) -> None:
        """Recompute activations in the backward pass; does nothing by default.

        Args:
            passes: recompute each pass over a chunk of items as a whole, instead of each layer. Between the forward and
                the backward pass, only the inputs and the item features of a chunk are then kept, whatever the depth of
                the encoder, as in GradCache (Gao et al., 2021, arXiv:2101.06983), so time rather than memory limits the
                number of items in a step.
        """

    @property
    def parts(self) -> dict[str, "ItemEncoder"]:
        """The encoders that it combines, by modality; a single encoder returns itself."""
        return {self.modality: self}


class UserEncoder(TowerEncoder):
    """`forward(items (B, L, D), mask (B, L)) -> (B, L, D)`: the state after each item of left-padded histories.

    Its configuration defines `causal`, whether a state depends only on the items up to it, and
    `build(width, max_length)`, which creates the encoder.
    """


class Interest(TowerEncoder):
    """`forward(candidates (B, D), history (B, L, D), mask (B, L)) -> (B, D)`: a summary of each history with respect to
    its candidate.

    It is zero for an empty history; values where the mask is False have no effect. Its configuration defines
    `build(width)`, which creates it.
    """


class Objective(nn.Module):
    """`forward(states (B, P, D), pool (U, D), batch) -> scalar`: a loss, summed over scored positions.

    Parameters of an objective belong to the head: they are trained unless a run freezes its head, and are exported.
    They are initialised anew in every run.

    `logits` maps user vectors (B, D) to vectors whose inner products with targets are the loss's logits. It is a module
    because the model calls it outside `forward`, and ZeRO-3 gathers parameters only when the module that owns them is
    called.
    """

    def __init__(self, sampling: Sampling) -> None:
        super().__init__()
        self.sampling = sampling
        self.name = sampling.loss
        self.logits: nn.Module = nn.Identity()


class Adapter(nn.Module):
    """`forward(x, y)`: the new output of a site, given its input x and its original output y."""


@dataclass(frozen=True)
class Tower:
    """A part of a model that adaptation, learning rates and cost reports refer to by name."""

    prefix: str  # path of the part in the model
    encoder: TowerEncoder
    group: str  # key for the widths and ranks of adapters: `item`, `user` or another name
    modality: str  # of its input, or of the items in its input; sets the learning rates of adapters
    parts: tuple["Tower", ...] = ()  # the towers it combines, if it has several modalities

    @property
    def leaves(self) -> tuple["Tower", ...]:
        """The towers whose layers have sites: its parts, or itself if it has none."""
        return self.parts or (self,)


class Model(nn.Module):
    """`forward(batch) -> {name: sum of terms}`: losses, which the trainer divides by `batch.counts[name]` and adds up.

    DeepSpeed wraps it. Every rank must run the same forward passes of every module in each step.
    """

    def towers(self) -> dict[str, Tower]:
        """The parts that an adaptation can select with `towers:`, by name."""
        return {}

    def always_trained(self) -> list[nn.Module]:
        """Modules that are new in every run, whatever it starts from; no adaptation freezes them."""
        return []

    def answer(self, targets: Targets) -> None:
        """Predict `targets` from now on; a model that predicts items needs no change if the targets are items."""
        if not targets.of_items:
            raise NotImplementedError(f"{type(self).__name__} predicts items, not targets of a task")

    def encode_items(self, content: ItemContent) -> Tensor:
        """Item vectors (U, D)."""
        raise NotImplementedError

    def user_vectors(self, items: Tensor, mask: Tensor) -> Tensor:
        """User vectors (B, W) of left-padded histories: item vectors (B, L, D) and mask (B, L).

        Their inner products with `target_vectors` are the scores before evidence is added. A model that reads a history
        anew for each candidate has no user vectors.
        """
        raise NotImplementedError

    def target_vectors(self, items: Tensor) -> Tensor:
        """Vectors (N + 1, W) that users are scored against, for the item vectors (N + 1, D); row 0 is padding."""
        raise NotImplementedError

    def scorer(self, items: Tensor) -> Scorer:
        """The function that answers questions over a catalogue of item vectors (N + 1, D), whose row 0 is zeros."""
        raise NotImplementedError

    def enable_gradient_checkpointing(self, passes: bool = False) -> None:
        """Recompute activations in the backward pass; `passes` as in `ItemEncoder.enable_gradient_checkpointing`."""

    def compile_passes(self) -> None:
        """Compile the item encoder's passes in training."""


class ModelSettings(Config):
    """The configuration of a model, and properties that a run needs before the model is built."""

    max_length: int
    never_inherited: ClassVar[tuple[str, ...]] = ()  # modules initialised anew in every run
    replaced_by_targets: ClassVar[tuple[str, ...]] = ()  # source modules not loaded if a run has other targets

    @property
    def sampling(self) -> Sampling:
        """The targets and negatives that its batches need."""
        raise NotImplementedError

    @property
    def embeds_ids(self) -> bool:
        """Whether any of its weights belong to the items of one catalogue."""
        return False

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that its towers read; a model that reads ids counts as text for adapter learning rates."""
        return tuple(self.content()) or ("text",)

    def content(self) -> dict[str, Any]:
        """Content that the item store must hold, by modality."""
        return {}

    def looked_up(self) -> Sequence[Any]:
        """Settings of the evidence whose scores are part of questions."""
        return ()

    def check_examples(self, kind: str) -> None:
        """
        Raises:
            ValueError: the model cannot learn from examples of this kind.
        """

    def build(self, num_items: int) -> Model:
        """The model with fresh or pretrained weights."""
        raise NotImplementedError

    def save_assets(self, export: Path) -> None:
        """Save the files needed to rebuild the model beside its weights: architectures, tokenizers."""

    def from_export(self, export: Path) -> Any:
        """These settings, with all required files taken from `export`."""
        return self

    def known_from(self, export: Path) -> Any:
        """These settings, with the statistics of the training data that determine weight shapes taken from `export`."""
        return self


class CatalogueTable(nn.Module):
    """A module whose rows belong to the items of one catalogue: its weights cannot be used with another."""


class FittedWeights(nn.Module):
    """A module whose buffers are fitted on the validation set after training, and exported with the trained weights."""


class EmbeddingTable(nn.Module):
    """A table with a row for each value of a feature. It may have a learning rate of its own, and has no weight decay,
    which would shrink the rows of values that do not occur in a step."""
