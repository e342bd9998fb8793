"""Trivium on the cluster of KUBECONFIG, from installation to removal: `make cluster-demo`, once the images are there.

Owns the steps and the time that each takes: installs the reference preset in a namespace of its own, runs
`helm test`, streams one answer from out here through the Service, and uninstalls with nothing left.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kubernetes import client, config
from rich.table import Table
from trivium.v1 import orchestrator_pb2 as pb

from services.cli.ask.answer import stream_answer
from services.cli.ask.client import OrchestratorClient
from services.cli.console import out
from services.cli.doctor.options import QUESTION
from services.cli.figures import summary
from services.client import Options, chat_request
from tests.cluster.harness import pods
from tests.cluster.harness.access import Access, way_in
from tests.cluster.harness.commands import run
from tests.cluster.harness.namespaces import left_in, new_namespace, objects_in
from tests.cluster.harness.options import add_options
from tests.cluster.harness.release import COMPONENTS, NAME, PORTS, Release, image_settings, light_image

_IMAGES_TIMEOUT_S = 30.0
"""Nodes tell which images they hold with their status, every few seconds."""


class Steps:
    """What was done, and the seconds it took."""

    def __init__(self) -> None:
        self.table = Table("step", "seconds", title="On the cluster", title_justify="left")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Does one thing, and tells when it is done."""
        began = time.monotonic()
        yield
        elapsed = f"{time.monotonic() - began:.1f}"
        self.table.add_row(name, elapsed)
        out.print(f"[green]✓[/] {name} [dim]{elapsed} s[/]")


def run_demo(api: client.CoreV1Api, release: Release, access: Access, steps: Steps) -> None:
    """Installs, tests, asks and uninstalls.

    Raises:
        AssertionError: A step failed; the message tells which and why.
    """
    before = objects_in(api, release.namespace)
    with steps.step("chart installed, all pods ready"):
        release.install()
    waiting = [item for item in COMPONENTS if not all(map(pods.is_ready, _pods(api, release, item)))]
    assert not waiting, f"pods of {', '.join(waiting)} aren't ready"
    with steps.step("helm test"):
        release.test()
    with steps.step("one answer from outside"):
        _ask(release, access)
    with steps.step("uninstalled"):
        release.uninstall()
    left = left_in(api, release.namespace, before)
    assert not left, f"left behind: {', '.join(sorted(left))}"


def image_sizes(api: client.CoreV1Api, names: set[str]) -> dict[str, int]:
    """Bytes of images on the nodes, by name. Those that no node tells of yet are missing."""
    found: dict[str, int] = {}
    for node in api.list_node().items:
        for image in (node.status and node.status.images) or []:
            for name in image.names or []:
                short = name.removeprefix("docker.io/library/")
                if short in names and image.size_bytes:
                    found[short] = image.size_bytes
    return found


def _pods(api: client.CoreV1Api, release: Release, component: str) -> list[client.V1Pod]:
    found = pods.of_component(api, release.namespace, component)
    assert found, f"{component} has no pods"
    return found


def _ask(release: Release, access: Access) -> None:
    request = chat_request(QUESTION, Options(max_new_tokens=256))
    service = access.to_service(release.namespace, f"{NAME}-orchestrator", PORTS["orchestrator"])
    with service as address, OrchestratorClient(address) as caller:
        answer = stream_answer(caller, request)
        written = {token.source for token in answer.tokens}
        assert written == {pb.TOKEN_SOURCE_SLM, pb.TOKEN_SOURCE_LLM}, "one model wrote the whole answer"
        out.print(summary(answer.finish.usage, caller.pair_size(), answer.seconds), style="dim")


def _sizes_table(api: client.CoreV1Api, names: set[str]) -> Table:
    deadline = time.monotonic() + _IMAGES_TIMEOUT_S
    while len(sizes := image_sizes(api, names)) < len(names) and time.monotonic() < deadline:
        time.sleep(1)
    table = Table("image", "MB on a node", title="Images", title_justify="left")
    for name in sorted(names):
        table.add_row(name, f"{sizes[name] / 1e6:.0f}" if name in sizes else "not told by the nodes")
    return table


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.demo", description=__doc__.split("\n\n")[0])
    add_options(parser.add_argument)
    return parser.parse_args()


def main() -> int:
    """Entry point. Returns 1 if a step failed."""
    arguments = _parse_arguments()
    binaries = {name: shutil.which(name) for name in ("helm", "kubectl")}
    for name, path in binaries.items():
        if path is None:
            sys.stderr.write(f"{name} isn't on PATH\n")
            return 1
    config.load_kube_config()  # type: ignore[no-untyped-call]
    api = client.CoreV1Api()
    registry, tag = arguments.image_registry, arguments.image_tag
    light = light_image(registry, tag)
    access = way_in(api, str(binaries["kubectl"]), light, arguments.cluster_access)
    steps = Steps()
    began = time.monotonic()
    try:
        with new_namespace(api, "demo") as namespace:
            release = Release(str(binaries["helm"]), namespace, image_settings(registry, tag))
            try:
                run_demo(api, release, access, steps)
            except AssertionError:
                out.print(run(str(binaries["kubectl"]), "--namespace", namespace, "get", "pods"))
                raise
            sizes = _sizes_table(api, {light, light.replace("-light:", "-cpu:")})
    except AssertionError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    steps.table.add_row("all, with the namespace made and removed", f"{time.monotonic() - began:.1f}")
    out.print(steps.table, sizes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
