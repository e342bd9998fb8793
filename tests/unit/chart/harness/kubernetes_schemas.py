"""Holds objects against the schemas of a version of Kubernetes, unknown fields refused.

Owns what is loaded once: the package's own function reads its 2 MB of definitions anew for every object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator
from kubernetes_validate import utils
from referencing import Registry, Resource

from tests.unit.chart.harness.helm import Manifest

Schema: TypeAlias = bool | Mapping[str, Any]

CUSTOM = ("keda.sh/", "monitoring.coreos.com/", "gateway.networking.k8s.io/", "cert-manager.io/")
"""Groups that Kubernetes has no schemas of."""


def problems(manifest: Manifest, version: str) -> list[str]:
    """What doesn't fit the schema; nothing for an object that the API server would take."""
    validator = _validator(manifest["kind"], manifest["apiVersion"], version)
    where = f"{manifest['kind']} {manifest['metadata']['name']}"
    return [f"{where}: {error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


@cache
def _definitions(version: str) -> Resource[Schema]:
    path = f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json"
    return Resource.from_contents(utils.schema_contents(path, version))


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    path = f"kubernetes-json-schema/v{version}.0-local-strict/{kind.lower()}-{group}.json"
    schema = utils.schema_contents(path, version)
    registry: Registry[Schema] = _definitions(version) @ Registry()
    return Draft202012Validator(schema, registry=registry)
