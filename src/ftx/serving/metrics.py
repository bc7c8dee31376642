"""What the server counts for Prometheus. No label contains text that a client chooses."""

from __future__ import annotations

# Seconds: from a small model on a fast machine to the longest that a client waits.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The metrics of one server. Status 0: the client disconnected before it got a response."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

        own = self._registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter("ftx_requests", "Requests with a response.", ("route", "status"), registry=own)
        self.seconds = Histogram(
            "ftx_request_seconds",
            "From the head of a request to the end of its response.",
            ("route",),
            buckets=_SECONDS,
            registry=own,
        )
        self._batches = Histogram("ftx_batch_images", "Images in a batch.", buckets=_IMAGES, registry=own)
        self.checked = Gauge("ftx_images_checked", "Images that open int8-checked models predicted.", registry=own)
        self.twice = Gauge("ftx_images_run_twice", "Of these, the images that also ran in fp32.", registry=own)
        self.rises = Gauge(
            "ftx_run_twice_rises",
            "Times that significantly more of 1,000 images ran in fp32 than when the model was certified.",
            registry=own,
        )
        self.in_progress = Gauge("ftx_requests_in_progress", "Requests in progress.", registry=own)
        self.waiting = Gauge("ftx_images_waiting", "Images that wait for a model.", registry=own)
        self._reloads = Counter("ftx_reloads", "Updates found on disk.", ("model", "outcome"), registry=own)

    def count_batch(self, images: int) -> None:
        """Count a batch that was computed."""
        self._batches.observe(images)

    def count_reload(self, model: str, succeeded: bool) -> None:
        """Count an update that was found on disk."""
        self._reloads.labels(model, "taken" if succeeded else "refused").inc()

    def text(self) -> bytes:
        """All metrics, in the format of Prometheus."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
