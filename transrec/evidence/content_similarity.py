"""Content similarity: how close a candidate's text or image is to those of the history's newest items.

Paper: SimTier (Sheng et al., "Enhancing Taobao Display Advertising with Multimodal Representations", CIKM 2024) counts
candidates' similarities to a history in tiers. Deviation: a kernel, exp((cos - 1) / temperature), averaged over the
history, in place of tiers.

Shape letters: N items of the catalogue (1..N), M items with the modality, W width of the features, S points.
"""

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import sparse

from transrec.data.batch import SeenItems
from transrec.evidence.closest import AllPairs, Cells, closest, finder
from transrec.evidence.histories import held, weights
from transrec.evidence.neighbours import Neighbours, NeighbourWork, looked_up
from transrec.evidence.sources import Interim, Sources
from transrec.evidence.terms import EvidenceSettings
from transrec.work import Work, part_sizes

Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]

_ROWS_OF_A_PART = 16_384  # a multiple of the vectors that are searched together beyond 200,000


class ContentSimilarityConfig(EvidenceSettings):
    """Configuration of `ContentSimilarity`."""

    name: Literal["content_similarity"] = Field(
        "content_similarity", description="similarity to the items of the history in a frozen feature space"
    )
    modality: Literal["text", "image"] = Field("text", description="content that is compared")
    backbone: str | None = Field(
        None, description="backbone: a folder, a hub id or a package; null: the backbone of the model's item encoder"
    )
    layers: int | None = Field(None, ge=1, description="number of first layers of the backbone to keep; null: all")
    fields: list[str] = Field(
        ["text"], min_length=1, description="fields of an item's record to read; only with a backbone"
    )
    max_tokens: int = Field(
        48, ge=3, description="maximum number of tokens; longer texts are truncated; only with a backbone"
    )
    shrinkage: float = Field(
        0.3, ge=0, description="share of the mean variance that is added to each variance before features are whitened"
    )
    temperature: float = Field(0.2, gt=0, description="width of the kernel; with a smaller one, only close items count")
    recent: int = Field(5, ge=1, description="number of newest items of a history that are compared")
    recency: float = Field(1.0, ge=0, description="the item p places from the end of a history has weight p^-recency")
    neighbours: int = Field(200, ge=1, description="number of candidates kept for each item")

    @model_validator(mode="after")
    def _reads_what_is_set(self) -> Self:
        """Reject settings that have no effect: those of a backbone without one, and those of texts for images."""
        ignored: tuple[str, ...] = ("layers", "fields", "max_tokens") if self.backbone is None else ()
        ignored = ignored or (("fields", "max_tokens") if self.modality == "image" else ())
        for name in ignored:
            if getattr(self, name) != type(self).model_fields[name].default:
                if self.backbone is None:
                    raise ValueError(
                        f"`{name}` has no effect without a `backbone` for this evidence: set `backbone`, or remove "
                        f"`{name}`"
                    )
                raise ValueError(f"`{name}` applies only to text: set `modality: text`, or remove `{name}`")
        return self

    @property
    def key(self) -> str:
        return f"{self.modality}_similarity"

    def tables(self) -> dict[str, Any]:
        """The settings that the table depends on."""
        return self.model_dump(exclude={"recent", "recency", "weight", "scale"})

    def work(self, sources: Sources, interim: Interim) -> Work:
        """The work of comparing items and filling a folder with the closest of each.

        It takes M² W multiplications, or about 32 √M³ W / 4 beyond 200,000 items. Each process holds the
        features two or three times, and about 0.5 GiB of similarities.

        Raises:
            ConfigError: there are too many items to compare all pairs, and FAISS is not installed.
        """
        items, features = sources.features(self)
        find = finder(self.name, whitened(features, self.shrinkage), interim)
        lengths = part_sizes(sources.catalogue_size + 1, _ROWS_OF_A_PART)
        return NeighbourWork(self.name, lengths, lambda part: self._rows(part, lengths[part], items, find, sources))

    def _rows(self, part: int, length: int, items: Ints, find: AllPairs | Cells, sources: Sources) -> sparse.csr_array:
        """The rows of a part, one for each item of the catalogue."""
        start = part * _ROWS_OF_A_PART
        first, last = np.searchsorted(items, [start, start + length]).tolist()
        places, cosines = closest(find, first, last, self.neighbours)
        counts = np.zeros(length, np.int64)
        counts[items[first:last] - start] = places.shape[1]
        kernel = np.exp((cosines - 1) / self.temperature)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return sparse.csr_array((kernel.ravel(), items[places].ravel(), starts), (length, sources.catalogue_size + 1))

    def load(self, folder: Path) -> "ContentSimilarity":
        """The evidence in a folder that was filled by `work`."""
        return ContentSimilarity(self, Neighbours(folder))


class ContentSimilarity:
    """s(h, j) = Σₚ wₚ exp((cos(z(hₚ), z(j)) - 1) / temperature), wₚ ∝ p^-recency, Σ wₚ = 1, for whitened features z."""

    def __init__(self, config: ContentSimilarityConfig, kernel: Neighbours) -> None:
        self.config, self.kernel = config, kernel

    def scores(self, seen: SeenItems) -> sparse.csr_array:
        """The score of every candidate for each history, (B, N + 1)."""
        holds = held(seen)
        of_histories = weights(seen, holds, self.config.recent, self.config.recency)
        total = of_histories.sum(axis=1)
        of_histories.data /= np.repeat(total, np.diff(of_histories.indptr))
        used = np.unique(of_histories.indices)
        return looked_up(of_histories[:, used], self.kernel.rows(holds.items[used]))


def whitened(features: NDArray[np.float32], shrinkage: float) -> Vectors:
    """Unit vectors (M, W): centred features, rotated to their principal axes, each divided by its standard deviation.

    `shrinkage` times the mean variance is added to each variance, so that axes of noise are not amplified.
    """
    if not len(features):
        return features
    centred = features - features.mean(0, dtype=np.float64).astype(np.float32)
    variances, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64) / max(1, len(centred)))
    deviations = np.sqrt(np.maximum(variances, 0) + shrinkage * max(variances.mean(), 1e-12))
    rotated = centred @ (axes / deviations).astype(np.float32)
    unit: Vectors = rotated / np.maximum(np.linalg.norm(rotated, axis=1, keepdims=True), 1e-12)
    return unit
