"""The routes of the web application."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import HTTPException, Query, Response

from transrec import __version__
from transrec.data.shards.bad_samples import BadSample
from transrec.errors import TransRecError
from transrec.runs.answers.click_scores import Visit
from transrec.runs.answers.query import Query as RecommenderQuery
from transrec.runs.answers.query import why_none
from transrec.runs.catalogue import Catalogue
from transrec.serving.batching import Batcher
from transrec.serving.channels import Generation
from transrec.serving.messages import (
    LONGEST_TEXT,
    ChannelDescription,
    Found,
    RecommendAnswer,
    RecommendRequest,
    Reloaded,
    SimilarAnswer,
    SimilarRequest,
)
from transrec.serving.metrics import Metrics
from transrec.serving.page import page
from transrec.serving.settings import Settings

_log = logging.getLogger("transrec.serving")

MOST_FOUND = 50
ChannelName = Annotated[str | None, Query(max_length=LONGEST_TEXT)]
Searched = Annotated[str, Query(max_length=LONGEST_TEXT)]
Most = Annotated[int, Query(ge=1, le=MOST_FOUND)]


class Service:
    """The routes, over the current generation of channels. A request keeps the generation with which it began."""

    def __init__(self, generation: Generation, settings: Settings) -> None:
        self.generation, self.settings, self.metrics = generation, settings, Metrics()
        self.batcher = Batcher(settings.most_at_once, settings.most_waiting, self.metrics.batch)
        self._reloading = asyncio.Lock()
        self._page, self._policy = page()
        self.metrics.waiting(lambda: self.batcher.waiting)
        self.metrics.catalogue(generation.items, generation.number)

    @asynccontextmanager
    async def lifespan(self, application: Any) -> AsyncIterator[None]:
        """Answer queries while the application runs."""
        self.batcher.start()
        yield
        await self.batcher.stop()

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The best items for a user, without those of the history, unless these are `candidates` or may repeat."""
        generation = self.generation
        recommender = generation.channel(request.channel).recommender
        self._check_results(request.k)
        catalogue, history, candidates = recommender.catalogue, request.history, request.candidates
        missing = catalogue.missing([*history, *(candidates or ())])
        if request.unknown == "error":
            if history or recommender.needs_history:
                catalogue.check(history, "history")
            if candidates is not None:
                catalogue.check(candidates, "candidates")
        known = catalogue.known(history)
        among = None if candidates is None else catalogue.known(candidates)
        visit = Visit(request.user, request.time, request.context, request.profile)
        query = RecommenderQuery(known, request.k, among, visit, request.exclude, request.filters, request.repeats)
        answerable = known or not recommender.needs_history
        found = await self.batcher.ask(recommender, query) if answerable else []
        rows = [pictured(catalogue, row) for row in found]
        why = partial(why_none, query, history, catalogue, recommender.needs_history)
        note = None if rows else await self.batcher.run(why)
        return RecommendAnswer(
            channel=recommender.name, generation=generation.number, recommendations=rows, unknown=missing, note=note
        )

    async def similar(self, request: SimilarRequest) -> SimilarAnswer:
        """The items whose vectors are closest to that of an item, by cosine similarity."""
        generation = self.generation
        recommender = generation.channel(request.channel).recommender
        self._check_results(request.k)
        found = await self.batcher.run(
            lambda: recommender.similar(request.item_id, request.k, request.exclude, request.filters)
        )
        rows = [pictured(recommender.catalogue, row) for row in found]
        return SimilarAnswer(channel=recommender.name, generation=generation.number, similar=rows)

    def channels(self) -> list[ChannelDescription]:
        """The channels, and the columns by which their items can be filtered."""
        return [
            ChannelDescription(
                name=name,
                items=len(served.recommender.catalogue.item_ids),
                columns=served.recommender.catalogue.columns,
                pictures=served.recommender.catalogue.folder.index.counts.images > 0,
            )
            for name, served in self.generation.channels.items()
        ]

    def items(self, text: Searched, channel: ChannelName = None, k: Most = 10) -> list[Found]:
        """The items whose id is this text or whose title contains it."""
        catalogue = self.generation.channel(channel).recommender.catalogue
        return [
            Found(item_id=item_id, title=catalogue.title(item_id), picture=catalogue.has_picture(item_id))
            for item_id in catalogue.find(text, k)
        ]

    def picture(self, item_id: Searched, channel: ChannelName = None) -> Response:
        """The picture of an item."""
        catalogue = self.generation.channel(channel).recommender.catalogue
        if item_id not in catalogue.index_of or not catalogue.has_picture(item_id):
            raise HTTPException(404, "there is no picture of this item")
        try:
            content = catalogue.picture(item_id)
        except BadSample as error:
            raise HTTPException(404, str(error)) from None
        return Response(content, media_type="image/jpeg", headers={"X-Content-Type-Options": "nosniff"})

    async def reload(self) -> Reloaded:
        """Read the catalogues again and encode new items. Until this is done, the old catalogues remain in use."""
        if self._reloading.locked():
            _log.error("a reload was refused because another is under way")
            raise HTTPException(409, "a reload is under way: try again when it has finished")
        async with self._reloading:
            try:
                renewed = await asyncio.to_thread(self.generation.renewed)
            except TransRecError as error:
                self.metrics.reloaded("failed")
                _log.error("the old catalogue remains in use: %s", error)
                raise HTTPException(409, f"the old catalogue remains in use: {error}") from None
            changed = renewed is not self.generation
            self.generation = renewed
        self.metrics.reloaded("changed" if changed else "unchanged")
        self.metrics.catalogue(renewed.items, renewed.number)
        _log.warning("generation %d of the catalogue has %d items", renewed.number, renewed.items)
        return Reloaded(generation=renewed.number, changed=changed, items=renewed.items)

    def healthz(self) -> dict[str, str]:
        """Whether the service answers."""
        return {"status": "ok", "version": __version__}

    def figures(self) -> Response:
        """Metrics of the service, in Prometheus' text format."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def page(self) -> Response:
        """A page for trying out the channels."""
        headers = {"Content-Security-Policy": self._policy, "X-Content-Type-Options": "nosniff"}
        return Response(self._page, media_type="text/html; charset=utf-8", headers=headers)

    def _check_results(self, k: int) -> None:
        if k > self.settings.most_results:
            raise HTTPException(422, f"k {k}: ask for at most {self.settings.most_results} results (--most)")


def pictured(catalogue: Catalogue, row: dict[str, Any]) -> dict[str, Any]:
    """A row of an answer; for an item, with `picture`: whether `/picture` has a picture of it."""
    return row | {"picture": catalogue.has_picture(row["item_id"])} if "item_id" in row else row
