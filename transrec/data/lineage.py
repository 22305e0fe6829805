"""Lineage: the windows of a step, and the steps of a user or an item, computed from the order itself without a log.

Steps count from 1, as in `metrics.jsonl`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transrec.config import ConfigError
from transrec.data.examples.histories import HistoryExamples
from transrec.data.examples.windows import Window
from transrec.data.train_stream import TrainStream


@dataclass(frozen=True)
class Step:
    """The windows of a step by slot, and all of its items: those of the windows and the negatives."""

    windows: dict[int, Window]
    items: NDArray[np.int64]  # distinct catalogue indices, ascending


@dataclass(frozen=True)
class Sighting:
    """A window of a user in a step."""

    step: int
    slot: int
    user_id: str
    start: int  # position of the window's first item in the user's history
    items: NDArray[np.int32]  # catalogue indices


class Lineage:
    """Which windows the first `steps` steps of a run train on; `stream` must have one rank and no accumulation."""

    def __init__(self, stream: TrainStream, steps: int) -> None:
        if not isinstance(stream.examples, HistoryExamples):
            raise ConfigError(f"lineage needs windows of histories, but a run of {stream.examples.name} has none")
        self._stream, self._examples, self.steps = stream, stream.examples, steps

    def step(self, step: int) -> Step:
        (batch,) = self._stream[step - 1]
        windows = {slot: w for slot, w in enumerate(self._stream.slots(step - 1)) if w is not None}
        return Step(windows, np.sort(batch.content.items.numpy()))

    def user(self, user_id: str) -> list[Sighting]:
        """The user's windows in order of steps; empty for a user who is not trained on.

        Raises:
            KeyError: no such user in the shards.
        """
        block, user = self._examples.shards.find(user_id)
        windows = self._examples.windows(block)
        return self._sightings([(block, np.flatnonzero(windows.user == user))])

    def item(self, item: int) -> list[Sighting]:
        """The windows that contain a catalogue index, as input or target, in order of steps."""
        return self._sightings(self._windows_with(item))

    def _windows_with(self, item: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """(block, its windows that contain `item`)."""
        for number in range(len(self._examples.shards)):
            block = self._examples.block(number)
            windows = self._examples.windows(number)
            before = np.concatenate([[0], np.cumsum(block.items == item)])
            first = block.offsets[windows.user]
            within = np.flatnonzero(before[first + windows.stop] > before[first + windows.start])
            if len(within):
                yield number, within

    def _sightings(self, windows: Iterable[tuple[int, NDArray[np.int64]]]) -> list[Sighting]:
        order = self._stream.order
        epochs = -(-self.steps // order.steps_per_epoch)
        places = [
            place
            for block, within in windows
            for epoch in range(epochs)
            for place in order.places(epoch, block, within).tolist()
            if place[0] < self.steps
        ]
        return [self._sighting(step, slot) for step, slot in sorted(places)]

    def _sighting(self, step: int, slot: int) -> Sighting:
        (window,) = self._stream.slots(step, slot, slot + 1)
        assert window is not None, "the order's inverse returns filled slots only"
        return Sighting(step + 1, slot, window.user_id, window.start, window.items)
