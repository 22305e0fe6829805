"""Item encoder of the ID baselines: one learned vector per catalogue item.

Shape letters: U distinct items of a batch, D width.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.config import Config
from transrec.data.batch import ItemContent
from transrec.protocols import CatalogueTable, ItemEncoder


class IdEmbeddingConfig(Config):
    """Configuration of `IdEmbedding`."""

    name: Literal["id_embedding"] = Field("id_embedding", description="a learned vector for every item")
    init_std: float = Field(0.1, ge=0, description="standard deviation of the initial vectors")

    embeds_ids: ClassVar[bool] = True

    def build(self, width: int, num_items: int) -> "IdEmbedding":
        return IdEmbedding(self, width, num_items)

    def content(self) -> dict[str, Any]:
        """No content: an item's index is enough."""
        return {}

    def save_assets(self, export: Path) -> None:
        """Nothing to save in addition to the weights."""

    def from_export(self, export: Path) -> "IdEmbeddingConfig":
        return self


class IdEmbedding(ItemEncoder, CatalogueTable):
    """Row `index` of a table of N+1 vectors ~ N(0, init_std²); row 0, the padding item, is zero and stays zero.

    It cannot be transferred to another catalogue: its rows belong to the items that it was trained on.
    """

    modality = "id"

    def __init__(self, config: IdEmbeddingConfig, width: int, num_items: int):
        super().__init__()
        self.embedding = nn.Embedding(num_items + 1, width, padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=config.init_std)
        with torch.no_grad():
            self.embedding.weight[0] = 0

    @property
    def towers(self) -> dict[str, nn.Module]:
        """Encoders with sites, by modality."""
        return {}

    def forward(self, content: ItemContent) -> Tensor:
        tensor: Tensor = self.embedding(content.items)
        return tensor

    def enable_gradient_checkpointing(self, passes: bool = False) -> None:
        """Nothing to recompute."""
