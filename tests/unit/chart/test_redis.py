"""templates/redis: the bundled server, an external one, none."""

from __future__ import annotations

import base64
import re

import pytest

from tests.unit.chart.harness.helm import Helm, Manifest, container, environment, named, of_kind, values

URL = "TRIVIUM_ORCHESTRATOR_REDIS_URL"
PASSWORD = "TRIVIUM_ORCHESTRATOR_REDIS_PASSWORD"


def _redis(manifests: list[Manifest]) -> Manifest:
    [found] = named(manifests, "StatefulSet", "redis")["spec"]["template"]["spec"]["containers"]
    only: Manifest = found
    return only


def _variable(manifests: list[Manifest], name: str) -> Manifest:
    [found] = [item for item in container(manifests, "orchestrator")["env"] if item["name"] == name]
    only: Manifest = found
    return only


def test_bundled_redis_has_a_drawn_password_that_no_text_carries(helm: Helm) -> None:
    manifests = helm.render(values())
    [secret] = of_kind(manifests, "Secret")
    assert re.fullmatch(rb"\w{32}", base64.b64decode(secret["data"]["password"]))
    source = {"secretKeyRef": {"name": secret["metadata"]["name"], "key": "password"}}
    assert _variable(manifests, PASSWORD)["valueFrom"] == source
    assert environment(manifests, "orchestrator")[URL] == "redis://demo-trivium-redis:6379/0"
    assert _redis(manifests)["env"] == [{"name": "REDIS_PASSWORD", "valueFrom": source}]


def test_own_password_is_taken_and_none_drawn(helm: Helm) -> None:
    manifests = helm.render(values("redis.passwordSecret.name=mine,redis.passwordSecret.key=pw"))
    assert of_kind(manifests, "Secret") == []
    reference = {"secretKeyRef": {"name": "mine", "key": "pw"}}
    assert _variable(manifests, PASSWORD)["valueFrom"] == reference
    assert _redis(manifests)["env"][0]["valueFrom"] == reference


@pytest.mark.parametrize(("megabytes", "limit"), [(16, "88Mi"), (256, "448Mi"), (1024, "1600Mi")])
def test_memory_is_bounded_inside_the_limit(helm: Helm, megabytes: int, limit: str) -> None:
    item = _redis(helm.render(values(f"redis.maxMemoryMb={megabytes},redis.evictionPolicy=volatile-ttl")))
    options = dict(zip(item["args"][::2], item["args"][1::2], strict=True))
    assert options["--maxmemory"] == f"{megabytes}mb"
    assert options["--maxmemory-policy"] == "volatile-ttl"
    assert item["resources"]["limits"]["memory"] == limit


def test_server_comes_from_the_light_image_unless_named(helm: Helm) -> None:
    assert _redis(helm.render(values()))["image"] == "trivium-light:0.1.0"
    assert _redis(helm.render(values("redis.image=redis:7-alpine")))["image"] == "redis:7-alpine"


def test_external_redis_url_comes_from_its_secret(helm: Helm) -> None:
    manifests = helm.render(values("redis.mode=external,redis.external.urlSecret.name=shared"))
    assert _variable(manifests, URL)["valueFrom"] == {"secretKeyRef": {"name": "shared", "key": "url"}}
    assert of_kind(manifests, "StatefulSet") == of_kind(manifests, "Secret") == []


def test_no_redis_leaves_nothing_of_it(helm: Helm) -> None:
    manifests = helm.render(values("redis.mode=none"))
    assert not any(item["name"] in (URL, PASSWORD) for item in container(manifests, "orchestrator")["env"])
    assert not any("redis" in item["metadata"]["name"] for item in manifests)
