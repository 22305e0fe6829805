"""The frozen layers of item towers, run once for every item before training starts."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from transrec.config import Config
from transrec.data.batch import Chunk, to_device
from transrec.data.content.item_store import ItemStore, ModalityStore
from transrec.data.content.prefix_store import KeptPrecision, PrefixStore
from transrec.distributed.world import World
from transrec.item_encoders.frozen_prefix import FrozenPrefix, frozen_prefix, why_not_exact
from transrec.protocols import Model
from transrec.terminal import messages
from transrec.training.engine import Precision


def _off(value: Any) -> Any:
    return "off" if value is False else value  # YAML reads an unquoted `off` as False


class PrefixCacheConfig(Config):
    """Start every pass of an item tower at its first trained layer, from states stored in `data.cache`.

    The states are computed in the precision of training. The run's validations use them too; without stored states,
    they compute the frozen layers in fp32.
    """

    mode: Annotated[Literal["auto", "off"], BeforeValidator(_off)] = Field(
        "auto", description="auto: store the states of frozen layers whose output never changes; off: never"
    )
    precision: KeptPrecision = Field(
        "fp32", description="precision of the states on disk; bf16 halves their size but rounds them"
    )


def keep_prefixes(
    config: PrefixCacheConfig, model: Model, store: ItemStore, cache: Path, precision: Precision, world: World
) -> None:
    """Replace the content in `store` with the states after the frozen layers of `model`.

    Call this before the model is wrapped. The processes of a node compute the states together.
    """
    for modality, encoder in _pretrained(model).items():
        prefix = frozen_prefix(encoder) if config.mode == "auto" else None
        if prefix is None:
            continue
        reason = why_not_exact(encoder)
        if reason is not None:
            if world.is_main:
                messages().print(f"the outputs of the {modality} encoder's frozen layers are not cached: {reason}")
            continue
        kept = kept_states(encoder, prefix, store, cache, precision, config.precision, world)
        store.replace(modality, kept)
        encoder.frozen_prefix = prefix


def kept_states(
    encoder: Any,
    prefix: FrozenPrefix,
    store: ItemStore,
    cache: Path,
    precision: Precision,
    kept_precision: KeptPrecision,
    world: World,
) -> PrefixStore:
    """The states after the prefix of an encoder for the content in `store`, computed unless the cache has them."""
    modality = encoder.modality
    target = _place(encoder, prefix, store, cache, precision, kept_precision)
    compute = _Compute(encoder, prefix, precision, world.device)
    return world.together(
        f"compute the {modality} states of the items",
        partial(PrefixStore, store.of(modality), store.num_items, compute, kept_precision, not prefix.features, target),
    )


@contextmanager
def found_prefixes(
    config: PrefixCacheConfig, model: Model, store: ItemStore, cache: Path, device: torch.device
) -> Iterator[None]:
    """Context in which passes over the content in `store` start after the frozen layers of `model`, for each encoder
    whose states are in the cache.

    Only states in fp32 are used, so that the vectors equal those of a whole pass. No states are computed.
    """
    found: dict[str, tuple[Any, ModalityStore]] = {}
    for modality, encoder in _pretrained(model).items():
        prefix = frozen_prefix(encoder) if config.mode == "auto" else None
        if prefix is None or why_not_exact(encoder) is not None:
            continue
        target = _place(encoder, prefix, store, cache, "fp32", "fp32")
        if target.exists():
            raw, compute = store.of(modality), _Compute(encoder, prefix, "fp32", device)
            kept = PrefixStore(raw, store.num_items, compute, "fp32", not prefix.features, target)
            store.replace(modality, kept)
            encoder.frozen_prefix, found[modality] = prefix, (encoder, raw)
    try:
        yield
    finally:
        for modality, (encoder, raw) in found.items():
            encoder.frozen_prefix = None
            store.replace(modality, raw)


def _place(
    encoder: Any,
    prefix: FrozenPrefix,
    store: ItemStore,
    cache: Path,
    precision: Precision,
    kept_precision: KeptPrecision,
) -> Path:
    """The folder of the states, named after everything they depend on."""
    parts = [store.of(encoder.modality).key, prefix.digest(encoder), precision, kept_precision]
    return cache.expanduser() / f"states-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:24]}"


def _pretrained(model: Model) -> dict[str, Any]:
    """The pretrained encoders of the model's towers, by the modality that they read."""
    leaves = [leaf for tower in model.towers().values() for leaf in tower.leaves]
    return {leaf.modality: leaf.encoder for leaf in leaves if leaf.encoder.pretrained}


class _Compute:
    """States after the prefix, computed as in training: same precision and device, without a graph."""

    def __init__(self, encoder: Any, prefix: FrozenPrefix, precision: Precision, device: torch.device) -> None:
        self.encoder, self.prefix, self.device = encoder, prefix, device
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision in ("bf16", "bf16_weights"))

    def __call__(self, chunk: Chunk) -> Tensor:
        was_training = self.encoder.training
        self.encoder.to(self.device).eval()
        try:
            with self.autocast:
                return self.prefix.compute(self.encoder, to_device(chunk, self.device)).float()
        finally:
            self.encoder.train(was_training)
