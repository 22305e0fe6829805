"""A web service in a thread of the test, on a port of its own."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2

from transrec.runs.recommender import Recommender


class Client:
    """Requests to a service, which return the status and the JSON of the answer."""

    def __init__(self, address: str, service: Any, token: str | None = None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.http = httpx2.Client(base_url=address, headers=headers, timeout=60)
        self.address, self.service = address, service

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        answer = self.http.post(path, json=body)
        return answer.status_code, answer.json()

    def get(self, path: str, **query: Any) -> tuple[int, Any]:
        answer = self.http.get(path, params=query)
        return answer.status_code, answer.json()


@contextmanager
def served(recommenders: Sequence[Recommender], **settings: Any) -> Iterator[Client]:
    """A client of a service over these recommenders."""
    from transrec.serving.channels import Generation
    from transrec.serving.server import listening, run, server_of
    from transrec.serving.service import Service
    from transrec.serving.settings import Settings

    chosen = Settings(port=0, **settings)
    service, started, address = Service(Generation.load(recommenders), chosen), threading.Event(), list[str]()
    server = server_of(service)

    def ready(at: str) -> None:
        address.append(at)
        started.set()

    with listening(chosen) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(run(server, service, listener, ready)))
        thread.start()
        try:
            assert started.wait(60)
            yield Client(address[0], service, chosen.token)
        finally:
            server.should_exit = True
            thread.join(60)
