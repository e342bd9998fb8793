"""Options of the tests, and profiles of the property tests: `--hypothesis-profile nightly` runs at least 10,000
schedules of the core.
"""

import signal

import pytest
from hypothesis import settings

from tests.cluster.harness.options import add_options, add_prometheus_option
from tests.parallel import pytest_collection_modifyitems, pytest_runtest_protocol, pytest_xdist_make_scheduler

__all__ = [
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_runtest_protocol",
    "pytest_xdist_make_scheduler",
]

# How long an example takes depends on what else the machine does.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
# A job in the background may have been told to outlive its terminal, and a shell has it ignore Ctrl-C. Both would be
# handed down to what tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("nightly", max_examples=10_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--helm", metavar="FILE", help="Helm, for the tests of the chart; PATH is searched without it.")
    parser.addoption("--bodies", type=int, default=300, help="Bodies of any kind that the gateway is sent.")
    parser.addoption("--swaps", type=int, default=4, help="Times that the router is changed under streams.")
    parser.addoption("--disconnects", type=int, default=64, help="Clients that leave the gateway at any time.")
    cluster = parser.getgroup("cluster", "tests on a cluster")
    add_options(cluster.addoption)
    add_prometheus_option(cluster.addoption)
    cluster.addoption(
        "--kills",
        type=int,
        help="Pods that are killed during streams, or orchestrators on this machine (default: a few).",
    )
    cluster.addoption(
        "--hang",
        choices=("slm", "router", "llm", "redis", "all"),
        default="slm",
        help="Whose pod hangs for 40 s during streams; each takes about a minute.",
    )
    cluster.addoption(
        "--labels-access",
        choices=("ReadWriteMany", "ReadWriteOnce"),
        default="ReadWriteMany",
        help="Access mode of the volume of labels. ReadWriteOnce does where all pods run on one node.",
    )
    cluster.addoption("--lose-node", metavar="NODE=COMMAND", help="A node that may be lost, and what takes it away.")
