"""Checks every request before it is parsed, so that no route can forget a limit or a refusal; and records metrics.

Pages of other websites can send requests to a service on this machine through a user's browser. The `Origin` header of
such requests differs from the service's address. If a site makes a domain name of its own point to this machine, the
`Host` header is not one of the service's names.
"""

import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from transrec.serving.metrics import Metrics
from transrec.serving.settings import Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/", "/healthz", "/docs", "/redoc", "/openapi.json")  # need no token: they reveal nothing about a model
OPEN_FOLDER = "/static-offline-docs/"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class Guard:
    """An ASGI application that wraps another one."""

    def __init__(self, application: Application, settings: Settings, metrics: Metrics) -> None:
        self._application, self._settings, self._metrics = application, settings, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noted)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # the route's path: a label must not be arbitrary text
            self._metrics.request(path, status, time.perf_counter() - started)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if fault := self._fault(scope, headers):
            await refuse(send, *fault)
            return
        body = await read(receive, self._settings.most_body_bytes)
        if body is None:
            await refuse(send, 413, f"the body is over {self._settings.most_body_bytes} bytes")
        else:
            await self._application(scope, replayed(body, receive), send)

    def _fault(self, scope: Message, headers: dict[str, str]) -> tuple[int, str] | None:
        host, origin, length = headers.get("host", ""), headers.get("origin"), headers.get("content-length", "")
        if self._settings.token is None:  # pages of other sites lack a token, and a proxy may change names
            if name_of(host) not in (*_LOCAL_NAMES, self._settings.host):
                return 421, f"the `Host` header names {name_of(host)}, which is not this service"
            if origin is not None and scope["method"] != "GET" and origin.partition("://")[2] != host:
                return 403, "pages of other sites may not send requests to this service"
        if length.isdecimal() and int(length[:20]) > self._settings.most_body_bytes:
            return 413, f"the body is over {self._settings.most_body_bytes} bytes"
        path: str = scope["path"]
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER) or self._permits(headers.get("authorization", "")):
            return None
        return 401, "send the service's token in the header `Authorization: Bearer TOKEN`"

    def _permits(self, authorization: str) -> bool:
        if self._settings.token is None:
            return True
        kind, _, token = authorization.partition(" ")
        right = hmac.compare_digest(token.strip().encode("utf-8"), self._settings.token.encode("utf-8"))
        return right and kind.lower() == "bearer"


async def read(receive: Receive, most: int) -> list[Message] | None:
    """The messages of a body; None if it is over `most` bytes."""
    messages, total, more = list[Message](), 0, True
    while more:
        messages.append(await receive())
        total += len(messages[-1].get("body", b""))
        if total > most:
            return None
        more = messages[-1]["type"] == "http.request" and messages[-1].get("more_body", False)
    return messages


def replayed(messages: list[Message], receive: Receive) -> Receive:
    """A `receive` that first returns messages that have already been read."""
    left = iter(messages)

    async def again() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return again


async def refuse(send: Send, status: int, detail: str) -> None:
    """Send a response with an error message."""
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def name_of(host: str) -> str:
    """The name or address in a `Host` header, without the port and the brackets of IPv6."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
