"""Options of the tests, and profiles of the property tests: `--hypothesis-profile nightly` runs at least 10,000
schedules of the core.
"""

import pytest
from hypothesis import settings

settings.register_profile("nightly", max_examples=10_000, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--helm", metavar="FILE", help="Helm, for the tests of the chart; PATH is searched without it.")
    cluster = parser.getgroup("cluster", "tests on a cluster")
    cluster.addoption("--image-registry", default="", help="Registry and path before the images' names.")
    cluster.addoption("--image-tag", default="", help="Tag of the images; the chart's appVersion without it.")
    cluster.addoption("--kills", type=int, default=12, help="Pods that are killed during streams.")
    cluster.addoption(
        "--prometheus",
        default="monitoring/prometheus:9090",
        metavar="NAMESPACE/SERVICE:PORT",
        help="Prometheus of the cluster, which scrapes annotated pods.",
    )
    cluster.addoption("--lose-node", metavar="NODE=COMMAND", help="A node that may be lost, and what takes it away.")
    cluster.addoption(
        "--cluster-access",
        choices=("auto", "direct", "forward"),
        default="auto",
        help="How the tests reach Services: by their addresses, by `kubectl port-forward`, or what works (auto).",
    )
