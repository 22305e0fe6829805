"""Evidence made from sequences or features that a test gives."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transrec.data.content.filled_folder import filled_folder
from transrec.evidence.sources import Interim

Ints = NDArray[np.int64]


class GivenSequences:
    """Sources of evidence with the sequences of `blocks` of users; `read` notes the number of each block read."""

    def __init__(self, blocks: Sequence[tuple[Ints, Ints]], catalogue_size: int) -> None:
        self._blocks, self.catalogue_size, self.read = blocks, catalogue_size, list[int]()
        items = np.concatenate([items for items, _ in blocks])
        self.popularity = np.bincount(items.clip(0, catalogue_size), minlength=catalogue_size + 1)
        self.block_sizes = np.array([len(items) for items, _ in blocks])

    def sequences(self, blocks: Iterable[int]) -> Iterator[tuple[Ints, Ints]]:
        for number in blocks:
            self.read.append(number)
            yield self._blocks[number]


def interim(folder: Path) -> Interim:
    """Fills `folder` with intermediate results."""
    return lambda work: filled_folder(folder, lambda: work)


def made(config: Any, sources: Any, folder: Path) -> Any:
    """The evidence of `config`, in `folder`, which is filled if it is missing."""
    filled_folder(folder, lambda: config.work(sources, interim(folder.with_name(f"interim-{folder.name}"))))
    return config.load(folder)
