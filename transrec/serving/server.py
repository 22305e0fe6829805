"""Runs the web application until it is stopped; SIGHUP reloads the catalogues."""

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

import uvicorn
from fastapi import HTTPException

from transrec.config import ConfigError
from transrec.runs.recommender import Recommender
from transrec.serving.app import application
from transrec.serving.channels import Generation
from transrec.serving.service import Service
from transrec.serving.settings import Settings

_background: set[asyncio.Task[None]] = set()  # the event loop itself holds only weak references


def serve(recommenders: Sequence[Recommender], settings: Settings, ready: Callable[[str], None]) -> None:
    """Answer requests until SIGINT or SIGTERM.

    Args:
        ready: called with the address once requests are accepted.

    Raises:
        ConfigError: the address is in use, or two channels have the same name.
        TransRecError: a run or its shards cannot be read.
    """
    with listening(settings) as listener:
        service = Service(Generation.load(recommenders), settings)
        asyncio.run(run(server_of(service), service, listener, ready))


def listening(settings: Settings) -> socket.socket:
    """A socket at the address of the settings, opened before the models are loaded.

    Raises:
        ConfigError: the socket cannot be opened.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen on {settings.host}, port {settings.port} ({reason}): choose another --port or --host"
        ) from None
    # Connections inherit this. Without it, a response's body waits 40 ms for the client to acknowledge the headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def server_of(service: Service) -> uvicorn.Server:
    """The server of a service, which ends when its `should_exit` is set."""
    app = application(service)
    return uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="on")
    )


async def run(server: uvicorn.Server, service: Service, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer requests at a socket."""
    with suppress(RuntimeError, ValueError):  # outside the main thread
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: in_background(service))
    host, port = listener.getsockname()[:2]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    await serving


def in_background(service: Service) -> None:
    """Reload the catalogues while requests are answered."""
    task = asyncio.get_running_loop().create_task(reload(service))
    _background.add(task)
    task.add_done_callback(_background.discard)


async def reload(service: Service) -> None:
    """Reload the catalogues; the service logs the result."""
    with suppress(HTTPException):
        await service.reload()
