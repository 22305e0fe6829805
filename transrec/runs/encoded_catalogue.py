"""A catalogue whose items are all encoded once, on first use, by the model of a run.

Shape letters: N items of the catalogue (indices 1..N), M known vectors, D width.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from transrec.config import ConfigError
from transrec.data.content.opening import open_store
from transrec.data.examples.histories import open_folder
from transrec.data.progress import progress
from transrec.data.shards import bad_samples
from transrec.data.shards.item_shards import content_hashes
from transrec.distributed.world import World
from transrec.evaluation.evaluator import encode_catalogue, encode_items, inference
from transrec.protocols import Model
from transrec.runs.catalogue import Catalogue
from transrec.runs.channels import Channel, Channels
from transrec.runs.evaluate import check_shards
from transrec.training.prefix_cache import found_prefixes


@dataclass(frozen=True)
class KnownVectors:
    """Item vectors that a model has already computed; `rows` gives the row of each content hash."""

    rows: dict[str, int]
    vectors: Tensor  # (M, D)


class EncodedCatalogue:
    """The model of a channel, a catalogue, and the vectors of its items.

    Args:
        channels: the run, or the adapters over one base, that the model is built from.
        channel: the channel to use.
        place: shards whose items are encoded, a folder or a URL; None: those that the run was trained on.
        world: the processes that share the work; all of them must use the vectors at the same time.
        known: vectors that this model has already computed, which are reused for items with the same content.
    """

    def __init__(
        self, channels: Channels, channel: Channel, place: Path | str | None, world: World, known: KnownVectors | None
    ) -> None:
        self.channels, self.channel, self.place, self.world = channels, channel, place, world
        self._known = None if channel.experiment.model.embeds_ids else known

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items; see `Recommender.catalogue` for the errors."""
        data = self.channel.experiment.data
        if self.place is None and not self.channel.has_data:
            raise ConfigError(f"{self.channel.folder} is not in its run folder: name shards with --catalogue")
        if self.place is None:
            check_shards(self.channel.folder, data, "--catalogue")
        return Catalogue.read(open_folder(data, self.place))

    @cached_property
    def model(self) -> Model:
        """The model as it was trained."""
        return self.channels.build(self.channel, self.catalogue.folder.index).eval()

    @cached_property
    def content_hashes(self) -> list[str]:
        """(N,) hashes of the content that the shards hold for each item; empty for an unreadable item."""
        return content_hashes(self.catalogue.folder)

    @cached_property
    def vectors(self) -> Tensor:
        """(N + 1, D); row 0 is padding."""
        rows = self._known_rows
        new = 1 + np.flatnonzero(rows[1:] == 0)
        experiment, folder = self.channel.experiment, self.catalogue.folder
        store = open_store(folder, self.channel.model.content(), experiment.data, self.world)
        bad_samples.warn({}, store.skipped)
        kept = found_prefixes(experiment.prefix_cache, self.model, store, experiment.data.cache, self.world.device)
        with inference(self.model), kept, progress("encoding items", len(new)) as advance:
            if self._known is None:
                return encode_catalogue(self.model, store, len(new), self.world, advance)
            vectors = self._known.vectors.to(self.world.device)[torch.from_numpy(rows)]
            vectors[0] = 0
            if len(new):
                vectors[torch.from_numpy(new)] = encode_items(self.model, store, new, self.world, advance)
            return vectors

    @cached_property
    def _known_rows(self) -> np.ndarray:
        """(N + 1,) the row of each item among the known vectors, 0 if it has to be encoded."""
        rows = np.zeros(1 + self.catalogue.folder.index.counts.items, np.int64)
        if self._known is not None:
            rows[1:] = [self._known.rows.get(digest, 0) for digest in self.content_hashes]
        return rows

    @property
    def encoded(self) -> int:
        """The number of items that had to be encoded, excluding those whose vectors were known."""
        _ = self.vectors
        return int((self._known_rows[1:] == 0).sum())

    def known(self) -> KnownVectors | None:
        """The vectors of all items, to reuse with another catalogue; None if the model embeds item ids."""
        if self.channel.experiment.model.embeds_ids:
            return None
        rows = {digest: row for row, digest in enumerate(self.content_hashes, start=1) if digest}
        return KnownVectors(rows, self.vectors)

    @cached_property
    def directions(self) -> Tensor:
        """(N + 1, D) item vectors of length 1."""
        return torch.nn.functional.normalize(self.vectors, dim=-1)

    def prepare(self) -> None:
        """Read and compute everything in advance. The catalogue may then be moved; only its pictures are still read."""
        self.catalogue.folder.pin()
        _ = self.catalogue.index_of, self.directions
        if not self.channel.experiment.model.embeds_ids:
            _ = self.content_hashes
        self.catalogue.prepare()
