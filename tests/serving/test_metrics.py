"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from ftx.serving.metrics import Metrics


def test_each_figure_has_its_own_number() -> None:
    metrics = Metrics()
    for route, status, seconds in (("/a", 200, 0.02), ("/a", 200, 0.3), ("/a", 422, 4.0), ("/b", 200, 7.0)):
        metrics.requests.labels(route, str(status)).inc()
        metrics.seconds.labels(route).observe(seconds)
    for images in (1, 3, 16):
        metrics.count_batch(images)
    metrics.in_progress.set(5)
    metrics.waiting.set_function(lambda: 11)
    for model, taken in (("one", True), ("one", True), ("one", False), ("two", False)):
        metrics.count_reload(model, taken)
    lines = metrics.text().decode().splitlines()
    for line in (
        'ftx_requests_total{route="/a",status="200"} 2.0',
        'ftx_requests_total{route="/a",status="422"} 1.0',
        'ftx_requests_total{route="/b",status="200"} 1.0',
        'ftx_request_seconds_bucket{le="0.025",route="/a"} 1.0',
        'ftx_request_seconds_bucket{le="0.5",route="/a"} 2.0',
        'ftx_request_seconds_bucket{le="5.0",route="/a"} 3.0',
        'ftx_request_seconds_sum{route="/a"} 4.32',
        'ftx_request_seconds_count{route="/b"} 1.0',
        'ftx_batch_images_bucket{le="2.0"} 1.0',
        'ftx_batch_images_bucket{le="4.0"} 2.0',
        "ftx_batch_images_sum 20.0",
        "ftx_batch_images_count 3.0",
        "ftx_requests_in_progress 5.0",
        "ftx_images_waiting 11.0",
        'ftx_reloads_total{model="one",outcome="taken"} 2.0',
        'ftx_reloads_total{model="one",outcome="refused"} 1.0',
        'ftx_reloads_total{model="two",outcome="refused"} 1.0',
    ):
        assert line in lines
