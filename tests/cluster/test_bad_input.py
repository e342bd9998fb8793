"""What templates can't catch: `trivium doctor --kube` tells each thing that is wrong, and what to do, in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from tests.cluster.harness.release import Release

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TOLD_TIMEOUT_S = 240.0

BROKEN = """
images: {gpu: {repository: trivium-that-is-nowhere}}
redis: {passwordSecret: {name: nowhere}}
llm: {gpus: 16}
slm: {settings: {model: /opt/nowhere}}
router: {image: gpu, settings: {logLevel: ERROR}}
labeler: {enabled: true, claim: {storageClassName: no-such-class, keep: false}}
"""
TOLD = {
    "redis": "Secret 'nowhere' is missing",
    "orchestrator": "Secret 'nowhere' is missing",
    "llm": "no node has 16 nvidia.com/gpu free",
    "slm": "/opt/nowhere",
    "router": "can't be pulled: set images.registry and images.tag",
    "volume claim trivium-labeler waits": "has no StorageClass 'no-such-class'; set labeler.claim.storageClassName",
}
"""Beginnings of lines, and what they have to say."""


@pytest.fixture
def broken(release: Release) -> Iterator[Release]:
    """A release in which every component has a fault of its own."""
    release.install(text=BROKEN, wait=False)
    yield release
    release.uninstall()


@pytest.fixture
def mismatched(release: Release) -> Iterator[Release]:
    """A release whose router was trained for another SLM than the one that is served."""
    release.install("slm.settings.model=/opt/trivium/reference/llm", wait=False)
    yield release
    release.uninstall()


def doctor(*arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int, str, list[str]]:
    """Runs `trivium doctor --kube`; returns its exit code, its stderr and the lines on what is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "doctor", "--kube", "--json", *arguments],
        capture_output=True, text=True, timeout=120, env={**os.environ, **(environ or {})},
    )  # fmt: skip
    return done.returncode, done.stderr, json.loads(done.stdout)["problems"] if done.stdout else []


def until_told(release: Release, wanted: Mapping[str, str]) -> None:
    """Asks until a line begins and goes on as each of these."""
    deadline = time.monotonic() + TOLD_TIMEOUT_S
    while True:
        code, _, problems = doctor("--namespace", release.namespace)
        missing = {
            name for name, text in wanted.items() if not any(p.startswith(name) and text in p for p in problems)
        }
        if not missing:
            assert code == 1
            return
        assert time.monotonic() < deadline, f"not told: {missing}; told: {problems}"
        time.sleep(2)


def test_every_fault_of_a_release_is_told_in_a_line_that_says_what_to_do(broken: Release) -> None:
    until_told(broken, TOLD)


def test_router_of_another_slm_is_told(mismatched: Release) -> None:
    until_told(mismatched, {"orchestrator: runs, but doesn't serve": "was trained with"})


def test_namespace_without_a_release_and_one_without_rights_are_told(
    namespace: str, kube: client.CoreV1Api, tmp_path: Path
) -> None:
    code, _, problems = doctor("--namespace", namespace, "--release", "another")
    assert code == 1
    assert problems[0].startswith(f"no release 'another' in the namespace {namespace}")

    stranger = {"KUBECONFIG": str(_as_service_account(kube, namespace, tmp_path))}
    code, told, _ = doctor("--namespace", namespace, environ=stranger)
    assert code == 1
    assert f"error: no right to list deployments in the namespace {namespace}" in told


def _as_service_account(kube: client.CoreV1Api, namespace: str, directory: Path) -> Path:
    """A KUBECONFIG of the namespace's default account, which has no rights."""
    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
    answer = kube.create_namespaced_service_account_token("default", namespace, request)
    given = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text(encoding="utf-8"))
    for user in given["users"]:
        user["user"] = {"token": answer.status.token if answer.status else ""}
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    return path
