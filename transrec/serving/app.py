"""The web application: the paths of the routes, and the responses to errors."""

import json
from difflib import get_close_matches
from typing import Any

from fastapi import Depends, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel

from transrec import __version__
from transrec.errors import TransRecError
from transrec.serving.batching import FullError
from transrec.serving.guard import Guard
from transrec.serving.messages import RecommendRequest, Refusal, SimilarRequest
from transrec.serving.service import Service

_DESCRIPTION = "Recommendations of a trained run, or of adapters over one base. Each run or adapter is a channel."
_REFUSALS = {
    401: "The token is missing or wrong.",
    403: "The request comes from a page of another site.",
    404: "There is no picture of this item.",
    409: "The catalogue was not reloaded; the old one remains in use.",
    413: "The body is too large.",
    421: "The `Host` header names another service.",
    422: "The request cannot be understood or answered.",
    503: "Too many requests are waiting.",
}
_REQUESTS: dict[str, type[BaseModel]] = {"/recommend": RecommendRequest, "/similar": SimilarRequest}
_OF_ALL = (401, 403, 413, 421, 422)


def application(service: Service) -> Guard:
    """The web application of a service."""
    api = FastAPIOffline(title="TransRec", version=__version__, description=_DESCRIPTION, lifespan=service.lifespan)
    token = [Depends(HTTPBearer(auto_error=False))] if service.settings.token else []  # for the pages at /docs

    def add(path: str, route: Any, method: str, *refusals: int, **more: Any) -> None:
        responses = {code: {"model": Refusal, "description": _REFUSALS[code]} for code in (*_OF_ALL, *refusals)}
        responses |= more.pop("responses", {})
        api.add_api_route(path, route, methods=[method], responses=responses, dependencies=token, **more)

    add("/recommend", service.recommend, "POST", 503)
    add("/similar", service.similar, "POST")
    add("/channels", service.channels, "GET")
    add("/items", service.items, "GET")
    add("/picture", service.picture, "GET", 404, **content("image/jpeg"))
    add("/reload", service.reload, "POST", 409)
    add("/metrics", service.figures, "GET", **content("text/plain"))
    api.add_api_route("/healthz", service.healthz, methods=["GET"])
    api.add_api_route("/", service.page, methods=["GET"], include_in_schema=False)
    for error, answer in (
        (RequestValidationError, not_understood),
        (HTTPException, refused_by_a_route),
        (FullError, too_many),
        (TransRecError, unanswerable),
    ):
        api.add_exception_handler(error, answer)
    return Guard(api, service.settings, service.metrics)


def content(kind: str) -> dict[str, Any]:
    """Arguments of a route whose response has this media type."""
    return {"response_class": Response, "responses": {200: {"content": {kind: {}}}}}


async def not_understood(request: Request, error: Any) -> Response:
    """The response to an invalid body or query; it names the first error, without the values of the request."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    if first["type"] == "json_invalid":
        return refusal(422, f"the body is not JSON: {first['ctx']['error']} (character {place})")
    if first["type"] == "extra_forbidden":
        return refusal(422, f"{place}: {unknown_key(place, request.scope['route'].path)}")
    if not place and first["type"] == "model_attributes_type":
        if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            return refusal(422, "the body was not read as JSON: send the header Content-Type: application/json")
        return refusal(422, "the body: expected a JSON object, such as {…}")
    return refusal(422, f"{place or 'the body'}: {first['msg']}")


def unknown_key(key: str, path: str) -> str:
    """The advice for a key that requests to a path do not have."""
    keys = list(_REQUESTS[path].model_fields)
    near = get_close_matches(key, keys, 1)
    return f"unknown key; {f'did you mean {near[0]}? The' if near else 'the'} keys are {', '.join(keys)}"


async def refused_by_a_route(request: Request, error: Any) -> Response:
    """The response to a request that a route refused."""
    return refusal(error.status_code, str(error.detail))


async def too_many(request: Request, error: Exception) -> Response:
    """The response when the queue is full."""
    return refusal(503, str(error), {"Retry-After": "1"})


async def unanswerable(request: Request, error: Exception) -> Response:
    """The response to a request that cannot be answered, for example because it names an unknown item."""
    return refusal(422, str(error))


def refusal(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A response with an error message; its JSON is ASCII, because a request may contain an unpaired surrogate."""
    return Response(json.dumps({"detail": detail}), status, headers, media_type="application/json")
