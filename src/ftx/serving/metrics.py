"""What the server counts, for Prometheus: requests, batches, what waits, updates; no label that a client chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds: from a small model on a fast machine to the longest that a client waits.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        self._all = CollectorRegistry()
        ProcessCollector(registry=self._all)
        self._requests = Counter("ftx_requests", "Requests answered.", ("route", "status"), registry=self._all)
        self._seconds = Histogram(
            "ftx_request_seconds",
            "From the head of a request to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._all,
        )
        self._batches = Histogram("ftx_batch_images", "Images in a batch.", buckets=_IMAGES, registry=self._all)
        self._working = Gauge("ftx_requests_in_progress", "Requests being answered.", registry=self._all)
        self._waiting = Gauge("ftx_images_waiting", "Images that wait for a model.", registry=self._all)
        self._reloads = Counter("ftx_reloads", "Updates found on disk.", ("model", "outcome"), registry=self._all)

    def watch_waiting(self, count: Callable[[], int]) -> None:
        """Ask for the images that wait whenever the metrics are asked for."""
        self._waiting.set_function(count)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request has its answer; status 0: the client went away."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def in_progress(self, requests: int) -> None:
        """So many requests are being answered."""
        self._working.set(requests)

    def batch(self, images: int) -> None:
        """A batch was computed."""
        self._batches.observe(images)

    def reloaded(self, model: str, taken: bool) -> None:
        """An update was found on disk."""
        self._reloads.labels(model, "taken" if taken else "refused").inc()

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        from prometheus_client import generate_latest

        return generate_latest(self._all)
