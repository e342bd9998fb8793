from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from services.common.serving.telemetry import Telemetry
from tests.ports import free_port
from tests.scraping import scrape


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry("trivium.v1.SlmService", "r1")
    yield telemetry
    telemetry.close()


def test_scrape_reads_values_as_they_are_now_under_their_exact_names(telemetry: Telemetry) -> None:
    count = 0
    telemetry.gauge("trivium_test_active_things", "Things.", lambda: count)
    telemetry.counter("trivium_test_things_total", "All things.", lambda: 10 + count)
    port = free_port()
    telemetry.listen("127.0.0.1", port)
    for count in (0, 3, 1):
        page = scrape(port)
        assert page.values["trivium_test_active_things"] == count
        assert page.values["trivium_test_things_total"] == 10 + count
    assert page.content_type.startswith("text/plain; version=")
    assert page.types["trivium_test_active_things"] == "gauge"
    assert page.types["trivium_test_things_total"] == "counter"


def test_scrape_shows_a_value_for_each_of_a_label(telemetry: Telemetry) -> None:
    telemetry.gauge("trivium_test_replicas", "Replicas.", {"slm": lambda: 2, "llm": lambda: 3}, label="service")
    port = free_port()
    telemetry.listen("127.0.0.1", port)
    samples = scrape(port).values
    assert samples["trivium_test_replicas{service=slm}"] == 2
    assert samples["trivium_test_replicas{service=llm}"] == 3


def test_scrape_counts_durations_in_buckets_of_seconds(telemetry: Telemetry) -> None:
    took = telemetry.durations("trivium_test_seconds", "Seconds.")
    port = free_port()
    telemetry.listen("127.0.0.1", port)
    for seconds in (0.002, 0.002, 0.2, 100.0):
        took(seconds)
    page = scrape(port)
    samples = page.values
    assert page.types["trivium_test_seconds"] == "histogram"
    assert samples["trivium_test_seconds_count"] == 4
    assert samples["trivium_test_seconds_sum"] == pytest.approx(100.204)
    assert samples["trivium_test_seconds_bucket{le=0.0025}"] == 2
    assert samples["trivium_test_seconds_bucket{le=60.0}"] == 3


def test_scrape_tells_which_process_answers(telemetry: Telemetry) -> None:
    port = free_port()
    telemetry.gauge("trivium_test_things", "Things.", lambda: 0)
    telemetry.listen("127.0.0.1", port)
    samples = scrape(port).values
    [info] = [name for name in samples if name.startswith("target_info")]
    assert "service_name=trivium.v1.SlmService" in info
    assert "service_instance_id=r1" in info
    assert samples["process_resident_memory_bytes"] > 0


def test_listen_port_taken_is_an_os_error(telemetry: Telemetry) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            telemetry.listen("127.0.0.1", other.getsockname()[1])


def test_close_frees_the_port(telemetry: Telemetry) -> None:
    port = free_port()
    telemetry.listen("127.0.0.1", port)
    telemetry.close()
    again = Telemetry("trivium.v1.SlmService", "r2")
    again.listen("127.0.0.1", port)
    again.close()
