"""Hidden states of the items after the frozen layers of a tower: computed once, stored on disk and read by index.

Shape letters: n items of a chunk, P positions kept per item, W numbers kept per position.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transrec.data.batch import Chunk, ModalityContent, modality_content
from transrec.data.content.filled_folder import filled_folder, intact
from transrec.data.content.item_store import ModalityStore
from transrec.data.content.ragged import Ragged
from transrec.files import read_json
from transrec.work import Advance, PartWriter, part_sizes

KeptPrecision = Literal["fp32", "bf16"]
Compute = Callable[[Chunk], Tensor]

_COMPUTED_AT_ONCE = 512  # items
ITEMS_OF_A_PART = 4 * _COMPUTED_AT_ONCE


class PrefixStore:
    """States that `compute` returns for the content in `store`; items without the modality have none.

    Args:
        masked: whether a state has the positions of the content, so that the attention mask is kept.
        target: folder of the states, named by everything they depend on; filled if it is missing.
    """

    def __init__(
        self, store: ModalityStore, items: int, compute: Compute, precision: KeptPrecision, masked: bool, target: Path
    ) -> None:
        self.key, self.items_at_once = target.name, store.items_at_once
        kept = filled_folder(target, lambda: _Computing(store, items, compute, precision, masked))
        with intact(kept):
            how = read_json(kept / "how.json")
            self._offsets = np.load(kept / "offsets.npy", mmap_mode="r")
            shape = (int(self._offsets[-1]), how["width"])
            self._states = np.memmap(kept / "states.bin", dtype=_DTYPES[precision], mode="r", shape=shape)
            self._masked, self._precision = how["masked"], precision
        self._ragged, self._blank_positions = Ragged(self._offsets), int(self._offsets[0])
        self._positions = store.positions_in_pass(self._blank_positions)

    def content(self, items: NDArray[np.int64]) -> ModalityContent:
        """Content in chunks of `prefix` (n, P, W) and, if the tower needs one, `attention_mask` (n, P)."""
        rows, chunks = self._ragged.chunks(items, self._positions)
        blank = self._chunk(np.arange(self._blank_positions)[None], np.ones((1, self._blank_positions), np.bool_))
        return modality_content(rows, [self._chunk(places, real) for places, real in chunks], blank)

    @property
    def positions(self) -> NDArray[np.int64]:
        """(N,) number of positions kept of each item."""
        found: NDArray[np.int64] = np.diff(self._offsets)
        return found

    def positions_in_pass(self, of_an_item: int) -> int:
        """Number of positions in one full encoder pass, the same for items of any length."""
        return self._positions

    def _chunk(self, places: NDArray[np.int64], real: NDArray[np.bool_]) -> Chunk:
        states = torch.from_numpy(self._states[places])
        prefix = states.view(torch.bfloat16) if self._precision == "bf16" else states
        return {"prefix": prefix} | (
            {"attention_mask": torch.from_numpy(real.astype(np.int64))} if self._masked else {}
        )


_DTYPES = {"fp32": np.float32, "bf16": np.uint16}  # numpy has no bfloat16


class _Computing:
    """Writes `states.bin` (a blank item, then all items, concatenated), `offsets.npy` (N + 1) and `how.json`."""

    name, unit = "computing states", "items"

    def __init__(
        self, store: ModalityStore, items: int, compute: Compute, precision: KeptPrecision, masked: bool
    ) -> None:
        self._store, self._compute, self._precision = store, compute, precision
        inputs = store.content(np.array([1])).blank
        self._masked = masked and "attention_mask" in inputs
        self._blank = compute(inputs)[0]
        positions, self._width = self._blank.shape
        of_items = store.positions if self._masked else np.where(store.positions, positions, 0)
        self._offsets = np.cumsum(np.concatenate([[positions], of_items]))
        self._row_bytes = self._width * np.dtype(_DTYPES[precision]).itemsize
        self.sizes = part_sizes(items, ITEMS_OF_A_PART)
        self.total_bytes = int(self._offsets[-1]) * self._row_bytes

    def begin(self, folder: Path) -> None:
        with (folder / "states.bin").open("wb") as file:
            file.write(_numbers(self._blank, self._precision).data)
            file.truncate(self.total_bytes)
        np.save(folder / "offsets.npy", self._offsets)
        how = {"width": self._width, "masked": self._masked}
        (folder / "how.json").write_text(json.dumps(how), encoding="utf-8")

    def fill(self, part: int, out: PartWriter, advance: Advance) -> None:
        first = 1 + part * ITEMS_OF_A_PART
        stop = first + self.sizes[part]
        with out.at("states.bin", int(self._offsets[first - 1]) * self._row_bytes) as write:
            for start in range(first, stop, _COMPUTED_AT_ONCE):
                numbers = np.arange(start, min(stop, start + _COMPUTED_AT_ONCE))
                for state in self._states(numbers, advance):
                    write(_numbers(state, self._precision).data)

    def finish(self, folder: Path) -> None: ...

    def _states(self, numbers: NDArray[np.int64], advance: Advance) -> Iterator[Tensor]:
        """The states of the items `numbers` that have the modality, in order."""
        content = self._store.content(numbers)
        kept: dict[int, Tensor] = {}
        for rows, chunk in zip(_rows_of(content), content.chunks, strict=True):
            states = self._compute(chunk)
            lengths = (self._offsets[numbers[rows]] - self._offsets[numbers[rows] - 1]).tolist()
            kept |= {row: state[:length] for row, state, length in zip(rows, states, lengths, strict=True)}
            advance(len(rows))
        advance(len(numbers) - len(kept))  # items without the modality
        return (kept[row] for row in sorted(kept))


def _rows_of(content: ModalityContent) -> Iterable[list[int]]:
    sizes = [len(next(iter(chunk.values()))) for chunk in content.chunks]
    return (rows.tolist() for rows in content.rows.split(sizes))


def _numbers(state: Tensor, precision: KeptPrecision) -> NDArray[np.generic]:
    state = state.detach().cpu().contiguous()
    if precision == "bf16":
        return state.to(torch.bfloat16).view(torch.uint16).numpy()
    return state.float().numpy()
