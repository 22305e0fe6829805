"""Hidden states of the items after the frozen layers of a tower: computed once, stored on disk and read by index.

Shape letters: n items of a chunk, P positions kept per item, W numbers kept per position.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transrec.data.batch import Chunk, ModalityContent, modality_content
from transrec.data.content.filled_folder import filled_folder
from transrec.data.content.item_store import ModalityStore
from transrec.data.content.ragged import Ragged
from transrec.data.progress import progress

KeptPrecision = Literal["fp32", "bf16"]
Compute = Callable[[Chunk], Tensor]

_COMPUTED_AT_ONCE = 512  # items


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
        kept = filled_folder(target, lambda partial: _fill(partial, store, items, compute, precision, masked))
        how = json.loads((kept / "how.json").read_text(encoding="utf-8"))
        offsets = np.load(kept / "offsets.npy", mmap_mode="r")
        self._ragged, self._blank_positions = Ragged(offsets), int(offsets[0])
        shape = (int(offsets[-1]), how["width"])
        self._states = np.memmap(kept / "states.bin", dtype=_DTYPES[precision], mode="r", shape=shape)
        self._masked, self._precision = how["masked"], precision
        self._positions = store.positions_in_pass(self._blank_positions)

    def content(self, items: NDArray[np.int64]) -> ModalityContent:
        """Content in chunks of `prefix` (n, P, W) and, if the tower needs one, `attention_mask` (n, P)."""
        rows, chunks = self._ragged.chunks(items, self._positions)
        blank = self._chunk(np.arange(self._blank_positions)[None], np.ones((1, self._blank_positions), np.bool_))
        return modality_content(rows, [self._chunk(places, real) for places, real in chunks], blank)

    def positions_in_pass(self, of_an_item: int) -> int:
        """Positions of one encoder pass, the same for items of any length."""
        return self._positions

    def _chunk(self, places: NDArray[np.int64], real: NDArray[np.bool_]) -> Chunk:
        states = torch.from_numpy(self._states[places])
        prefix = states.view(torch.bfloat16) if self._precision == "bf16" else states
        return {"prefix": prefix} | (
            {"attention_mask": torch.from_numpy(real.astype(np.int64))} if self._masked else {}
        )


_DTYPES = {"fp32": np.float32, "bf16": np.uint16}  # numpy has no bfloat16


def _fill(
    partial: Path, store: ModalityStore, items: int, compute: Compute, precision: KeptPrecision, masked: bool
) -> None:
    """Write `states.bin` (a blank item, then all items, concatenated), `offsets.npy` (N + 1) and `how.json`."""
    lengths = np.zeros(items + 1, np.int64)
    with (partial / "states.bin").open("wb") as file, progress("computing states", items) as advance:
        inputs = store.content(np.array([1])).blank
        masked = masked and "attention_mask" in inputs
        blank = compute(inputs)[0]
        file.write(_numbers(blank, precision).data)
        lengths[0], width = blank.shape
        for start in range(1, items + 1, _COMPUTED_AT_ONCE):
            numbers = np.arange(start, min(items + 1, start + _COMPUTED_AT_ONCE))
            content = store.content(numbers)
            kept: dict[int, Tensor] = {}
            for rows, chunk in zip(_rows_of(content), content.chunks, strict=True):
                states = compute(chunk)
                real = chunk["attention_mask"].sum(1).tolist() if masked else [states.shape[1]] * len(states)
                kept |= {row: state[:length] for row, state, length in zip(rows, states, real, strict=True)}
                advance(len(rows))
            advance(len(numbers) - len(kept))  # items without the modality
            for row in sorted(kept):
                lengths[start + row] = len(kept[row])
                file.write(_numbers(kept[row], precision).data)
    np.save(partial / "offsets.npy", np.cumsum(lengths))
    (partial / "how.json").write_text(json.dumps({"width": width, "masked": masked}), encoding="utf-8")


def _rows_of(content: ModalityContent) -> Iterable[list[int]]:
    sizes = [len(next(iter(chunk.values()))) for chunk in content.chunks]
    return (rows.tolist() for rows in content.rows.split(sizes))


def _numbers(state: Tensor, precision: KeptPrecision) -> NDArray[np.generic]:
    state = state.detach().cpu().contiguous()
    if precision == "bf16":
        return state.to(torch.bfloat16).view(torch.uint16).numpy()
    return state.float().numpy()
