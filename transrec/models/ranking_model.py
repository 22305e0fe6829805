"""Ranking model: predicts the probability that a user responds to an item from ids, content and the history.

The sequential recommender chains an item encoder, a user encoder and an objective. Here the candidate is known before
the history is read, so an interest and a network replace the user encoder. As in the sequential recommender, each
distinct item of a batch is encoded once.

Shape letters: U distinct items of a batch, B impressions, L items of a history, D width of content, E width of the id
features of an item, W width of the frozen features, H heads, N items of the catalogue.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, TypeAdapter, model_validator
from torch import Tensor, nn

from transrec.config import Config, ConfigError
from transrec.data.batch import ImpressionBatch, Impressions, ItemContent, Sampling, to_device
from transrec.features import FeatureConfig
from transrec.features.vocabulary import Vocabulary
from transrec.files import read_json
from transrec.interests import InterestConfig
from transrec.item_encoders import ItemEncoderConfig
from transrec.item_encoders.multimodal import MultimodalEncoderConfig
from transrec.models.item_towers import item_towers
from transrec.nn.feature_table import FeatureTable
from transrec.nn.principal_components import Axes
from transrec.nn.similarity import STATISTICS, similarity_statistics
from transrec.objectives.click import ClickConfig, click_losses
from transrec.objectives.content_id_contrast import Sides
from transrec.protocols import Interest, Model, ModelSettings, Scorer, Tower

FEATURES_FILE = "features.json"
CONTRAST = "content_id_contrast"
_AT_ONCE = 16384  # history items read at a time


class DnnConfig(Config):
    """The network that reads all features, interests and content vectors."""

    widths: list[int] = Field([64, 32], min_length=1, description="widths of its layers")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout after each layer")


class RankingModelConfig(ModelSettings):
    """Configuration of `RankingModel`."""

    name: Literal["ranking_model"] = Field(
        "ranking_model", description="predicts the probability of a response to an item"
    )
    width: int = Field(32, ge=1, description="width of the content vectors")
    max_length: int = Field(20, ge=1, description="number of a user's newest items that the interests read")
    item_encoder: ItemEncoderConfig | None = Field(
        None, description="maps an item's content to its vector; null: ids only"
    )
    principal_components: bool = Field(
        False, description="project the principal components of the frozen features instead of the features themselves"
    )
    features: dict[str, FeatureConfig] = Field({}, description="features of users, items and impressions, by name")
    id_interest: InterestConfig | None = Field(None, description="interest over the id features of items; null: none")
    content_interest: InterestConfig | None = Field(None, description="interest over content vectors; null: none")
    pooled_content: bool = Field(True, description="whether the network reads the candidate's content vector")
    similarity: bool = Field(
        False, description="whether the network reads the similarity of candidate and history in the frozen features"
    )
    dnn: DnnConfig = Field(DnnConfig(), description="the network")
    objective: ClickConfig = Field(ClickConfig(), description="training losses")
    vocabularies: dict[str, Vocabulary] = Field(
        {}, exclude=True, description="table rows of the features' values; set by the run"
    )
    rates: list[float] = Field(
        [], exclude=True, description="response rate of each head in training, its initial output; set by the run"
    )
    centres: dict[str, list[float]] = Field(
        {}, exclude=True, description="mean of the frozen features of all items, by modality; set by the run"
    )
    axes: dict[str, Axes] = Field(
        {}, exclude=True, description="axes of the principal components, by modality; set by the run"
    )

    @model_validator(mode="after")
    def _has_what_it_reads(self) -> Self:
        of_items = [name for name, feature in self.features.items() if feature.owner == "item"]
        reads_content = {
            "content_interest": self.content_interest is not None,
            "similarity": self.similarity,
            "principal_components": self.principal_components,
            "objective.content_id_contrast": self.objective.content_id_contrast is not None,
        }
        for key, asked in reads_content.items():
            if asked and (self.item_encoder is None or not self.item_encoder.content()):
                raise ValueError(f"{key} needs an item_encoder that reads content: set one, or remove {key}")
        fuses_tokens = isinstance(self.item_encoder, MultimodalEncoderConfig) and self.item_encoder.reads_tokens
        if self.principal_components and fuses_tokens:
            raise ValueError(
                "principal_components needs one vector of each modality: set principal_components=false or "
                "item_encoder.fusion.granularity=pooled"
            )
        if not of_items and (self.id_interest is not None or self.objective.content_id_contrast is not None):
            raise ValueError(
                "id_interest and objective.content_id_contrast need a feature of items: add one to model.features, "
                "such as {of: item_id}"
            )
        if not self.features and self.item_encoder is None:
            raise ValueError("the model has no inputs: set features, item_encoder or both")
        return self

    @property
    def sampling(self) -> Sampling:
        contrast = self.objective.content_id_contrast
        if contrast is None:
            return Sampling()
        return Sampling(drawn=contrast.count if contrast.negatives == "sampled" else 0, contrasts=CONTRAST)

    def content(self) -> dict[str, Any]:
        return {} if self.item_encoder is None else self.item_encoder.content()

    def check_examples(self, kind: str) -> None:
        if kind != "impressions":
            raise ValueError("model.name=ranking_model learns from impressions: set data.examples.name=impressions")

    def build(self, num_items: int) -> "RankingModel":
        return RankingModel(self, num_items)

    def save_assets(self, export: Path) -> None:
        if self.item_encoder is not None:
            self.item_encoder.save_assets(export)
        export.mkdir(parents=True, exist_ok=True)
        values = {name: vocabulary.model_dump(mode="json") for name, vocabulary in self.vocabularies.items()}
        known = {"vocabularies": values, "centres": self.centres, "axes": self.axes}
        (export / FEATURES_FILE).write_text(json.dumps(known), encoding="utf-8")

    def from_export(self, export: Path) -> "RankingModelConfig":
        """These settings with the vocabularies and all assets taken from `export`."""
        encoder = None if self.item_encoder is None else self.item_encoder.from_export(export)
        return self.known_from(export).model_copy(update={"item_encoder": encoder})

    def known_from(self, export: Path) -> "RankingModelConfig":
        """
        Raises:
            ConfigError: the vocabularies of the export are missing or damaged.
        """
        path = export / FEATURES_FILE
        try:
            known = read_json(path)
            centres = {name: [float(value) for value in values] for name, values in known["centres"].items()}
            axes = _AXES.validate_python(known.get("axes", {}))  # earlier exports have none
            found = self.with_vocabularies(known["vocabularies"])
            return found.model_copy(update={"centres": centres, "axes": axes})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}): export the run again") from None

    def with_vocabularies(self, vocabularies: Mapping[str, Any]) -> "RankingModelConfig":
        """These settings with the rows of the features' values, as objects or as their plain form."""
        return self.model_copy(update={"vocabularies": _VOCABULARIES.validate_python(vocabularies)})


_VOCABULARIES = TypeAdapter(dict[str, Vocabulary])
_AXES = TypeAdapter(dict[str, Axes])


class RankingModel(Model):
    """logits_H = DNN([ids of user, item, context; interest in ids; content; interest in content; similarity]).

    With `content_interest`, `content_id_contrast` and a Q-Former as the fusion, it is EM3 (arXiv 2404.06078); with ids
    and the interest DIN, it is DIN (KDD 2018). Only the configuration decides which of these inputs a run has.
    """

    def __init__(self, config: RankingModelConfig, num_items: int) -> None:
        super().__init__()
        features, widths = config.features, {name: feature.width for name, feature in config.features.items()}
        self.features = nn.ModuleDict(
            {name: FeatureTable(config.vocabularies[name].size, width) for name, width in widths.items()}
        )
        self._of_items = [name for name in features if features[name].owner == "item"]
        self._of_impressions = [name for name in features if features[name].owner != "item"]
        ids = sum(widths[name] for name in self._of_items)
        self.item_encoder = None if config.item_encoder is None else config.item_encoder.build(config.width, num_items)
        towers: Mapping[str, Any] = {} if self.item_encoder is None else self.item_encoder.towers
        for modality, axes in config.axes.items():
            towers[modality].project_components(axes)
        self.id_interest = None if config.id_interest is None else config.id_interest.build(ids)
        self.content_interest = None if config.content_interest is None else config.content_interest.build(config.width)
        self.heads, contrast = config.objective.heads, config.objective.content_id_contrast
        self.content_id_contrast = None if contrast is None else contrast.build(config.width, ids)
        self._in_batch = contrast is not None and contrast.negatives == "in_batch"
        self._width, self._pooled = config.width, config.pooled_content
        inputs = ids + sum(widths[name] for name in self._of_impressions) + ids * (self.id_interest is not None)
        if self.item_encoder is not None:
            inputs += config.width * (config.pooled_content + (self.content_interest is not None))
        self.dnn = _dnn(inputs + STATISTICS * config.similarity, config.dnn, len(self.heads), config.rates)
        self.similarity = SimilarityTerm(len(self.heads)) if config.similarity else None
        for modality, centre in config.centres.items():
            self.register_buffer(f"centre_of_{modality}", torch.tensor(centre), persistent=False)

    def towers(self) -> dict[str, Tower]:
        """The item encoder's towers, and each interest."""
        found = {} if self.item_encoder is None else item_towers(self, self.item_encoder)
        interests: dict[str, Interest | None] = {"interest": self.content_interest, "id_interest": self.id_interest}
        for name, interest in interests.items():
            if interest is not None:
                path = "content_interest" if name == "interest" else name
                found[name] = Tower(path, interest, name, "text")
        return found

    def forward(self, batch: ImpressionBatch) -> dict[str, Tensor]:
        """The summed losses of each head, and of the contrast of content and ids."""
        vectors = self.encode_items(batch.content)
        ids = self._ids(batch.shown)
        logits = self._logits(batch.shown, vectors, ids) - batch.log_kept  # log-odds after negatives are down-sampled
        losses_H = click_losses(logits, batch.labels, batch.observed)
        losses = dict(zip(self.heads, losses_H.unbind(), strict=True))
        if self.content_id_contrast is not None:
            anchors = self._sides(batch, vectors, ids, batch.shown.candidates)
            filled = batch.observed.any(1)
            anchors = anchors._replace(has_content=anchors.has_content & filled)
            others = anchors if self._in_batch else self._sides(batch, vectors, ids, batch.drawn)
            losses[CONTRAST] = self.content_id_contrast(anchors, others)
        return losses

    def encode_items(self, content: ItemContent) -> Tensor:
        """Content vectors (U, D); with `similarity`, (U, D + 1 + W): followed by whether an item has content, and its
        frozen features."""
        if self.item_encoder is None:
            return torch.zeros((len(content.items), 0), device=content.items.device)
        vectors: Tensor = self.item_encoder(content)
        if self.similarity is None:
            return vectors
        towers: Mapping[str, Any] = self.item_encoder.towers
        with torch.no_grad():
            unit = [self._centred(name, tower.features(content)) for name, tower in towers.items()]
            frozen = torch.cat(unit, dim=-1)
            known = frozen.any(-1, keepdim=True).float()
        return torch.cat([vectors.float(), known, frozen], dim=-1)

    def _centred(self, modality: str, features: Any) -> Tensor:
        """Frozen features (U, W) minus their mean, scaled to unit length; zeros where an item lacks the modality."""
        centre = getattr(self, f"centre_of_{modality}", 0.0)
        values = features.pooled().float() - centre
        spread: Tensor = features.spread(nn.functional.normalize(values, dim=-1))
        return spread

    def scorer(self, items: Tensor) -> Scorer:
        """Function from impressions to the logits of each head, (B, H)."""

        def score(asked: Any) -> Tensor:
            shown = to_device(asked.shown, items.device)
            vectors = items[shown.items]
            ids = self._ids(shown)
            at_once = max(1, _AT_ONCE // shown.history.shape[1])
            parts = [shown.part(start, start + at_once) for start in range(0, len(shown), at_once)]
            return torch.cat([self._logits(part, vectors, ids) for part in parts]).float()

        return score

    def enable_gradient_checkpointing(self, passes: bool = False) -> None:
        if self.item_encoder is not None:
            self.item_encoder.enable_gradient_checkpointing(passes)

    def compile_passes(self) -> None:
        if self.item_encoder is not None:
            self.item_encoder.compile_passes()

    def _ids(self, shown: Impressions) -> Tensor:
        """(U, E) vectors of the id features of the pool's items."""
        found = [self.features[name](shown.item_features[name]) for name in self._of_items]
        return torch.cat(found, dim=-1) if found else torch.zeros((len(shown.items), 0), device=shown.items.device)

    def _logits(self, shown: Impressions, vectors: Tensor, ids: Tensor) -> Tensor:
        """(B, H)."""
        candidates, history, mask = shown.candidates, shown.history, shown.history_mask
        read = [ids[candidates], *(self.features[name](shown.features[name]) for name in self._of_impressions)]
        if self.id_interest is not None:
            read.append(self.id_interest(ids[candidates], ids[history], mask))
        content = vectors[:, : self._width]
        if self.item_encoder is not None and self._pooled:
            read.append(content[candidates])
        if self.content_interest is not None:
            read.append(self.content_interest(content[candidates], content[history], mask))
        dtype, direct = next(self.dnn.parameters()).dtype, 0
        if self.similarity is not None:
            known, frozen = vectors[:, self._width] > 0, vectors[:, self._width + 1 :]
            read.append(similarity_statistics(frozen, known, candidates, history, mask))
            direct = self.similarity(read[-1].to(dtype))
        logits: Tensor = self.dnn(torch.cat([part.to(dtype) for part in read], dim=-1)) + direct
        return logits

    def _sides(self, batch: ImpressionBatch, vectors: Tensor, ids: Tensor, rows: Tensor) -> Sides:
        content = vectors[:, : self._width]
        return Sides(batch.content.items[rows], content[rows], ids[rows], batch.has_content[rows])


class SimilarityTerm(nn.Linear):
    """A linear term in the similarity statistics, added to the network's output.

    Its initial weights select the kernel, so that training starts from the ranking by similarity alone; a network
    trained on a few thousand impressions does not find that ranking by itself.
    """

    def __init__(self, heads: int) -> None:
        super().__init__(STATISTICS, heads, bias=False)
        with torch.no_grad():
            self.weight.zero_()
            self.weight[:, -1] = 1.0


def _dnn(inputs: int, config: DnnConfig, heads: int, rates: Sequence[float]) -> nn.Sequential:
    """The network. Its initial outputs are `rates`; otherwise all weights would first learn how rare responses are,
    and those of the largest inputs would become negative."""
    layers: list[nn.Module] = []
    for width in config.widths:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(config.dropout)]
        inputs = width
    last = nn.Linear(inputs, heads)
    if rates:
        with torch.no_grad():
            last.bias.copy_(torch.logit(torch.tensor(rates), eps=1e-4))
    return nn.Sequential(*layers, last)
