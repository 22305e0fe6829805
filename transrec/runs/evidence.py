"""The evidence of a run, computed once per node and set of shards, and kept in the node's cache."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from transrec.config import ConfigError
from transrec.data.content.filled_folder import Whole, filled_folder, intact, interim_folder, remove_interim
from transrec.data.content.opening import open_store
from transrec.data.content.prefix_store import PrefixStore
from transrec.data.examples.next_item import NextItemExamples
from transrec.distributed.world import World
from transrec.errors import TransRecError
from transrec.evidence import EvidenceConfig
from transrec.evidence.content_similarity import ContentSimilarityConfig
from transrec.evidence.item_to_item import ItemToItemConfig
from transrec.item_encoders.frozen_prefix import FrozenPrefix
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.multimodal import MultimodalEncoderConfig
from transrec.item_encoders.text import TextEncoderConfig
from transrec.models.ranking_model import RankingModelConfig
from transrec.nn.principal_components import axes_of
from transrec.protocols import Evidence, Examples, ModelSettings
from transrec.training.prefix_cache import kept_states
from transrec.work import Work

_CUTS_HISTORIES = {"fraction", "min_interactions", "windows", "split"}  # settings that determine what is counted
_FEATURES_AT_ONCE = 4096  # items
_FORMAT = 2  # version of the tables; increment it when the same data yield different tables

BackboneConfig = TextEncoderConfig | ImageEncoderConfig
CountedEvidence = EvidenceConfig | ItemToItemConfig


def look_up(model: ModelSettings, examples: Examples, world: World) -> None:
    """Add the evidence that `model` asks for to the batches and questions of `examples`.

    The processes of a node compute the evidence together; every rank must call this.
    """
    settings = model.looked_up()
    if settings:
        assert isinstance(examples, NextItemExamples)  # `check_examples` of a model refuses others
        examples.evidence = tuple(_open(one, RunSources(model, examples, world)) for one in settings)


def with_statistics(model: Any, examples: Examples, world: World) -> Any:
    """The settings of a model with the statistics of the items' frozen features that it needs.

    These are the mean, if the model compares candidates with histories, and the axes of the principal components,
    unless the model took the axes over from `init_from`. Every rank must call this.
    """
    if not isinstance(model, RankingModelConfig) or not (model.similarity or model.principal_components):
        return model
    known, centres, axes = RunSources(model, examples, world), {}, dict(model.axes)
    for modality in model.content():
        _, features = known.features(ContentSimilarityConfig(modality=modality))
        if model.similarity:
            centres[modality] = features.mean(0, dtype=np.float64).tolist() if len(features) else []
        if model.principal_components and not model.axes and (found := axes_of(features)):
            axes[modality] = found
    return model.model_copy(update={"centres": centres, "axes": axes})


def attempt(settings: CountedEvidence, known: "RunSources") -> Evidence | None:
    """The evidence, or None on all ranks if it cannot be computed; the main process then prints the reason.

    For example, its backbone is missing, or the catalogue is too large to compare all pairs of items. Every rank must
    call this.
    """
    reasons: list[str] = []

    def fill(place: Path) -> None:
        try:
            _filled(place, settings, known)
        except ConfigError as error:
            reasons.append(str(error))

    place = None
    try:
        place = _place(settings, known)
    except ConfigError as error:
        reasons.append(str(error))
    if place is not None:
        known.world.together(f"make the evidence {settings.key}", partial(fill, place))
    if place is not None and not known.world.gather_ints([len(reasons)]).any():
        with intact(place):
            return settings.load(place)
    if known.world.is_main:
        print(f"transrec: skipping the baseline {settings.name}: {'; '.join(reasons)}", file=sys.stderr)
    return None


def kept_arrays(
    name: str, count: Callable[[], Mapping[str, NDArray[Any]]], examples: Any, world: World
) -> dict[str, NDArray[Any]]:
    """The arrays that `count` returns, by name; one process of each node computes them and fills the node's cache.

    Every rank must call this.

    Args:
        name: unique among all counts of the same `examples`.
    """
    what = [_FORMAT, name, *_cut(examples), dict(examples.identity), examples.config.examples.model_dump(mode="json")]
    place = examples.config.cache.expanduser() / f"counts-{_hash(what)[:24]}"

    def fill(folder: Path) -> None:
        for key, array in count().items():
            np.save(folder / f"{key}.npy", array)

    filled = world.together(f"count for {name}", partial(filled_folder, place, partial(Whole, fill, "counts")))
    with intact(filled):
        return {path.stem: np.load(path) for path in sorted(filled.iterdir())}


def _open(settings: CountedEvidence, known: "RunSources") -> Evidence:
    place = _place(settings, known)
    known.world.together(f"make the evidence {settings.key}", lambda: _filled(place, settings, known))
    with intact(place):
        return settings.load(place)


def _place(settings: CountedEvidence, known: "RunSources") -> Path:
    """The folder of the evidence in the node's cache."""
    if isinstance(settings, ContentSimilarityConfig):
        known.states(settings)  # computed by all processes together, before one of them compares the items
    cache: Path = known.examples.config.cache
    return cache.expanduser() / f"evidence-{known.digest(settings)[:24]}"


def _filled(place: Path, settings: CountedEvidence, known: "RunSources") -> None:
    """Take part in filling the folder of the evidence, and remove the intermediate results."""
    interim = interim_folder(place)

    def fill(work: Work) -> Path:
        if place.exists():
            raise FileNotFoundError(f"{interim} is no longer needed")
        return filled_folder(interim, lambda: work)

    try:
        filled_folder(place, lambda: settings.work(known, fill))
    except (OSError, RuntimeError, TransRecError):
        if not place.exists():  # otherwise another process has filled it and removed the intermediate results
            raise
    remove_interim(place)


def _cut(examples: Any) -> list[Any]:
    """Everything that the training histories depend on."""
    data = examples.config.model_dump(mode="json", include=_CUTS_HISTORIES)
    length = examples.max_length if examples.config.windows == "last" else None
    return [data, length, examples.folder.index_sha256, sorted(examples.skipped)]


def _hash(what: list[Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


class RunSources:
    """The histories and the content of a run, from which its evidence is computed."""

    def __init__(self, model: ModelSettings, examples: Any, world: World) -> None:
        self.model, self.examples, self.world = model, examples, world
        self.catalogue_size = examples.targets.size
        self._states: dict[str, PrefixStore] = {}

    @property
    def popularity(self) -> NDArray[np.int64]:
        """(N + 1,) training interactions of each item."""
        found: NDArray[np.int64] = self.examples.popularity
        return found

    @property
    def block_sizes(self) -> NDArray[np.int64]:
        """(blocks,) training interactions of each block of users."""
        found: NDArray[np.int64] = self.examples.block_sizes
        return found

    def sequences(self, blocks: Iterable[int]) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """For each of `blocks`: the items of its users' training histories, concatenated, and the length of each."""
        found: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]] = self.examples.training_sequences(blocks)
        return found

    def features(self, settings: ContentSimilarityConfig) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The items that have the modality (M,), in ascending order, and their frozen features (M, W)."""
        starts = range(1, self.catalogue_size + 1, _FEATURES_AT_ONCE)
        pieces = [_features(self.states(settings), start, self.catalogue_size) for start in starts]
        items, features = zip(*pieces, strict=True)
        return np.concatenate(items), np.concatenate(features)

    def states(self, settings: ContentSimilarityConfig) -> PrefixStore:
        """The items' features after all layers of the pretrained backbone, before any training by the run."""
        if settings.key not in self._states:
            config = encoder_of(settings, self.model)
            with torch.random.fork_rng():  # the projection, which is not used, is initialised at random
                encoder = config.build(1, self.catalogue_size).requires_grad_(False)
            data = self.examples.config
            store = open_store(self.examples.folder, config.content(), data, self.world)
            prefix = FrozenPrefix(None, features=True)
            self._states[settings.key] = kept_states(encoder, prefix, store, data.cache, "fp32", "fp32", self.world)
        return self._states[settings.key]

    def digest(self, settings: CountedEvidence) -> str:
        """Hash of everything that the evidence depends on."""
        what: list[Any] = [_FORMAT, settings.tables()]
        if isinstance(settings, ContentSimilarityConfig):
            what.append(self.states(settings).key)
        else:
            what += _cut(self.examples)
        return _hash(what)


def _features(store: PrefixStore, start: int, catalogue_size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The items of the chunk from `start` on that have the modality, and their features."""
    items = np.arange(start, min(catalogue_size + 1, start + _FEATURES_AT_ONCE))
    content = store.content(items)
    rows = content.rows.numpy()
    order = np.argsort(rows)
    blank = content.blank["prefix"][:0, 0].numpy()
    features = np.concatenate([blank, *(chunk["prefix"][:, 0].numpy() for chunk in content.chunks)])
    return items[rows[order]], features[order]


def encoder_of(settings: ContentSimilarityConfig, model: Any) -> BackboneConfig:
    """The encoder whose pretrained backbone reads the items: the one named in `settings`, or the model's own.

    Raises:
        ConfigError: none is named, and the model reads no content of that modality.
    """
    if settings.backbone is not None:
        named = {"backbone": settings.backbone, "layers": settings.layers, "pooling": "mean", "dropout": 0.0}
        if settings.modality == "image":
            return ImageEncoderConfig(**named)
        return TextEncoderConfig(**named, fields=settings.fields, max_tokens=settings.max_tokens)
    own = model.item_encoder
    parts = own.parts if isinstance(own, MultimodalEncoderConfig) else dict.fromkeys(own.content(), own)
    found = parts.get(settings.modality)
    if not isinstance(found, BackboneConfig):
        raise ConfigError(
            f"`model.evidence`: the model reads no {settings.modality}, so set the `backbone` of {settings.key}"
        )
    return found.model_copy(update={"dropout": 0.0})
