"""A web server of a folder on the loopback interface that can be told to misbehave."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[[int], str | None]  # number of the request, from 1 on -> what goes wrong with it


class ShardServer:
    """Serves the files of `folder` at `url`; `requests` are the paths asked for, `authorization` what came with them.

    Faults: a status such as "503", "reset" (the connection closes without an answer), "truncate", "corrupt".
    """

    def __init__(self, folder: Path, fault: Fault = lambda number: None) -> None:
        self.folder, self.fault = folder, fault
        self.requests: list[str] = []
        self.authorization: list[str | None] = []
        self._lock = threading.Lock()
        self._start(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def refuse_for(self, seconds: float) -> None:
        """Nobody listens for so long."""
        self.stop()
        threading.Timer(seconds, self._start, [self.port]).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self, path: str, authorization: str | None) -> str | None:
        with self._lock:
            self.requests.append(path.lstrip("/"))
            self.authorization.append(authorization)
            return self.fault(len(self.requests))

    def _start(self, port: int) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


def _handler(server: ShardServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fault = server.next_fault(self.path, self.headers["Authorization"])
            path = server.folder / self.path.lstrip("/")
            if fault == "reset":
                self.connection.close()
            elif fault and fault.isdigit():
                self.send_error(int(fault))
            elif not path.is_file():
                self.send_error(404)
            else:
                self._send(path.read_bytes(), fault)

        def _send(self, data: bytes, fault: str | None) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if fault == "truncate":
                data = data[: len(data) // 2]
            elif fault == "corrupt":
                data = bytes([data[0] ^ 1]) + data[1:]
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None: ...

    return Handler


@contextmanager
def serve(folder: Path, fault: Fault = lambda number: None) -> Iterator[ShardServer]:
    server = ShardServer(folder, fault)
    try:
        yield server
    finally:
        server.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not so after {seconds} s"
        time.sleep(0.01)
