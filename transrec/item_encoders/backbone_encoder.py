"""Base class of the text and image encoders: a pretrained backbone, pooling, and a projection.

Shape letters: U distinct items of a batch, M of them that have the modality, n items of a chunk, T positions of a
chunk, H width of the backbone, W width of the features, D width of the recommender, K tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from transrec.data.batch import Chunk, ItemContent
from transrec.item_encoders import families, layer_by_layer
from transrec.item_encoders.pooling import Pooling, pool, pooled_width, tokens
from transrec.item_encoders.projection import Projection, build_projection
from transrec.nn.compiled import compiled
from transrec.nn.principal_components import Axes, PrincipalComponents
from transrec.nn.readout import Hidden, Readout, mean_over
from transrec.protocols import ItemEncoder

BACKBONE_FOLDER = "backbone"  # subfolder of an export


class BackboneEncoder(ItemEncoder):
    """e = Projection(pool(Backbone(content))); the zero vector for an item that lacks the modality."""

    pretrained = ("backbone",)
    body = ("backbone", "readout")
    passes = ("features", "vectors")
    gives_tokens = False  # whether its features are one vector for each token, for a fusion that reads tokens
    augments = False  # True if training augments the content anew at each step
    preparation = ""  # key of everything, except the chunk, that `inputs` depends on

    def __init__(self, backbone: "transformers.PreTrainedModel", pooling: Pooling, width: int, projection: Projection):
        super().__init__()
        read = pooled_width(backbone, pooling)
        self.backbone = backbone
        self.readout = Readout(families.state_widths(backbone))
        self.projection = build_projection(projection, read, width)
        self.components: PrincipalComponents | None = None
        self._projection: tuple[Projection, int] = projection, width
        self.pooling = pooling
        self.frozen_prefix: Any = None  # a FrozenPrefix, if chunks hold its states instead of raw content
        self._compiled: Callable[[Chunk], Tensor] | None = None  # `_features`, if training runs it compiled
        self._recomputes = False  # whether whole passes are recomputed in the backward pass
        self.num_layers = families.num_layers(backbone)
        self.hidden_size = families.hidden_size(backbone)
        paths = families.site_paths(backbone)
        self.site_paths = {site: [f"backbone.{path}" for path in found] for site, found in paths.items()}
        if pooling != "head":  # the head pools the last states only, into its own space
            self.site_paths["readout"] = ["readout"]

    @property
    def towers(self) -> dict[str, nn.Module]:
        """Encoders with sites, by modality."""
        return {self.modality: self}

    def forward(self, content: ItemContent) -> Tensor:
        return self.vectors(self.features(content))

    def features(self, content: ItemContent) -> "Features":
        """Compute the backbone features of a batch's items.

        Raises:
            ValueError: the batch was built without this modality.
        """
        if self.modality not in content.modalities:
            raise ValueError(
                f"this item encoder reads {self.modality}, which the batch lacks: build the store with content()"
            )
        own = content.modalities[self.modality]
        features = [self._pass(chunk) for chunk in own.chunks]
        blanks = [self._features(_first(own.blank)) for _ in range(own.passes - len(own.chunks))]
        if not features:
            mask = self._token_mask(_first(own.blank), blanks[0])
            return Features(len(content.items), own.rows, _keeping(blanks[0], blanks[1:]), mask)
        rows_M, order_M = own.rows.sort()  # sorted: the product must not depend on the chunks
        masks = [self._token_mask(*pair) for pair in zip(own.chunks, features, strict=True)]
        values, mask = _joined(features)[order_M], _joined(masks)[order_M]
        return Features(len(content.items), rows_M, _keeping(values, blanks), mask)

    def project_components(self, known: Axes) -> None:
        """Replace the projection of the features with a new one of their principal components."""
        (kind, width), self.components = self._projection, PrincipalComponents(known)
        self.projection = build_projection(kind, self.components.count, width)

    def vectors(self, features: "Features") -> Tensor:
        """Item vectors (U, D), or (U, K, D) of tokens."""
        return features.spread(self._vectors(features.values))

    def pooled(self, features: "Features") -> list[Tensor]:
        """Pooled states (U, H) that the readout reads, each at its index; None at all other indices."""
        return self.readout.placed(features.spread(features.pooled()))

    def enable_gradient_checkpointing(self, passes: bool = False) -> None:
        if passes:
            self._recomputes = True
        else:
            layer_by_layer.enable_gradient_checkpointing(self.backbone)

    def compile_passes(self) -> None:
        """Compile the forward pass used in training; evaluation stays uncompiled, so that its results do not change."""
        self._compiled = compiled(self._features)

    def encode(self, chunk: Chunk) -> Tensor:
        """Item vectors (n, D) of a chunk."""
        return self._vectors(self._features(chunk))

    def _pass(self, chunk: Chunk) -> Tensor:
        """`_features`; in training, compiled or recomputed in the backward pass if that is enabled."""
        run = self._compiled if self._compiled is not None and self.training else self._features
        if not (self._recomputes and self.training):
            return run(chunk)
        features: Tensor = checkpoint(run, chunk, use_reentrant=False)
        return features

    def _features(self, chunk: Chunk) -> Tensor:
        """Features (n, W) of a chunk: pooled states, or the readout's output if it reads unpooled states.

        With tokens, features are (n, K, W), and pooling only drops the positions that are not tokens.
        """
        if self.frozen_prefix is not None and self.frozen_prefix.features:
            return self._kept(chunk)[:, 0]
        hidden = self.hidden(chunk)
        return self.readout.pooled(hidden) if self.readout.reads_pooled else self.readout(hidden)

    def _vectors(self, features: Tensor) -> Tensor:
        """Item vectors (n, D) from features (n, W), or token vectors (n, K, D) from features (n, K, W)."""
        pooled = self.readout.from_pooled(features) if self.readout.reads_pooled else features
        if self.components is not None:
            pooled = self.components(pooled).to(self.dtype)
        vectors: Tensor = self.projection(pooled)
        return vectors

    def hidden(self, chunk: Chunk) -> Hidden:
        """Hidden states of a chunk's items: those of the last layer, or of all layers if an adapter reads them.

        A fully frozen backbone runs without gradients and keeps no activations for a backward pass.
        """
        if self.frozen_prefix is not None:
            found: Hidden = self.frozen_prefix.resume(self, self._kept(chunk), chunk.get("attention_mask"))
            return found
        learns = any(parameter.requires_grad for parameter in self.backbone.parameters())
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            return self.run(*self.embed(chunk), keep_all=self.readout.reads_all)

    def _kept(self, chunk: Chunk) -> Tensor:
        """Precomputed states of the frozen prefix, in the dtype of the weights."""
        return chunk["prefix"].to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.projection.parameters()).dtype

    def embed(self, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        """Input of the first layer (n, T, H), and its attention mask (n, T), if any."""
        states = layer_by_layer.embed(self.backbone, self.inputs(chunk))
        return states, _attended(chunk, states.shape[1])

    def run(self, states: Tensor, mask: Tensor | None, start: int = 0, keep_all: bool = False) -> Hidden:
        """Run the layers from `start` on."""
        return replace(layer_by_layer.run_layers(self.backbone, states, mask, start, keep_all=keep_all), pool=self.pool)

    def inputs(self, chunk: Chunk) -> Chunk:
        """Inputs of the backbone for a chunk."""
        return chunk

    def draw_prompts(self, count: int) -> Tensor:
        """Initial prompts (count, H): embeddings of random tokens for text, zeros for images."""
        return layer_by_layer.draw_prompts(self.backbone, count)

    def pool(self, states_nTH: Tensor, mask: Tensor | None) -> Tensor:
        """Pooled states (n, W) of a chunk's items, or those of their tokens (n, K, W)."""
        if self.gives_tokens:
            return tokens(self.backbone, states_nTH, mask)
        return pool(self.backbone, self.pooling, states_nTH, mask)

    def _token_mask(self, chunk: Chunk, features: Tensor) -> Tensor:
        """(n, K) bool, False at padding; K is 1 without tokens."""
        mask = _attended(chunk, features.shape[1]) if self.gives_tokens else None
        if mask is not None:
            return mask.bool()
        positions = features.shape[1] if self.gives_tokens else 1
        return torch.ones((len(features), positions), dtype=torch.bool, device=features.device)


@dataclass(frozen=True)
class Features:
    """Backbone features of the batch's items that have the modality."""

    items: int  # U
    rows: Tensor  # (M,) int64, ascending
    values: Tensor  # (M, W), or (M, K, W) of tokens; M is 1, from a blank input, if no item has the modality
    mask: Tensor  # (M, K) bool, False at the padding of tokens; K is 1 without tokens

    def spread(self, values: Tensor) -> Tensor:
        """Scatter `values` (M, …) to (U, …), zeros elsewhere; a blank input contributes only its graph."""
        return values.new_zeros(self.items, *values.shape[1:]).index_copy(0, self.rows, values[: len(self.rows)])

    def present(self) -> Tensor:
        """(U, K) bool, False at padding and for items without the modality."""
        return self.spread(self.mask)

    def pooled(self) -> Tensor:
        """Features (M, W) of whole items; with tokens, the mean over them."""
        return self.values if self.values.dim() == 2 else mean_over(self.mask, self.values)


def _first(chunk: Chunk) -> Chunk:
    return {name: tensor[:1] for name, tensor in chunk.items()}


def _attended(chunk: Chunk, positions: int) -> Tensor | None:
    """Attention mask (n, T) of a chunk, if any; prompts may have been inserted after the class token."""
    mask = chunk.get("attention_mask")
    return None if mask is None else F.pad(mask, (positions - mask.shape[1], 0), value=1)


def _joined(chunks: Sequence[Tensor]) -> Tensor:
    """Concatenate the items of chunks (n, K, …), padded with zeros to the longest K."""
    longest = max(chunk.shape[1] for chunk in chunks)
    padding = [(0, 0) * (chunk.dim() - 2) + (0, longest - chunk.shape[1]) for chunk in chunks]
    return torch.cat([F.pad(chunk, pads) if any(pads) else chunk for chunk, pads in zip(chunks, padding, strict=True)])


def _keeping(features: Tensor, blanks: Sequence[Tensor]) -> Tensor:
    """Return `features` unchanged, with the passes that computed `blanks` (one item each) in its graph.

    ZeRO-3 gathers a layer's parameters on all ranks together, forward and backward, so a rank with fewer chunks has to
    run as many passes as the others, in the same order, and a rank without chunks has to join the gradient reduction.
    Multiplying by zero keeps a pass in the graph (autograd does not look at values) and leaves outputs and gradients
    unchanged. 0 * inf would be nan, but a rank that has items repeats its first one in these passes: if that item
    overflows here, it has already overflowed in the batch.
    """
    for blank in blanks:
        features = features + 0 * blank[:, :1]  # the first token alone, because their number differs
    return features
