"""The data that evidence is computed from."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from transrec.work import Work

Ints = NDArray[np.int64]
Interim = Callable[[Work], Path]  # fills a folder of intermediate results, together with all processes that need it


class Sources(Protocol):
    """The training histories and the content of one set of shards."""

    @property
    def catalogue_size(self) -> int:
        """N; items are 1..N."""
        ...

    @property
    def popularity(self) -> Ints:
        """(N + 1,) training interactions of each item."""
        ...

    @property
    def block_sizes(self) -> Ints:
        """(blocks,) training interactions of each block of users."""
        ...

    def sequences(self, blocks: Iterable[int]) -> Iterable[tuple[Ints, Ints]]:
        """For each of `blocks`, the items of its users' training histories, concatenated, and their lengths."""
        ...

    def features(self, settings: Any) -> tuple[Ints, NDArray[np.float32]]:
        """Items that have the modality of the settings (M,), ascending, and their frozen features (M, W)."""
        ...
