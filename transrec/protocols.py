"""The contracts between rooms: all that one part may ask of another.

Data, training and evaluation know components by these only. Parts with parameters are base classes, so that a
newcomer inherits what is the same for nearly all of them; the others are protocols, which any class of the right shape
fulfils.

Designs considered for finding things in a model. Prefixes and pieces of parameter names, as before: a model that
names its parts otherwise was passed over without a word. A registry that every module has to enter itself in: one more
thing to forget. Taken: the model is asked, and answers with its modules.

Shape letters: U distinct items of a batch, D width, B users or questions, L positions, N items of the catalogue.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor, nn

from transrec.config import Config
from transrec.data.batch import ItemContent, Sampling, Targets

Modality = Literal["text", "image"]
Part = Literal["valid", "test"]
Score = Callable[[int, int], Tensor]  # (a, b) -> (B, b - a), the scores of targets a..b-1 for each of B users
Scorer = Callable[[Any], Any]  # from questions of a kind to answers; of ranked targets, a `Score`

# Batches and examples


class Batch(Protocol):
    """A frozen dataclass: the stream sets `digest`, the trainer `content.passes`, and every tensor is moved along."""

    @property
    def content(self) -> ItemContent:
        """The distinct items of the batch."""
        ...

    @property
    def size(self) -> int:
        """Examples; empty slots do not count."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """How many terms each loss of the model sums up, by the loss's name."""
        ...

    @property
    def occurrences(self) -> int:
        """Item slots that an encoder without the pool of distinct items would run."""
        ...

    @property
    def positions(self) -> tuple[int, int]:
        """(positions of histories that are filled, positions computed on)."""
        ...

    @property
    def digest(self) -> int:
        """A number that tells which examples lie in which slots; it adds up over the parts of a global batch."""
        ...


class Example(Protocol):
    """One slot of a batch."""

    @property
    def user_id(self) -> str: ...

    @property
    def key(self) -> str:
        """A name that tells this example from every other of the run."""
        ...


Collation = Callable[[int, int, Sequence[Any]], Any]  # (step, first slot, examples; None: an empty slot) -> Batch


class Examples(Protocol):
    """A kind of example: what a run learns from, and what it is asked."""

    name: str
    targets: Targets

    @property
    def folder(self) -> Any:
        """The set of shards."""
        ...

    @property
    def counts(self) -> Sequence[int]:
        """Training examples of each block of users."""
        ...

    @property
    def block_shard(self) -> NDArray[np.int64]:
        """(blocks,) the number of the shard that each block lies in."""
        ...

    @property
    def skipped(self) -> Mapping[int, Any]:
        """Blocks of users that are left out as unreadable, by number."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Hashes, by name, of what the examples are made from besides the shards: a checkpoint belongs to them."""
        ...

    @property
    def ranked(self) -> NDArray[np.int64]:
        """Targets that are ranked, ascending."""
        ...

    @property
    def nobody(self) -> Any:
        """A question about nobody, on which a rank without questions keeps step with the others."""
        ...

    def example(self, number: int, within: int) -> Any:
        """Training example `within` of block `number`."""
        ...

    def collation(self, store: Any, sampling: Sampling, seed: int) -> Collation:
        """The function that makes batches."""
        ...

    def questions(self, part: Part, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        """This rank's questions, a block at a time; None for a block without any."""
        ...

    def question_users(self, part: Part) -> list[str]:
        """The user id of each question, in the order of the data."""
        ...

    def target_names(self) -> pa.StringArray:
        """The names of the targets; target t is entry t - 1."""
        ...

    def training_size(self) -> dict[str, int]:
        """Counts of what training sees."""
        ...


class Stream(Protocol):
    """Training batches by step number, a function of (seed, step)."""

    seed: int

    def __len__(self) -> int:
        """Steps of an epoch."""
        ...

    def epoch_of(self, step: int) -> int: ...

    def slots(self, step: int) -> Sequence[Example | None]:
        """The examples of a step; None for an empty slot."""
        ...

    def load(self, start: int, stop: int, workers: int) -> Generator[list[Any]]:
        """The micro-batches of the steps [start, stop) on this rank."""
        ...


class Engine(Protocol):
    """DeepSpeed's engine around a `Model`, as far as the training loop uses it."""

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
    """An encoder with places where adaptation can attach; without any, by default.

    A site is named alike in all encoders (`query`, `attention_output`, `ffn_output`, …); its paths are those of its
    modules, relative to the encoder, one a layer, or one alone for `embeddings`, `readout` and `fusion`.
    """

    modality: str = "text"  # of the items
    hidden_size: int = 0  # width of the last states
    num_layers: int = 0  # layers with sites
    pretrained: ClassVar[tuple[str, ...]] = ()  # child modules that come with weights of their own
    body: ClassVar[tuple[str, ...]] = ()  # child modules that are the tower itself; none named: all of them
    passes: ClassVar[tuple[str, ...]] = ()  # methods that an encoder around it calls in place of `forward`

    def __init__(self) -> None:
        super().__init__()
        self.site_paths: dict[str, list[str]] = {}
        self.layer_paths: list[tuple[str, ...]] = []  # modules of what `last_layers` counts as layers, first to last
        self.second_norms: list[str] = []  # the LayerNorm behind the second sub-layer of each layer

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass; by default there is nothing worth it."""


class ItemEncoder(TowerEncoder):
    """`forward(content) -> (U, D)`: the vector of each distinct item.

    Its configuration says by `content()` what the item store has to hold, by modality, and by `embeds_ids` whether its
    weights belong to the items of one catalogue; `build(width, num_items)` makes the encoder.
    """

    @property
    def parts(self) -> dict[str, "ItemEncoder"]:
        """The encoders that it consists of, by modality; alone, itself."""
        return {self.modality: self}


class UserEncoder(TowerEncoder):
    """`forward(items (B, L, D), mask (B, L)) -> (B, L, D)`: the state after each item of left-padded histories.

    Its configuration has `causal`, whether a state depends on the items up to it alone, and `build(width, max_length)`.
    """


class Objective(nn.Module):
    """`forward(states (B, P, D), pool (U, D), batch) -> scalar`: the sum of a loss's terms over scored positions.

    Its parameters, if it has any, belong to the head: they train unless a run freezes its head, and are exported. They
    start anew in every run.

    `logits` turns user vectors (B, D) into those whose inner products with targets are the loss's logits. It is a
    module, because the model calls it outside `forward`: ZeRO-3 gathers parameters where the module that owns them is
    called.
    """

    def __init__(self, sampling: Sampling) -> None:
        super().__init__()
        self.sampling = sampling
        self.name = sampling.loss
        self.logits: nn.Module = nn.Identity()


class Adapter(nn.Module):
    """`forward(x, y)`: the new output of a site, from the site's input x and its own output y."""


@dataclass(frozen=True)
class Tower:
    """A part of a model that adaptation, learning rates and costs know by name."""

    prefix: str  # path of the part in the model
    encoder: TowerEncoder
    group: str  # widths and ranks of adapters are set by this name: `item`, `user`, or a name of its own
    modality: str  # what it reads, or what the items behind it are made of; learning rates of adapters depend on it
    parts: tuple["Tower", ...] = ()  # the towers that it is made of, of several modalities

    @property
    def leaves(self) -> tuple["Tower", ...]:
        """The towers whose layers have sites: its parts, or itself."""
        return self.parts or (self,)


class Model(nn.Module):
    """`forward(batch) -> {name: sum of terms}`: losses, which the trainer divides by `batch.counts[name]` and adds up.

    DeepSpeed wraps it. On every rank each step runs the same passes of every module.
    """

    def towers(self) -> dict[str, Tower]:
        """The parts that `towers:` of an adaptation may name."""
        return {}

    def always_trained(self) -> list[nn.Module]:
        """Modules that are new in this run, whatever it starts from: no adaptation freezes them."""
        return []

    def answer(self, targets: Targets) -> None:
        """Predict `targets` from now on; a model of items has nothing to do for those of the catalogue."""
        if not targets.of_items:
            raise NotImplementedError(f"{type(self).__name__} predicts items, not targets of a task")

    def encode_items(self, content: ItemContent) -> Tensor:
        """Item vectors (U, D)."""
        raise NotImplementedError

    def scorer(self, items: Tensor) -> Scorer:
        """The function that answers questions over a catalogue of item vectors (N + 1, D), row 0 of zeros."""
        raise NotImplementedError

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass."""


class ModelSettings(Config):
    """The configuration of a model, and what a run asks of it before the model exists."""

    max_length: int
    never_inherited: ClassVar[tuple[str, ...]] = ()  # modules that start anew in every run
    replaced_by_targets: ClassVar[tuple[str, ...]] = ()  # modules of a source that a run of other targets does without

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
        """Modalities that its towers read; adapters of a model that reads ids learn at the rates for text."""
        return tuple(self.content()) or ("text",)

    def content(self) -> dict[str, Any]:
        """Content that the item store has to hold, by modality."""
        return {}

    def check_examples(self, kind: str) -> None:
        """
        Raises:
            ValueError: the model cannot learn from examples of this kind.
        """

    def build(self, num_items: int) -> Model:
        """The model with fresh or pretrained weights."""
        raise NotImplementedError

    def save_assets(self, export: Path) -> None:
        """Put beside the weights what is needed to build the model again: architectures, tokenizers."""

    def from_export(self, export: Path) -> Any:
        """These settings with all that they need taken from `export`."""
        return self


class CatalogueTable(nn.Module):
    """A module whose rows belong to the items of one catalogue: its weights do not carry over to another."""
