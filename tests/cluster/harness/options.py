"""The options that say what is tested and how it is reached: of pytest, and of the modules that run by themselves."""

from __future__ import annotations

from collections.abc import Callable


def add_options(add: Callable[..., object]) -> None:
    """Adds the options of whatever runs on a cluster.

    Args:
        add: `add_argument` of argparse, or `addoption` of pytest, which take the same.
    """
    add("--image-registry", default="", help="registry and path before the images' names")
    add("--image-tag", default="", help="tag of the images (default: the chart's appVersion)")
    add(
        "--cluster-access",
        choices=("auto", "direct", "forward"),
        default="auto",
        help="how Services are reached: by their addresses, by `kubectl port-forward`, or what works (auto)",
    )


def add_prometheus_option(add: Callable[..., object]) -> None:
    """Adds the option of whatever needs metrics.

    Args:
        add: As `add_options` takes it.
    """
    add(
        "--prometheus",
        default="monitoring/prometheus:9090",
        metavar="NAMESPACE/SERVICE:PORT",
        help="Prometheus of the cluster, which scrapes annotated pods",
    )
