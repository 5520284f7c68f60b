"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of one server; labels have few values, whatever is asked."""

    def __init__(self) -> None:
        """Begin to count."""
        self.registry = CollectorRegistry()
        prefix = "activestore"
        self.requests = Counter(
            f"{prefix}_requests", "Requests that were answered", ("endpoint", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            f"{prefix}_request_seconds",
            "Time from the first byte of a request to the last of its answer",
            ("endpoint",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.errors = Counter(f"{prefix}_errors", "Requests and chunks that failed", ("kind",), registry=self.registry)
        self.chunks = Counter(f"{prefix}_chunks", "Chunks that were computed", registry=self.registry)
        self.read = Counter(f"{prefix}_origin_read_bytes", "Bytes that were read from origins", registry=self.registry)
        self.received = Counter(f"{prefix}_received_bytes", "Bytes of requests", registry=self.registry)
        self.sent = Counter(f"{prefix}_sent_bytes", "Bytes of answers", registry=self.registry)
        self.under_way = Gauge(f"{prefix}_requests_under_way", "Requests that are being answered", registry=self.registry)
        self.waiting = Gauge(f"{prefix}_requests_waiting", "Requests that wait for their turn", registry=self.registry)
        self.memory = Gauge(f"{prefix}_chunk_memory_bytes", "Bytes of chunks at work", registry=self.registry)
        self.cache_hits = Counter(f"{prefix}_cache_hits", "Chunks that were found in the cache", registry=self.registry)
        self.cache_misses = Counter(f"{prefix}_cache_misses", "Chunks that were not in the cache", registry=self.registry)
        self.cache_bytes = Gauge(f"{prefix}_cache_bytes", "Bytes of chunks in the cache", registry=self.registry)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)
