"""Metrics of the service, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one service, in their own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "transrec_requests", "Requests by path and status", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "transrec_request_seconds", "Time of a request", ["path"], buckets=_SECONDS, registry=self._registry
        )
        self._batches = Histogram(
            "transrec_batch_size", "Queries answered together", buckets=_SIZES, registry=self._registry
        )
        self._waiting = Gauge("transrec_waiting", "Queries in the queue", registry=self._registry)
        self._items = Gauge("transrec_items", "Items of all catalogues", registry=self._registry)
        self._generation = Gauge("transrec_generation", "Generation of the catalogues", registry=self._registry)
        self._reloads = Counter("transrec_reloads", "Reloads by result", ["result"], registry=self._registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, size: int) -> None:
        """Count a batch of queries."""
        self._batches.observe(size)

    def waiting(self, number: Callable[[], int]) -> None:
        """From now on, call `number` to get the number of queries in the queue."""
        self._waiting.set_function(number)

    def reloaded(self, result: str) -> None:
        """Count a reload: `changed`, `unchanged` or `failed`."""
        self._reloads.labels(result).inc()

    def catalogue(self, items: int, generation: int) -> None:
        """Set the number of items and the generation of the catalogues."""
        self._items.set(items)
        self._generation.set(generation)

    def text(self) -> bytes:
        """All metrics."""
        text: bytes = generate_latest(self._registry)
        return text
