"""The frozen prefix of an item tower: its first layers, which are never trained and are computed only once per item.

Designs considered: caching item vectors is correct only if nothing in the tower is trained. A copy of the backbone cut
at layer k changes parameter names, and so checkpoints. Chosen: the backbone stays whole, and a pass that is given the
input of layer k starts there; the layers below keep their weights and names and are not run.

Shape letters: n items of a chunk, P positions kept per item, W numbers kept per position, T positions, H width,
S states that the readout reads.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transrec.data.batch import Chunk
from transrec.item_encoders import layer_by_layer
from transrec.item_encoders.backbone_encoder import BackboneEncoder
from transrec.item_encoders.dropout import first_random
from transrec.item_encoders.families import family_of
from transrec.nn.readout import Hidden

_FORMAT = 2  # version of the kept states; increment when the same weights give different states
# Fields of a configuration that do not affect the states.
_NO_MATTER = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


@dataclass(frozen=True)
class FrozenPrefix:
    """The layer where training starts, which determines the states that are kept per item.

    layer k         the input of layer k, (T, H)
    layer None      the whole backbone is frozen: the S states that are read, (T, S·H)
    features        the same states, pooled, if neither an adapter nor the fusion reads unpooled ones, (1, S·H)
    """

    layer: int | None
    features: bool = False

    def compute(self, encoder: BackboneEncoder, chunk: Chunk) -> Tensor:
        """States to keep (n, P, W), computed without gradients."""
        with torch.no_grad():
            if self.layer is not None:
                return layer_by_layer.run_layers(encoder.backbone, *encoder.embed(chunk), stop=self.layer).states[-1]
            hidden = encoder.hidden(chunk)
            if self.features:
                return encoder.readout.pooled(hidden).unsqueeze(1)
            return torch.cat([hidden.states[read] for read in encoder.readout.reads], dim=-1)

    def resume(self, encoder: BackboneEncoder, kept: Tensor, mask: Tensor | None) -> Hidden:
        """Hidden states computed from `kept`, the output of `compute`; not for features."""
        if self.layer is not None:
            return encoder.run(kept, mask, start=self.layer)
        return Hidden(encoder.readout.placed(kept), None if mask is None else mask.bool(), encoder.pool)

    def digest(self, encoder: BackboneEncoder) -> str:
        """Hash of everything, except the content, that `compute` depends on."""
        read = [encoder.readout.reads, encoder.pooling] if self.layer is None else []
        config = encoder.backbone.config.to_diff_dict()
        shape = json.dumps({key: config[key] for key in sorted(config) if key not in _NO_MATTER}, default=str)
        digest = hashlib.sha256(f"{_FORMAT} {self} {read} {encoder.preparation} {shape}".encode())
        for module in self.modules(encoder):
            for name, tensor in module.state_dict().items():
                digest.update(f"{name}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def modules(self, encoder: BackboneEncoder) -> Iterator[nn.Module]:
        """The modules of the backbone that `compute` runs."""
        below = layer_by_layer.stages(encoder.backbone)[: None if self.layer is None else self.layer + 1]
        return itertools.chain.from_iterable(below)


def frozen_prefix(encoder: BackboneEncoder) -> FrozenPrefix | None:
    """Longest frozen prefix of `encoder`; None if the embeddings or the first layer are trained."""
    training = [_trains(modules) for modules in layer_by_layer.stages(encoder.backbone)]
    if not any(training):
        return FrozenPrefix(None, features=encoder.readout.reads_pooled and not encoder.gives_tokens)
    layer = training.index(True) - 1
    # An adapter at the readout reads states that a pass from a later layer does not compute, so there is no prefix.
    return FrozenPrefix(layer) if layer > 0 and not encoder.readout.reads_all else None


def why_not_exact(encoder: BackboneEncoder) -> str | None:
    """Reason why the frozen layers' outputs differ between passes, with the setting that prevents it; None if equal."""
    backbone, prefix = encoder.backbone, frozen_prefix(encoder)
    random = first_random(backbone, [] if prefix is None else prefix.modules(encoder))
    if random is not None:
        return f"its frozen layers have dropout ({random}); set the encoder's `dropout` to 0"
    if encoder.augments:
        return "it is trained on crops that differ from step to step; set `augment` to false"
    if family_of(backbone).masks_patches and backbone.config.mask_ratio:
        return "it masks patches at random; set `mask_ratio` to 0"
    adapter = encoder.readout.get_submodule("adapter") if encoder.readout.reads_all else None
    # Only K-Adapter, the one adapter that attends over positions, has the attribute `masked`.
    if encoder.modality == "text" and not getattr(adapter, "masked", True):
        return "the released K-Adapter attends to padding, which is not kept"
    return None


def _trains(modules: Iterable[nn.Module]) -> bool:
    return any(parameter.requires_grad for module in modules for parameter in module.parameters())
