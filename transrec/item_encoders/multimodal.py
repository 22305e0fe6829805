"""Multimodal item encoder: an encoder for each modality, and their fusion.

A missing modality is masked, never treated as a vector of zeros. Designs considered: a learned vector for a missing
modality is the same for every such item, and has to be relearned on a channel where more is missing. Encoding a blank
text or image costs as much as encoding a real one, and the encoder was never trained on blanks. Chosen: fusion over the
modalities that are present.

Each vector is normalised before the fusion: the towers differ in scale by an order of magnitude (the pooled features
of a ViT are ten times as large as a sentence encoder's), and the larger one would dominate.

A fusion with `granularity: tokens` reads the vectors of all tokens. Designs considered: a second method of encoders,
for tokens, needs its own code for caches, recomputation and surplus passes. `pooling: tokens` of an encoder could be
set where nothing is fused. Chosen: the fusion has the setting, and pooling then keeps all tokens.

Shape letters: U distinct items of a batch, K tokens of all modalities, D width.
"""

from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from transrec.config import Config
from transrec.data.batch import ItemContent
from transrec.item_encoders.fusions import FusionConfig
from transrec.item_encoders.fusions.sum import SumConfig
from transrec.item_encoders.fusions.tokens import TransformerSettings
from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.nn.readout import Modalities
from transrec.protocols import ItemEncoder

Part = TextEncoderConfig | ImageEncoderConfig | IdEmbeddingConfig


class MultimodalEncoderConfig(Config):
    """Configuration of `MultimodalEncoder`."""

    name: Literal["multimodal"] = Field("multimodal", description="encoders of several modalities, and their fusion")
    text: TextEncoderConfig | None = Field(None, description="encoder of the items' texts")
    image: ImageEncoderConfig | None = Field(None, description="encoder of the items' images")
    id: IdEmbeddingConfig | None = Field(
        None, description="a learned vector for every item, in addition to its content"
    )
    fusion: FusionConfig = Field(
        SumConfig(), description="how the vectors are combined: a name, or a name with settings"
    )

    @model_validator(mode="after")
    def _several(self) -> Self:
        if len(self.parts) < 2:
            raise ValueError(
                "multimodal combines at least two of text, image and id: set another, or use the item encoder of that "
                "modality"
            )
        return self

    @model_validator(mode="after")
    def _tokens_are_averaged(self) -> Self:
        other = [name for name, part in (("text", self.text), ("image", self.image)) if part and part.pooling != "mean"]
        if self.reads_tokens and other:
            settings = " and ".join(f"{name}.pooling" for name in other)
            raise ValueError(
                f"fusion.granularity=tokens requires mean pooling: set {settings} to mean, or granularity to pooled"
            )
        return self

    @property
    def reads_tokens(self) -> bool:
        """Whether the fusion reads the tokens of each modality instead of one vector."""
        return isinstance(self.fusion, TransformerSettings) and self.fusion.granularity == "tokens"

    @property
    def parts(self) -> dict[str, Part]:
        """The encoders to fuse, by modality."""
        named: dict[str, Part | None] = {"text": self.text, "image": self.image, "id": self.id}
        return {modality: part for modality, part in named.items() if part is not None}

    @property
    def embeds_ids(self) -> bool:
        return self.id is not None

    def build(self, width: int, num_items: int) -> "MultimodalEncoder":
        return MultimodalEncoder(self, width, num_items)

    def content(self) -> dict[str, Any]:
        """Content that the item store has to hold, by modality; for an item with empty text, the text is missing."""
        text = {} if self.text is None else self.text.content(omit_empty=True)
        return text | ({} if self.image is None else self.image.content())

    def save_assets(self, export: Path) -> None:
        """Save what is needed to rebuild each encoder next to the weights, each in its own folder."""
        for modality, part in self.parts.items():
            part.save_assets(export / modality)

    def from_export(self, export: Path) -> "MultimodalEncoderConfig":
        """Configuration that rebuilds these encoders from `export`."""
        parts = {modality: part.from_export(export / modality) for modality, part in self.parts.items()}
        return self.model_copy(update=parts)


class MultimodalEncoder(ItemEncoder):
    """e = Fusion({LN(e_s) : s present}) of the vectors e_s of an item's modalities; zero for an item without any.

    With `granularity: tokens`, e_s are the vectors of the item's word pieces and patches, each projected and normalised
    separately.
    """

    def __init__(self, config: MultimodalEncoderConfig, width: int, num_items: int):
        super().__init__()
        self.modalities = list(config.parts)
        for modality, part in config.parts.items():
            self.add_module(modality, part.build(width, num_items))
        self.fusion = config.fusion.build(len(self.modalities), width)
        towers: dict[str, Any] = self.towers
        for tower in towers.values():
            tower.gives_tokens = config.reads_tokens
        self.hidden_size = width
        self.site_paths = {"fusion": ["fusion"]}

    @property
    def parts(self) -> dict[str, ItemEncoder]:
        parts: dict[str, Any] = {modality: self.get_submodule(modality) for modality in self.modalities}
        return parts

    @property
    def towers(self) -> dict[str, nn.Module]:
        """Encoders with sites, by modality."""
        parts: list[Any] = [self.get_submodule(modality) for modality in self.modalities]
        return {modality: tower for part in parts for modality, tower in part.towers.items()}

    def forward(self, content: ItemContent) -> Tensor:
        towers: dict[str, Any] = self.towers
        features = {name: tower.features(content) for name, tower in towers.items()}
        vectors = {name: tower.vectors(features[name]) for name, tower in towers.items()}
        present = {name: features[name].present() for name in towers}
        if "id" in self.modalities:
            vectors["id"] = self.get_submodule("id")(content)
            present["id"] = torch.ones_like(content.items, dtype=torch.bool).unsqueeze(1)
        tokens = [vectors[name].reshape(*present[name].shape, self.hidden_size) for name in self.modalities]
        vectors_UKD = nn.functional.layer_norm(torch.cat(tokens, dim=1), [self.hidden_size])  # zeros stay zeros
        present_UK = torch.cat([present[name] for name in self.modalities], dim=1)
        reads = hasattr(self.fusion, "adapter")
        pooled = {name: tower.pooled(features[name]) for name, tower in towers.items()} if reads else {}
        lengths = [part.shape[1] for part in tokens]
        tensor: Tensor = self.fusion(Modalities(self.modalities, vectors_UKD, present_UK, pooled, lengths))
        return tensor

    def enable_gradient_checkpointing(self, passes: bool = False) -> None:
        for part in self.parts.values():
            part.enable_gradient_checkpointing(passes)

    def compile_passes(self) -> None:
        for part in self.parts.values():
            part.compile_passes()
