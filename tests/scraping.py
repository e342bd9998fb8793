"""Scrapes /metrics of a process, as Prometheus does, and reads what the operators' page says of it."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from services.common.serving.server import Service
from services.common.serving.telemetry import Telemetry
from tests.ports import free_port

PAGE = Path(__file__).parents[1] / "charts" / "trivium" / "METRICS.md"


@dataclass(frozen=True, slots=True)
class Scrape:
    """What a process says.

    Args:
        content_type: How it is written.
        values: By name, and labels where there are any: `name{label=value}`.
        types: By the name under which a metric is asked for.
        label_values: All values of all labels.
    """

    content_type: str
    values: dict[str, float]
    types: dict[str, str]
    label_values: set[str]

    def total(self, name: str) -> float:
        """Sums a metric over its labels."""
        return sum(value for key, value in self.values.items() if key.partition("{")[0] == name)


def scrape(port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        content_type = response.headers["Content-Type"]
        families = list(text_string_to_metric_families(response.read().decode()))
    values: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
        values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return Scrape(
        content_type,
        values,
        {f"{family.name}_total" if family.type == "counter" else family.name: family.type for family in families},
        {value for family in families for sample in family.samples for value in sample.labels.values()},
    )


def documented(service: str) -> dict[str, str]:
    """Type of each metric in a service's table of METRICS.md."""
    section = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    [table] = [part for part in section if part.startswith(f"{service}\n")]
    return dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", table, flags=re.MULTILINE))


def served(page: Scrape) -> dict[str, str]:
    """Type of each of Trivium's own metrics."""
    return {name: kind for name, kind in page.types.items() if name.startswith("trivium_")}


@contextmanager
def scraped(service: Service) -> Iterator[Callable[[], dict[str, float]]]:
    """Serves the metrics of a service that runs in this process. Yields what scrapes them."""
    telemetry = Telemetry("trivium.v1.TestService", "r1")
    service.instrument(telemetry)
    port = free_port()
    telemetry.listen("127.0.0.1", port)
    try:
        yield lambda: scrape(port).values
    finally:
        telemetry.close()
