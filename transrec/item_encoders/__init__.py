"""Item encoders, which map an item's content to its vector. `name:` chooses one."""

from typing import Annotated

from pydantic import Field

from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.multimodal import MultimodalEncoderConfig
from transrec.item_encoders.text import TextEncoderConfig

ItemEncoderConfig = Annotated[
    TextEncoderConfig | ImageEncoderConfig | MultimodalEncoderConfig | IdEmbeddingConfig, Field(discriminator="name")
]
