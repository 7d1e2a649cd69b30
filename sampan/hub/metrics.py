"""Counters for Prometheus, of one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """What a hub counts.  Each hub has a registry of its own, so that tests can run several."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "sampan_hub_requests", "Requests", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "sampan_hub_request_seconds", "Time to answer", ["route"], registry=registry
        )
        self.received = Counter(
            "sampan_hub_received_bytes", "Bytes of blobs received", registry=registry
        )
        self.sent = Counter("sampan_hub_sent_bytes", "Bytes of blobs sent", registry=registry)
        self.uploads = Gauge("sampan_hub_uploads_running", "Uploads running", registry=registry)
        self.pulls = Counter("sampan_hub_manifest_pulls", "Manifests pulled", registry=registry)
        self.collected = Counter(
            "sampan_hub_collected_bytes", "Bytes freed by garbage collection", registry=registry
        )

    def text(self) -> bytes:
        """All counters in the text format."""
        return generate_latest(self._registry)
