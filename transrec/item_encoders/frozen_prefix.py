"""What of an item tower never changes while it trains: computed once for each item, and training starts behind it.

Designs considered. Caching item vectors: only right where nothing of the tower trains. A copy of the backbone cut at
layer k: other parameter names, so other checkpoints. Taken: the backbone stays whole, and a pass that is given the
states which enter layer k runs from there; the layers below keep their weights and their names and are just not run.

Shape letters: n items of a chunk, P positions kept of an item, W numbers kept of a position, T positions, H width.
"""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transrec.data.batch import Chunk
from transrec.hidden import Hidden
from transrec.item_encoders import backbones
from transrec.item_encoders.backbone_encoder import BackboneEncoder


@dataclass(frozen=True)
class FrozenPrefix:
    """Where the trained part of a tower begins.

    At a layer: kept are the states that enter it, (T, H) an item. Behind the backbone, if all of that is frozen: kept
    are the states that are read off, pooled already where nobody looks at positions, (T or 1, S·H) for S of them.
    """

    layer: int | None  # None: behind the backbone
    reads: tuple[int, ...] = ()  # indices of the states that are read, the last among them
    pooled: bool = False

    def compute(self, encoder: BackboneEncoder, chunk: Chunk) -> Tensor:
        """(n, P, W), without a graph."""
        with torch.no_grad():
            if self.layer is not None:
                return backbones.run_layers(encoder.backbone, *encoder.embed(chunk), stop=self.layer).states[-1]
            hidden = encoder.hidden(chunk, keep_all=True)
            states = [hidden.states[read] for read in self.reads]
            return torch.cat([hidden.pooled(s).unsqueeze(1) if self.pooled else s for s in states], dim=-1)

    def resume(self, encoder: BackboneEncoder, kept: Tensor, mask: Tensor | None) -> Hidden:
        """The hidden states of items for which `compute` gave `kept`."""
        if self.layer is not None:
            return encoder.run(kept, mask, start=self.layer)
        states: list[Any] = [None] * (encoder.num_layers + 1)
        for read, state in zip(self.reads, kept.chunk(len(self.reads), dim=-1), strict=True):
            states[read] = state
        if self.pooled:
            return Hidden(states, None, pool=_only_position)
        return Hidden(states, None if mask is None else mask.bool(), pool=encoder.pool)

    def digest(self, encoder: BackboneEncoder) -> str:
        """Names what `compute` depends on besides the content."""
        digest = hashlib.sha256(f"{self} {encoder.pooling if self.pooled else ''}".encode())
        below = backbones.stages(encoder.backbone)[: None if self.layer is None else self.layer + 1]
        for module in itertools.chain.from_iterable(below):
            for name, tensor in module.state_dict().items():
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def frozen_prefix(encoder: BackboneEncoder) -> FrozenPrefix | None:
    """The longest one, or None where already the embeddings or the first layer train."""
    training = [_trains(modules) for modules in backbones.stages(encoder.backbone)]
    if any(training):
        layer = training.index(True) - 1
        # An adapter at the readout looks at states that a pass from a layer on does not have.
        return FrozenPrefix(layer) if layer > 0 and not encoder.readout.reads_all else None
    adapter: Any = getattr(encoder.readout, "adapter", None)
    if adapter is None:
        return FrozenPrefix(None, (encoder.num_layers,), pooled=True)
    reads = tuple(sorted({*adapter.reads, encoder.num_layers}))
    return FrozenPrefix(None, reads, pooled=adapter.reads_pooled)


def why_not_exact(encoder: BackboneEncoder) -> str | None:
    """What makes the frozen layers say something else at every pass, and what to set against it."""
    config: Any = encoder.backbone.config
    drops = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
    if any(getattr(config, name, 0.0) for name in drops):
        return "its frozen layers have dropout; set the encoder's `dropout` to 0"
    if getattr(config, "mask_ratio", 0.0):
        return "it masks patches at random; set `mask_ratio` to 0"
    return None


def _trains(modules: Iterable[nn.Module]) -> bool:
    return any(parameter.requires_grad for module in modules for parameter in module.parameters())


def _only_position(states: Tensor, mask: Tensor | None) -> Tensor:
    return states[:, 0]
