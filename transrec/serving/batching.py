"""Answers concurrent queries in batches.

Designs considered. Waiting some milliseconds for more queries: a lone query would wait in vain. One thread per
query: the threads would compete for the same cores, and each pass would have a single user. Chosen: the queries that
arrive while a batch is computed form the next batch. A batch holds the queries of all channels, with one pass for each
channel over the weights that they share. One pass for all channels, with stacked adapters, would make the user encoder
faster, but neither evidence nor ranking, which take most of the time (`tests/benchmarks/mixed_channels.py`).
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from transrec.errors import TransRecError
from transrec.runs.answers.query import Query
from transrec.runs.recommender import Recommender

Answer = list[dict[str, Any]]
T = TypeVar("T")


class FullError(TransRecError):
    """Too many queries are waiting."""


@dataclass(frozen=True)
class Waiting:
    """A query that has not been answered."""

    recommender: Recommender
    query: Query
    answer: "asyncio.Future[Answer]"


class Batcher:
    """The queue of queries, and the one thread that uses the models.

    Args:
        most: maximum number of queries in a batch.
        most_waiting: maximum number of queries in the queue.
        observe: called with the number of queries of each batch.
    """

    def __init__(self, most: int, most_waiting: int, observe: Callable[[int], None]) -> None:
        self._most, self._observe = most, observe
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue(most_waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start answering; must be called in the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Stop answering."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown()

    @property
    def waiting(self) -> int:
        """Number of queries in the queue."""
        return self._queue.qsize()

    async def ask(self, recommender: Recommender, query: Query) -> Answer:
        """The answer of a recommender.

        Raises:
            FullError: the queue is full.
            TransRecError: the query cannot be answered.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(Waiting(recommender, query, answer))
        except asyncio.QueueFull:
            raise FullError("too many requests are waiting: try again in a moment") from None
        return await answer

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in the thread that uses the models."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._most and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            batch = [waiting for waiting in batch if not waiting.answer.done()]  # its client may have gone
            if not batch:
                continue
            self._observe(len(batch))
            pairs = [(waiting.recommender, waiting.query) for waiting in batch]
            for waiting, found in zip(batch, await self.run(partial(answers, pairs)), strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(found, Exception):
                    waiting.answer.set_exception(found)
                else:
                    waiting.answer.set_result(found)


def answers(asked: Sequence[tuple[Recommender, Query]]) -> list[Answer | Exception]:
    """The answer to each query, or the error that it caused; one pass for each recommender."""
    found: list[Answer | Exception] = [[] for _ in asked]
    places: dict[int, list[int]] = {}
    for place, (recommender, _) in enumerate(asked):
        places.setdefault(id(recommender), []).append(place)
    for own in places.values():
        recommender = asked[own[0]][0]
        for place, answer in zip(own, _of_one(recommender, [asked[place][1] for place in own]), strict=True):
            found[place] = answer
    return found


def _of_one(recommender: Recommender, queries: Sequence[Query]) -> Sequence[Answer | Exception]:
    try:
        return recommender.recommend_many(queries)
    except Exception as error:
        if len(queries) == 1:
            return [error]
        return [answer for query in queries for answer in _of_one(recommender, [query])]
