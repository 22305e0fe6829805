"""What the encoders of text and of images share: a pretrained backbone, pooling, and a projection.

Shape letters: U distinct items of a batch, M of them that have the modality, n items of a chunk, T positions of a
chunk, H width of the backbone, D width of the recommender.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from transrec.config import ConfigError
from transrec.data.batch import Chunk, ItemContent
from transrec.hidden import Hidden, Readout
from transrec.item_encoders import backbones

Pooling = Literal["cls", "mean"]

BACKBONE_FOLDER = "backbone"  # of an export


class BackboneEncoder(nn.Module):
    """e = GELU(W pool(Backbone(content)) + b); the zero vector for an item that lacks the modality."""

    modality: str

    def __init__(self, backbone: PreTrainedModel, pooling: Pooling, width: int):
        super().__init__()
        if pooling == "cls" and not backbones.has_class_token(backbone):
            raise ConfigError(f"`pooling`: {backbone.config.model_type} has no class token; set it to mean")
        self.backbone = backbone
        self.readout = Readout(backbones.state_widths(backbone))
        self.projection = nn.Linear(backbones.hidden_size(backbone), width)
        self.pooling = pooling
        self.num_layers = backbones.num_layers(backbone)
        self.hidden_size = backbones.hidden_size(backbone)
        paths = backbones.site_paths(backbone)
        self.site_paths = {site: [f"backbone.{path}" for path in found] for site, found in paths.items()}
        self.site_paths["readout"] = ["readout"]

    @property
    def towers(self) -> dict[str, nn.Module]:
        """Encoders with sites, by modality."""
        return {self.modality: self}

    def forward(self, content: ItemContent) -> Tensor:
        """
        Raises:
            ValueError: the batch was built without this modality.
        """
        if self.modality not in content.modalities:
            raise ValueError(f"this item encoder needs a batch with {self.modality}: build the store with content()")
        own = content.modalities[self.modality]
        vectors_UD = self.projection.weight.new_zeros(len(content.items), self.projection.out_features)
        if own.chunks:
            vectors_MD = torch.cat([self._encode(chunk) for chunk in own.chunks])
            vectors_UD = vectors_UD.to(vectors_MD.dtype).index_copy(0, own.rows, vectors_MD)
        for _ in range(own.passes - len(own.chunks)):
            vectors_UD = vectors_UD + self._nothing(own.blank)
        return vectors_UD

    def enable_gradient_checkpointing(self) -> None:
        backbones.enable_gradient_checkpointing(self.backbone)

    def _encode(self, chunk: Chunk) -> Tensor:
        """Vectors (n, D) of the items of a chunk."""
        return F.gelu(self.projection(self.readout(self.hidden(chunk))))

    def hidden(self, chunk: Chunk) -> Hidden:
        """Hidden states of a chunk's items: the last, and all of them if an adapter reads them.

        Where nothing of the backbone trains, nothing is kept for a backward pass through it.
        """
        learns = any(parameter.requires_grad for parameter in self.backbone.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            states = backbones.embed(self.backbone, self.inputs(chunk))
            mask = chunk.get("attention_mask")
            if mask is not None:  # prompts may have been put in after the class token
                mask = F.pad(mask, (states.shape[1] - mask.shape[1], 0), value=1)
            hidden = backbones.run_layers(self.backbone, states, mask, keep_all=self.readout.reads_all)
        return replace(hidden, pool=self._pool)

    def inputs(self, chunk: Chunk) -> Chunk:
        """What the backbone takes."""
        return chunk

    def draw_prompts(self, count: int) -> Tensor:
        """What prompts (count, H) start as: embeddings of random words, or zeros in the midst of patches."""
        return backbones.draw_prompts(self.backbone, count)

    def _pool(self, states_nTH: Tensor, mask: Tensor | None) -> Tensor:
        """The class token, or the mean over all others of an image, over every token of a text; prompts are tokens."""
        if self.pooling == "cls":
            return states_nTH[:, 0]
        if mask is None:
            return states_nTH[:, int(backbones.has_class_token(self.backbone)) :].mean(1)
        weight_nT1 = mask.unsqueeze(-1).to(states_nTH.dtype)
        return (states_nTH * weight_nT1).sum(1) / weight_nT1.sum(1).clamp(min=1)

    def _nothing(self, blank: Chunk) -> Tensor:
        """Zero (1, D), with a whole pass in its graph.

        ZeRO-3 gathers a layer's parameters on all ranks together, forward and backward, so a rank with fewer
        chunks has to run the passes of the others, and one without any has to take part in the reduction of
        gradients. Multiplying by zero keeps the pass in the graph (autograd does not look at values) and leaves outputs
        and gradients alone. 0 * inf would be nan, but where there is an item of one's own the pass repeats it: where it
        overflows, the batch has overflowed already.
        """
        return 0 * self._encode({name: tensor[:1] for name, tensor in blank.items()})
