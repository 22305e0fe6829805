"""Image item encoder: a pretrained vision model and a projection to the recommender's width.

Shape letters: see `backbone_encoder`.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.config import Config
from transrec.data.batch import Chunk
from transrec.item_encoders import backbones
from transrec.item_encoders.backbone_encoder import BACKBONE_FOLDER, BackboneEncoder


class ImageEncoderConfig(Config):
    name: Literal["image"] = "image"
    backbone: str = "facebook/dinov2-small"  # a folder or a hub id
    pretrained: bool = True  # False: the backbone's architecture with random weights
    layers: int | None = Field(None, ge=1)  # read off the features after so many layers; the others are dropped
    pooling: Literal["cls", "mean"] = "cls"
    image_size: int | None = Field(None, ge=1)  # side of the square an image becomes; None: the backbone's own
    chunk_images: int = Field(64, ge=1)  # images of one encoder pass
    decoded_cache: bool = True  # keep the pixels of all images on the node's disk, 3·size² bytes each
    mask_ratio: float = Field(0.0, ge=0, lt=1)  # masked autoencoders only; 0.75 is what the released code ran with
    dropout: float | None = Field(None, ge=0, lt=1)  # None: the backbone's own
    augment: bool = False  # train on random crops and mirror images

    embeds_ids: ClassVar[bool] = False

    def build(self, width: int, num_items: int) -> "ImageEncoder":
        return ImageEncoder(self, width)

    def content(self) -> dict[str, Any]:
        """What the item store has to hold, by modality."""
        return {"image": ImageContent(self)}

    def save_assets(self, export: Path) -> None:
        """Put beside the weights what is needed to build this encoder again: architecture and preprocessing."""
        backbones.save_architecture(self.backbone, export / BACKBONE_FOLDER)

    def from_export(self, export: Path) -> "ImageEncoderConfig":
        """This encoder as `export` holds it: its architecture without pretrained weights, its preprocessing."""
        return self.model_copy(update={"backbone": str(export / BACKBONE_FOLDER), "pretrained": False})


class ImageContent:
    """Which pixels the encoder reads."""

    def __init__(self, config: ImageEncoderConfig):
        self.config = config
        self.chunk_images, self.decoded_cache = config.chunk_images, config.decoded_cache
        self.augment = config.augment

    @cached_property
    def size(self) -> int:
        return self.config.image_size or backbones.preprocessing(self.config.backbone).size


class ImageEncoder(BackboneEncoder):
    """e = GELU(W pool(Backbone(pixels)) + b): the image encoder of TransRec.

    Paper: Fu et al., "Exploring Adapter-based Transfer Learning for Recommender Systems", WSDM 2024; W takes the place
    of the backbone's classifier. Deviations: each distinct item is encoded once; pixels are normalised as the backbone
    was trained (released code: 0.5, also for MAE); MAE sees the whole image (released code: a random quarter of it, in
    evaluation too); mean pooling is offered too. An item without an image is the zero vector.
    """

    modality = "image"

    def __init__(self, config: ImageEncoderConfig, width: int):
        backbone = backbones.load_backbone(
            config.backbone,
            "image",
            pretrained=config.pretrained,
            layers=config.layers,
            dropout=config.dropout,
            mask_ratio=config.mask_ratio,
        )
        prepared = backbones.preprocessing(config.backbone)
        backbones.check_image_size(backbone, config.image_size or prepared.size)
        super().__init__(backbone, config.pooling, width)
        nn.init.xavier_normal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self._mean, self._std = prepared.mean, prepared.std
        self.augments = config.augment

    @property
    def preparation(self) -> str:
        return f"{self._mean} {self._std}"

    def inputs(self, chunk: Chunk) -> Chunk:
        """Bytes to what the backbone was trained on; in float32, then as precise as the weights."""
        pixels = chunk["pixel_values"]
        if "view" in chunk:  # in training only
            pixels = resample(pixels, chunk["view"])
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self._mean, self._std))
        normalised: Tensor = (pixels.float() / 255 - mean) / std
        return {"pixel_values": normalised.to(self.projection.weight.dtype)}


def resample(pixels: Tensor, view: Tensor) -> Tensor:
    """What `view` (n, 2, 3) shows of `pixels` (n, 3, side, side), in float32; nothing is made smaller."""
    with torch.autocast(pixels.device.type, enabled=False):
        grid = F.affine_grid(view.float(), list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
