"""The order of training windows: a pure function of (seed, epoch, step), for any number of ranks and workers.

Designs considered. A global permutation with random access has the best shuffle but reads shards at random, which is
slow on remote storage. A shuffle buffer per worker reads sequentially, but its order depends on the number of workers.
Chosen: *lanes*. An epoch lays the blocks of users end to end (shards in a random order, each read front to back, the
ring rotated by a random amount) and cuts that line into lanes of equal length. Every global batch takes the same number
of windows from each lane, so the data belong to lanes, not ranks; ranks and workers receive slots of the batch. Windows
are shuffled within a block.

If the windows of an epoch do not fill its last batch, the empty slots are spread over all batches instead of being left
to the last one: a step on a single window would have the full learning rate, but a noisy gradient and no negatives.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_MOST_LANES = 64
_EMPTY = -1
_LINE, _BLOCK = 1, 2  # seed components for each purpose, so that equal seeds do not give equal random numbers


class EpochOrder:
    """The windows of each step. `block_windows` (blocks,) counts windows, `block_shard` (blocks,) numbers shards."""

    def __init__(self, block_windows: Ints, block_shard: Ints, batch_size: int, seed: int) -> None:
        self.block_windows, self.block_shard = block_windows, block_shard
        self.batch_size, self.seed = batch_size, seed
        self.windows = int(block_windows.sum())
        self.lanes = max(n for n in range(1, min(batch_size, _MOST_LANES) + 1) if batch_size % n == 0)
        longest_lane = -(-self.windows // self.lanes)
        self.steps_per_epoch = -(-longest_lane // (batch_size // self.lanes))
        self._line = lru_cache(maxsize=2)(self._lay_out)
        self._shuffled = lru_cache(maxsize=1024)(self._shuffle)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_line", "_shuffled")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._line = lru_cache(maxsize=2)(self._lay_out)
        self._shuffled = lru_cache(maxsize=1024)(self._shuffle)

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Global step -> (epoch, step within it)."""
        return divmod(step, self.steps_per_epoch)

    def slots(self, step: int, first: int = 0, stop: int | None = None) -> Ints:
        """(stop - first, 2): (block, window within the block) for the slots [first, stop) of global step `step`.

        Empty slots are (-1, -1).
        """
        epoch, step = self.epoch_of(step)
        blocks, ends = self._line(epoch)
        slot = np.arange(first, self.batch_size if stop is None else stop)
        per_lane = self.batch_size // self.lanes
        lane = slot // per_lane
        position, end = self._begins(lane, step) + slot % per_lane, self._begins(lane, step + 1)
        found = np.full((len(slot), 2), _EMPTY, np.int64)
        for i in np.flatnonzero(position < end):
            place = int(np.searchsorted(ends, position[i], side="right"))
            block = int(blocks[place])
            within = position[i] - (ends[place] - self.block_windows[block])
            found[i] = block, self._shuffled(epoch, block)[within]
        return found

    def places(self, epoch: int, block: int, within: Ints) -> Ints:
        """(n, 2): (global step, slot) for windows of a block in an epoch, the inverse of `slots`."""
        blocks, ends = self._line(epoch)
        first = ends[int(np.flatnonzero(blocks == block)[0])] - self.block_windows[block]
        position = first + np.argsort(self._shuffled(epoch, block))[within]
        lane = np.searchsorted(self._lane(np.arange(self.lanes))[0], position, side="right") - 1
        start, length, early = self._lane(lane)
        step = ((position - start + 1) * self.steps_per_epoch - early - 1) // length
        slot = lane * (self.batch_size // self.lanes) + position - self._begins(lane, step)
        return np.stack([epoch * self.steps_per_epoch + step, slot], axis=1)

    def _begins(self, lane: Ints, step: Ints | int) -> Ints:
        """The position of the first window of a step in each lane; its windows end where the next step's begin."""
        start, length, early = self._lane(lane)
        begins: Ints = start + (step * length + early) // self.steps_per_epoch
        return begins

    def _lane(self, lane: Ints) -> tuple[Ints, Ints, Ints]:
        """The first position of each lane, its number of windows, and its offset in rounding.

        The offsets make lanes leave slots empty at different steps.
        """
        starts = lane * self.windows // self.lanes
        length = (lane + 1) * self.windows // self.lanes - starts
        return starts, length, lane * self.steps_per_epoch // self.lanes

    def _lay_out(self, epoch: int) -> tuple[Ints, Ints]:
        """Blocks in the order of the epoch, and the position where the windows of each end."""
        rng = np.random.default_rng((_LINE, self.seed, epoch))
        rank_of_shard = rng.permutation(int(self.block_shard.max(initial=0)) + 1)
        blocks = np.argsort(rank_of_shard[self.block_shard], kind="stable")
        blocks = np.roll(blocks, rng.integers(len(blocks)))
        return blocks, np.cumsum(self.block_windows[blocks])

    def _shuffle(self, epoch: int, block: int) -> Ints:
        return np.random.default_rng((_BLOCK, self.seed, epoch, block)).permutation(int(self.block_windows[block]))
