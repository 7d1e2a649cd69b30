"""``/metrics`` of a real daemon."""

from __future__ import annotations

from harness import Daemon


def test_metrics_in_prometheus_form(daemon: Daemon) -> None:
    api = daemon.client.api
    api.images()
    text = api._get(api.base_url + "/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert any(name.startswith("sampan_build_info{version=") for name in values)
    assert int(values['sampan_containers{state="running"}']) >= 0
    route = 'sampan_api_requests_total{method="GET",route="/images/json",status="200"}'
    assert int(values[route]) >= 1
    for line in text.splitlines():
        assert line.startswith("#") or float(line.rsplit(" ", 1)[1]) >= 0
