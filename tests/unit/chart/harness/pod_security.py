"""What the Pod Security level `restricted` asks of a pod, as the Pod Security Standards list it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.unit.chart.harness.helm import Manifest

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(spec: Manifest) -> list[str]:
    """Why a pod wouldn't be admitted; nothing for one that would."""
    return [*_pod(spec), *(problem for item in _containers(spec) for problem in _container(item, spec))]


def _containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def _pod(spec: Manifest) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is set"
    for volume in spec.get("volumes", []):
        for kind in volume.keys() - {"name"} - _VOLUMES:
            yield f"volume {volume['name']} is a {kind}"
    for name in spec.get("securityContext", {}).keys() & {"sysctls", "seLinuxOptions", "windowsOptions"}:
        yield f"{name} is set"


def _container(container: Manifest, spec: Manifest) -> Iterator[str]:
    own = container.get("securityContext", {})
    context = {**spec.get("securityContext", {}), **own}
    name = container["name"]
    if context.get("privileged"):
        yield f"{name} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name} may escalate privileges"
    if "ALL" not in own.get("capabilities", {}).get("drop", []):
        yield f"{name} keeps capabilities"
    if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name} adds capabilities"
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        yield f"{name} may run as root"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{name} has no seccomp profile"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name} has a host port"
    for hook in ("startupProbe", "readinessProbe", "livenessProbe"):
        for handler in ("httpGet", "tcpSocket"):
            if container.get(hook, {}).get(handler, {}).get("host"):
                yield f"{name}'s {hook} names a host"
