"""Image item encoder: a pretrained vision model and a projection to the recommender's width.

Shape letters: see `backbone_encoder`.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.config import Config, MayDiffer
from transrec.data.batch import Chunk
from transrec.item_encoders import backbones
from transrec.item_encoders.backbone_encoder import BACKBONE_FOLDER, BackboneEncoder
from transrec.item_encoders.pooling import Pooling
from transrec.item_encoders.projection import Projection


class ImageEncoderConfig(Config):
    """Configuration of `ImageEncoder`."""

    name: Literal["image"] = Field("image", description="a vision model and a projection")
    backbone: str = Field("facebook/dinov2-small", description="a folder or a hub id")
    pretrained: bool = Field(True, description="false: the backbone's architecture with random weights")
    layers: int | None = Field(None, ge=1, description="number of first layers to keep; null: all")
    pooling: Pooling = Field(
        "cls", description="class token, mean over the patches, or the backbone's own pooling head, if it has one"
    )
    projection: Projection = Field(
        "linear_gelu",
        description="projection: linear with a GELU (as released), linear, or an MLP of normalised features",
    )
    image_size: int | None = Field(
        None, ge=1, description="side of the square that every image is resized to; null: the backbone's own"
    )
    chunk_images: Annotated[int, MayDiffer()] = Field(64, ge=1, description="images per encoder pass")
    decoded_cache: Annotated[bool, MayDiffer()] = Field(
        True, description="cache the pixels of all images on the node's disk, 3 * size^2 bytes each"
    )
    mask_ratio: float = Field(
        0.0, ge=0, lt=1, description="share of the patches that a masked autoencoder drops; released code: 0.75"
    )
    dropout: float | None = Field(
        None, ge=0, lt=1, description="replaces every dropout of the backbone; null: the backbone's own"
    )
    augment: bool = Field(False, description="train on random crops and horizontal flips")

    embeds_ids: ClassVar[bool] = False

    def build(self, width: int, num_items: int) -> "ImageEncoder":
        return ImageEncoder(self, width)

    def content(self) -> dict[str, Any]:
        """Content that the item store has to hold, by modality."""
        return {"image": ImageContent(self)}

    def save_assets(self, export: Path) -> None:
        """Save architecture and preprocessing next to the weights, so that this encoder can be rebuilt."""
        backbones.save_architecture(self.backbone, "image", export / BACKBONE_FOLDER)

    def from_export(self, export: Path) -> "ImageEncoderConfig":
        """Configuration that rebuilds this encoder from `export`, without loading pretrained weights."""
        return self.model_copy(update={"backbone": str(export / BACKBONE_FOLDER), "pretrained": False})


class ImageContent:
    """Settings of the pixels that the encoder reads."""

    def __init__(self, config: ImageEncoderConfig):
        self.config = config
        self.chunk_images, self.decoded_cache = config.chunk_images, config.decoded_cache
        self.augment = config.augment

    @cached_property
    def size(self) -> int:
        return self.config.image_size or backbones.preprocessing(self.config.backbone).size


class ImageEncoder(BackboneEncoder):
    """e = GELU(W pool(Backbone(pixels)) + b): the image encoder of TransRec.

    Paper: Fu et al., "Exploring Adapter-based Transfer Learning for Recommender Systems", WSDM 2024; W replaces the
    backbone's classifier. Deviations: each distinct item is encoded once; pixels are normalised as in the backbone's
    training (released code: 0.5, also for MAE); MAE reads the whole image (released code: a random quarter of it, also
    in evaluation); mean pooling is also supported. An item without an image gets the zero vector.
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
            head=config.pooling == "head",
        )
        prepared = backbones.preprocessing(config.backbone)
        backbones.set_image_size(backbone, config.image_size or prepared.size)
        super().__init__(backbone, config.pooling, width, config.projection)
        if isinstance(self.projection, nn.Linear):
            nn.init.xavier_normal_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)
        self.preparation = f"{prepared.mean} {prepared.std}"
        # On the device after its first use. Not a buffer, which fp16 training would round.
        self._mean_and_std = torch.tensor([prepared.mean, prepared.std])[:, :, None, None]
        self.augments = config.augment

    def inputs(self, chunk: Chunk) -> Chunk:
        """Normalise pixel bytes as in the backbone's training, in float32; the result has the weights' dtype."""
        pixels = chunk["pixel_values"]
        if "view" in chunk:  # in training only
            pixels = resample(pixels, chunk["view"])
        self._mean_and_std = self._mean_and_std.to(pixels.device)
        mean, std = self._mean_and_std
        normalised: Tensor = (pixels.float() / 255 - mean) / std
        return {"pixel_values": normalised.to(self.dtype)}


def resample(pixels: Tensor, view: Tensor) -> Tensor:
    """Resample the part of `pixels` (n, 3, side, side) that `view` (n, 2, 3) selects, in float32; it never shrinks."""
    with torch.autocast(pixels.device.type, enabled=False):
        grid = F.affine_grid(view.float(), list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
