"""The sequential recommender: item encoder, user encoder, objective.

Shape letters: B users, L positions, P scored positions, U distinct items of the batch, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.data.batch import ItemContent, Sampling, SequenceBatch, Targets, to_device
from transrec.evidence import EvidenceConfig
from transrec.evidence.terms import EvidenceTerms, check_keys
from transrec.item_encoders import ItemEncoderConfig
from transrec.models.item_towers import item_towers
from transrec.models.mask_token import MaskToken
from transrec.models.output_table import OutputTable
from transrec.models.task_head import TaskHead
from transrec.nn.dot_product import InnerProducts, item_lengths
from transrec.objectives import ObjectiveConfig
from transrec.protocols import Model, ModelSettings, Score, Scorer, Tower
from transrec.user_encoders import UserEncoderConfig


class SequentialRecommenderConfig(ModelSettings):
    """Configuration of `SequentialRecommender`."""

    name: Literal["sequential_recommender"] = Field(
        "sequential_recommender", description="item encoder, user encoder and objective"
    )
    width: int = Field(64, ge=1, description="width of item vectors and user states")
    max_length: int = Field(20, ge=1, description="number of a user's newest items that the user encoder reads")
    item_encoder: ItemEncoderConfig = Field(description="maps an item's content to its vector")
    user_encoder: UserEncoderConfig = Field(description="maps the vectors of a user's items to states")
    objective: ObjectiveConfig = Field(description="training loss on states and item vectors")
    similarity: Literal["dot", "cosine"] = Field(
        "dot",
        description="score of a user state and an item: inner product, or cosine, which needs a small temperature",
    )
    evidence: list[EvidenceConfig] = Field(
        [], description="scores from counts and content that are added to the logits of the trained network"
    )
    output: Literal["tied", "untied"] = Field(
        "tied", description="score items by their encoder's vectors, or by a separate table of vectors and biases"
    )

    never_inherited: ClassVar[tuple[str, ...]] = ("objective",)
    # modules that depend on what the source run predicts: items, or the targets of another task
    replaced_by_targets: ClassVar[tuple[str, ...]] = ("output", "mask_token", "task")

    @property
    def sampling(self) -> Sampling:
        return self.objective.sampling

    @property
    def embeds_ids(self) -> bool:
        return self.item_encoder.embeds_ids or self.output == "untied"

    def content(self) -> dict[str, Any]:
        return self.item_encoder.content()

    def check_examples(self, kind: str) -> None:
        if kind == "impressions":
            raise ValueError("data.examples.name=impressions needs model.name=ranking_model")
        if (kind == "task") != (self.objective.name == "classification"):
            raise ValueError(
                "data.examples.name=task and model.objective.name=classification belong together: set both or neither"
            )
        if kind == "task" and self.output == "untied":
            raise ValueError(
                "a task has its own table of targets, so it cannot use one of items: set model.output=tied"
            )
        if kind == "task" and self.evidence:
            raise ValueError("evidence scores items, but a task has other targets: remove model.evidence")
        if kind == "task" and self.similarity == "cosine":
            raise ValueError("a task scores its targets by inner products: set model.similarity=dot")
        if kind == "task" and self.max_length < 3:
            raise ValueError("a task's token replaces up to two items: set model.max_length to 3 or more")

    def looked_up(self) -> Sequence[EvidenceConfig]:
        return self.evidence

    @model_validator(mode="after")
    def _can_score_by_cosines(self) -> Self:
        if self.similarity == "cosine" and "temperature" not in type(self.objective).model_fields:
            raise ValueError(
                f"similarity=cosine needs a temperature, which {self.objective.name} lacks: choose a softmax "
                "objective, or set similarity=dot"
            )
        if self.similarity == "cosine" and self.output == "untied":
            raise ValueError("similarity=cosine ignores the biases of an untied output: set output=tied")
        return self

    @model_validator(mode="after")
    def _has_each_evidence_once(self) -> Self:
        check_keys(self.evidence)
        return self

    @model_validator(mode="after")
    def _predicts_what_it_has_not_seen(self) -> Self:
        if self.sampling.positions == "all" and not self.sampling.masked and not self.user_encoder.causal:
            raise ValueError(
                f"a user encoder that is not causal reads the items that {self.objective.name} predicts: choose the "
                "objective cloze, or set user_encoder.causal=true"
            )
        return self

    def build(self, num_items: int) -> "SequentialRecommender":
        return SequentialRecommender(self, num_items)

    def save_assets(self, export: Path) -> None:
        self.item_encoder.save_assets(export)

    def from_export(self, export: Path) -> "SequentialRecommenderConfig":
        """These settings with all assets taken from `export`, which holds every weight of the model."""
        return self.model_copy(update={"item_encoder": self.item_encoder.from_export(export)})


class SequentialRecommender(Model):
    """Scores item i for user u by ⟨h_u, e_i⟩; h_u is the state after the user's last item, e_i the item's vector.

    It is TransRec (Fu et al., WSDM 2024) with a modality encoder, and an ID baseline with an ID embedding. The distinct
    items of a batch are encoded once and gathered to the positions where they occur. With a `task`, which is added
    after the initial weights are loaded, it scores the targets of the task instead of items.
    """

    def __init__(self, config: SequentialRecommenderConfig, num_items: int):
        super().__init__()
        self.item_encoder = config.item_encoder.build(config.width, num_items)
        self.user_encoder = config.user_encoder.build(config.width, config.max_length)
        self.objective = config.objective.build()
        self.mask_token = MaskToken(config.width) if config.sampling.masked else None
        self.output = OutputTable(config.width, num_items) if config.output == "untied" else None
        self.evidence = EvidenceTerms(config.evidence)
        self.task: TaskHead | None = None
        self._width, self._causal = config.width, config.user_encoder.causal
        self._cosine = config.similarity == "cosine"

    def answer(self, targets: Targets) -> None:
        """Predict `targets` from now on; the targets of a task get a new head."""
        if not targets.of_items:
            self.task = TaskHead(self._width, targets.size, self._causal)

    def towers(self) -> dict[str, Tower]:
        """Towers by name: `item`, one for each modality in it, and `user`."""
        of_items = item_towers(self, self.item_encoder)
        return of_items | {"user": Tower("user_encoder", self.user_encoder, "user", of_items["item"].modality)}

    def always_trained(self) -> list[nn.Module]:
        return [] if self.task is None else [self.task]

    def forward(self, batch: SequenceBatch) -> dict[str, Tensor]:
        pool_UD = self.encode_items(batch.content)
        inputs_BLD = pool_UD[batch.inputs] * batch.input_mask.unsqueeze(-1)
        if self.task is not None:
            users_B1D = self._ask(self.task, inputs_BLD, batch.input_mask).unsqueeze(1)
            return self._losses(users_B1D, self.task.table(), batch)
        if self.mask_token is not None:
            inputs_BLD = self.mask_token(inputs_BLD, batch.masked)
        states_BPD = self.user_encoder(inputs_BLD, batch.input_mask)
        if self.objective.sampling.positions == "last":
            states_BPD = states_BPD[:, -1:]
        if self.output is not None:
            states_BPD, pool_UD = self.output.matching(states_BPD), self.output(batch.content.items)
        states_BPD, pool_UD = self._unit(states_BPD), self._unit(pool_UD)
        return self._losses(states_BPD, pool_UD, batch)

    def _losses(self, states: Tensor, pool: Tensor, batch: SequenceBatch) -> dict[str, Tensor]:
        return {self.objective.name: self.objective(states, pool, batch)}

    def _ask(self, task: TaskHead, items: Tensor, mask: Tensor) -> Tensor:
        items, mask, stands = task.ask(items, mask)
        return task.read(self.user_encoder(items, mask), stands)

    def _unit(self, vectors: Tensor) -> Tensor:
        """The vectors that are scored by inner products."""
        return F.normalize(vectors, dim=-1) if self._cosine else vectors

    def encode_items(self, content: ItemContent) -> Tensor:
        """Item vectors (U, D)."""
        tensor: Tensor = self.item_encoder(content)
        return tensor

    def encode_users(self, items: Tensor, mask: Tensor) -> Tensor:
        """User vectors (B, D) of left-padded histories: item vectors (B, L, D) and mask (B, L)."""
        items = items * mask.unsqueeze(-1)
        if self.task is not None:
            return self._ask(self.task, items, mask)
        if self.mask_token is not None:
            items, mask = self.mask_token.ask(items, mask)
        users_BD = self.user_encoder(items, mask)[:, -1]
        return users_BD if self.output is None else self.output.matching(users_BD)

    def encode_targets(self, items: Tensor) -> Tensor:
        """Vectors that users are scored against, with row 0 for padding: the catalogue `items` (N + 1, D), its output
        table (N + 1, D + 1), or the targets of the task (K + 1, D)."""
        if self.task is not None:
            return F.pad(self.task.table().float(), (0, 0, 1, 0))
        return items if self.output is None else self.output(torch.arange(len(items), device=items.device)).float()

    def user_vectors(self, items: Tensor, mask: Tensor) -> Tensor:
        histories = items.to(next(self.parameters()).dtype)  # 16-bit after training in fp16
        vectors: Tensor = self.objective.logits(self._unit(self.encode_users(histories, mask).float()))
        return vectors

    def target_vectors(self, items: Tensor, some: Tensor | None = None) -> Tensor:
        """Vectors of all targets, or of the targets `some` (V,), without copying the others."""
        vectors = self.encode_targets(items)
        return self._unit(vectors if some is None else vectors[some.to(vectors.device)])

    def scorer(self, items: Tensor) -> Scorer:
        """Function from users' newest items, `question.inputs` (B, L), to the scores of all targets, which are the
        objective's logits."""
        targets = self.encode_targets(items)
        lengths = item_lengths(targets, self._cosine)

        def score(question: Any) -> Score:
            inputs = question.inputs.to(items.device)
            users, terms = self.user_vectors(items[inputs], inputs > 0), []
            if self.evidence:
                users = users * self.evidence.network.float()
                terms = self.evidence(to_device(question.evidence, items.device))
            return InnerProducts(users, targets, terms, self._cosine, lengths)

        return score

    def enable_gradient_checkpointing(self, passes: bool = False) -> None:
        self.item_encoder.enable_gradient_checkpointing(passes)
        self.user_encoder.enable_gradient_checkpointing()

    def compile_passes(self) -> None:
        self.item_encoder.compile_passes()
