"""The way to a cluster: which API server is meant, as whom, and in which namespace."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.config import ConfigException
from yaml import YAMLError

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_USUAL_FILE = "~/.kube/config"


class ClusterError(Exception):
    """The cluster can't be asked, or refuses. The message names what and says what to do."""


class ClusterBusy(ClusterError):
    """The server did nothing, and may do it later: it is overloaded, or a webhook that it has to ask is away."""


def connect(context: str | None) -> tuple[client.ApiClient, str]:
    """Connects as KUBECONFIG or a context says; where neither is given, as the pod that this runs in.

    Args:
        context: A context of KUBECONFIG, or of ~/.kube/config where that isn't set; None takes the current one. In a
            pod without KUBECONFIG, None is the pod's own account.

    Returns:
        The client, and the namespace that is meant where none is named.

    Raises:
        ClusterError: There is no cluster to connect to.
    """
    given = os.environ.get("KUBECONFIG")
    try:
        if context is None and not given and _POD_NAMESPACE.exists():
            return _as_pod()
        file = given or _USUAL_FILE
        contexts, current = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
        chosen = current if context is None else _named(contexts, context, file)
        api = config.new_client_from_config(file, chosen["name"])  # type: ignore[no-untyped-call]
        return api, chosen["context"].get("namespace") or "default"
    except (ConfigException, YAMLError, OSError) as error:
        raise ClusterError(f"no cluster: {error}; KUBECONFIG names the file that tells where one is") from error


def _as_pod() -> tuple[client.ApiClient, str]:
    configuration = client.Configuration()
    config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    return client.ApiClient(configuration), _POD_NAMESPACE.read_text().strip()


def _named(contexts: list[Mapping[str, Any]], name: str, file: str) -> Mapping[str, Any]:
    for context in contexts:
        if context["name"] == name:
            return context
    known = ", ".join(sorted(context["name"] for context in contexts))
    raise ClusterError(f"--context: {file} has no context {name!r}; it has {known}")
