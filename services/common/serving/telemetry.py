"""Serves what a process counts as Prometheus metrics.

Owns the meter of the process and the HTTP server at /metrics. What is counted is each service's own: it hands over
how its counts are read, and they are read when somebody scrapes, on the scraper's thread. Nothing is paid before.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from wsgiref.simple_server import WSGIServer

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest, start_http_server

Read = Callable[[], float]
"""Reads a count. It is called on another thread than the event loop's: it must not wait, nor walk what may change."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Telemetry:
    """The metrics of one process.

    Args:
        service_name: Full gRPC name, e.g. "trivium.v1.SlmService".
        replica_id: Name of this process among its replicas.
    """

    def __init__(self, service_name: str, replica_id: str) -> None:
        # Not the library's global one: a process may serve several in turn, as tests do.
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        resource = Resource(
            {
                "service.name": service_name,
                "service.version": importlib.metadata.version("trivium"),
                "service.instance.id": replica_id,
            }
        )
        reader = PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)
        self._provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._meter = self._provider.get_meter("trivium")
        self._http: WSGIServer | None = None

    def gauge(self, name: str, description: str, read: Read | Mapping[str, Read], *, label: str = "") -> None:
        """Adds a value that goes up and down.

        Args:
            name: As Prometheus shows it.
            description: What it is, in one sentence, with its unit.
            read: Reads it; or how to read it for each value of the label.
            label: Name of the label, if there is one.
        """
        self._meter.create_observable_gauge(name, _callbacks(read, label), description=description)

    def counter(self, name: str, description: str, read: Read | Mapping[str, Read], *, label: str = "") -> None:
        """Adds a value that only grows; see `gauge`. The name ends in `_total`."""
        self._meter.create_observable_counter(name, _callbacks(read, label), description=description)

    def durations(self, name: str, description: str) -> Callable[[float], None]:
        """Adds a histogram of seconds. Returns what to call with each of them."""
        histogram = self._meter.create_histogram(
            name, description=description, explicit_bucket_boundaries_advisory=_SECONDS
        )
        return histogram.record

    def listen(self, host: str, port: int) -> None:
        """Serves /metrics.

        Raises:
            OSError: The port is taken, or the address isn't this machine's.
        """
        self._http, _thread = start_http_server(port, host, self._registry)

    def exposition(self) -> bytes:
        """All metrics as Prometheus' text format 0.0.4 has them, for processes that serve HTTP anyway."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Stops serving."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None
        self._provider.shutdown()


def _callbacks(
    read: Read | Mapping[str, Read], label: str
) -> Sequence[Callable[[CallbackOptions], Iterable[Observation]]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        if isinstance(read, Mapping):
            return [Observation(read_one(), {label: value}) for value, read_one in read.items()]
        return [Observation(read())]

    return [observe]
