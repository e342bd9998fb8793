"""A release whose services and callers talk over TLS alone serves, passes its test, and lets nobody else in."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
from kubernetes import client

from tests.certificates import SERVER_NAME, Authority
from tests.cluster.harness.access import Access
from tests.cluster.harness.release import NAME, Release

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SECRET, PORT = "shared", 443
FILES = ("tls.crt", "tls.key", "ca.crt")


def test_release_over_tls_passes_its_test_and_answers_no_plain_http(
    release: Release, kube: client.CoreV1Api, access: Access, tmp_path: Path
) -> None:
    issued = Authority().issue(tmp_path)
    held = {name: (tmp_path / name).read_text(encoding="utf-8") for name in FILES}
    metadata = client.V1ObjectMeta(name=SECRET)
    kube.create_namespaced_secret(release.namespace, client.V1Secret(metadata=metadata, string_data=held))

    release.install(
        "tls.enabled=true", f"tls.secretName={SECRET}", f"tls.serverName={SERVER_NAME}", "gateway.tls.enabled=true",
        f"gateway.service.port={PORT}",
    )  # fmt: skip
    written = release.test()
    tls = ssl.create_default_context(cafile=issued.ca)
    # The address of a test's way in isn't the name that the certificate is for.
    tls.check_hostname = False
    with access.to_service(release.namespace, f"{NAME}-gateway", PORT) as address:
        served = httpx.get(f"https://{address}/health", verify=tls)
        refused = httpx.get(f"http://{address}/health")

    assert "over HTTP" in written
    assert served.json()["status"] == "ok"
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "this port takes HTTPS alone")
