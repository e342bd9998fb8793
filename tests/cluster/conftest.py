"""Fixtures of the tests on a cluster: the one that KUBECONFIG names, which may be any.

Owns what every module gets: a client of the API server, a namespace and a release of its own, and a way into them.
The images have to be where the nodes find them: `--image-registry` and `--image-tag` name them as the chart's values
`images.registry` and `images.tag` do. `make test-cluster` runs these tests.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from kubernetes import client, config

from evaluation.exactness import Reference, reference_decodings, suite_prompts
from evaluation.in_process import SLM_ONLY
from evaluation.reference.pair import LoadedPair
from tests.cluster.harness.access import Access, way_in
from tests.cluster.harness.namespaces import new_namespace
from tests.cluster.harness.release import Release, image_settings, light_image
from tests.cluster.harness.replicas import Replicas
from tests.integration.harness.completions import reference_pair

__all__ = ["reference_pair"]

NUM_PROMPTS, NUM_ALONE = 50, 5
NUM_KILLS = 12


@pytest.fixture(scope="session")
def kube() -> client.CoreV1Api:
    """The API server's core API. Without a KUBECONFIG the test is skipped."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG isn't set: tests on a cluster need it")
    config.load_kube_config()  # type: ignore[no-untyped-call]
    return client.CoreV1Api()


@pytest.fixture(scope="session")
def images(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Settings of the chart that name the images under test."""
    return image_settings(request.config.getoption("--image-registry"), request.config.getoption("--image-tag"))


@pytest.fixture(scope="session")
def kubectl() -> str:
    """The path of kubectl."""
    return _found("kubectl")


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest) -> str:
    """The path of helm."""
    given: str | None = request.config.getoption("--helm")
    return given or _found("helm")


@pytest.fixture(scope="module")
def namespace(kube: client.CoreV1Api, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the module's own, which enforces the Pod Security level `restricted`."""
    purpose = request.module.__name__.rpartition(".test_")[2].replace("_", "-")
    with new_namespace(kube, purpose) as name:
        yield name


@pytest.fixture(scope="module")
def release(helm: str, namespace: str, images: tuple[str, ...]) -> Iterator[Release]:
    """A release in the module's namespace. It isn't installed yet."""
    found = Release(helm, namespace, images)
    yield found
    found.uninstall()


@pytest.fixture(scope="session")
def light(request: pytest.FixtureRequest) -> str:
    """The name of the light image under test."""
    return light_image(request.config.getoption("--image-registry"), request.config.getoption("--image-tag"))


@pytest.fixture(scope="session")
def access(request: pytest.FixtureRequest, kube: client.CoreV1Api, kubectl: str, light: str) -> Access:
    """The way into the cluster: `--cluster-access`."""
    return way_in(kube, kubectl, light, request.config.getoption("--cluster-access"))


@pytest.fixture(scope="session")
def replicas(kube: client.CoreV1Api, helm: str, images: tuple[str, ...], access: Access) -> Iterator[Replicas]:
    """A release with several replicas of everything, in a namespace of its own. Tests leave it whole."""
    with new_namespace(kube, "replicas") as name:
        found = Replicas(Release(helm, name, images), kube, access)
        try:
            found.install()
            yield found
        finally:
            # A namespace that is deleted with pods in it looks after them no sooner than half their grace periods.
            found.release.uninstall()


@pytest.fixture(scope="session")
def suite_references(reference_pair: LoadedPair) -> list[Reference]:
    """Decodings of 50 held-out prompts at the calibrated threshold, and of some by one model alone."""
    prompts = suite_prompts(reference_pair, NUM_PROMPTS)
    one_model = [reference_pair.rule(threshold=threshold) for threshold in (0.0, SLM_ONLY)]
    alone = reference_decodings(reference_pair, prompts[:NUM_ALONE], one_model)
    return [*reference_decodings(reference_pair, prompts, [reference_pair.rule()]), *alone]


@pytest.fixture(scope="session")
def num_kills(request: pytest.FixtureRequest) -> int:
    """How many pods are killed: `--kills`."""
    number: int | None = request.config.getoption("--kills")
    return number or NUM_KILLS


@pytest.fixture(scope="session")
def labels_access(request: pytest.FixtureRequest) -> str:
    """Access mode of the volume of labels: `--labels-access`."""
    mode: str = request.config.getoption("--labels-access")
    return mode


def _found(binary: str) -> str:
    path = shutil.which(binary)
    if path is None:
        pytest.skip(f"{binary} isn't on PATH: tests on a cluster need it")
    return path
