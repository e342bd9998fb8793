"""Kills pods and their processes, and waits until others have taken their places."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from kubernetes import client

from tests.cluster.harness import pods
from tests.cluster.harness.replicas import NUM_REPLICAS, Replicas
from tests.integration.harness.completions import tell

MOST_AWAY = 3
"""Pods that are away at once: enough for a whole service to be gone for a while."""
MOST_RESTARTS = 2
"""Kubernetes waits longer with each restart of a container. After so many the pod itself is deleted."""
_REPLACED_TIMEOUT_S = 240.0
_POLL_S = 0.5


class Killer:
    """Counts what it kills.

    Args:
        replicas: Whose pods.
        kubectl: The binary.
        draw: Where chance comes from.
    """

    def __init__(self, replicas: Replicas, kubectl: str, draw: random.Random) -> None:
        self.kills: Counter[str] = Counter()
        self.slots = asyncio.Semaphore(MOST_AWAY)
        """Acquired before each call of `replace`."""
        self._replicas = replicas
        self._kubectl = kubectl
        self._draw = draw
        self._dying: set[str] = set()

    async def replace(self, component: str, way: str) -> None:
        """Kills a ready pod, and frees a slot once another is ready in its place.

        Args:
            component: Whose pod.
            way: "delete" takes the pod away at once; "SIGKILL" ends its process, which starts again in the same pod,
                unless that has started again too often already.
        """
        victim = ""
        try:
            async with asyncio.timeout(_REPLACED_TIMEOUT_S):
                victim = await self._choose(component)
                if way == "SIGKILL" and _num_restarts(await self._read(victim)) >= MOST_RESTARTS:
                    way = "delete"
                if way == "SIGKILL":
                    await self._end_process(victim)
                else:
                    await self._delete(component, victim)
            self.kills[f"{component} {way}"] += 1
            tell("kills so far", self.kills.total())
        finally:
            self._dying.discard(victim)
            self.slots.release()

    async def _choose(self, component: str) -> str:
        while True:
            ready = await asyncio.to_thread(self._replicas.ready, component)
            candidates = [name for name in map(pods.name_of, ready) if name not in self._dying]
            if candidates:
                victim = self._draw.choice(candidates)
                self._dying.add(victim)
                return victim
            await asyncio.sleep(_POLL_S)

    async def _delete(self, component: str, victim: str) -> None:
        api, namespace = self._replicas.api, self._replicas.namespace
        await asyncio.to_thread(pods.delete_at_once, api, namespace, victim)
        while True:
            names = {pods.name_of(pod) for pod in await asyncio.to_thread(self._replicas.ready, component)}
            if len((names | self._dying) - {victim}) >= NUM_REPLICAS[component] and victim not in names:
                return
            await asyncio.sleep(_POLL_S)

    async def _end_process(self, victim: str) -> None:
        num_before = _num_restarts(await self._read(victim))
        await asyncio.to_thread(pods.kill_process, self._kubectl, self._replicas.namespace, victim)
        while True:
            pod = await self._read(victim)
            if _num_restarts(pod) > num_before and pods.is_ready(pod):
                assert _last_exit(pod) == 137, f"{victim} ended with {_last_exit(pod)}, not by SIGKILL"
                return
            await asyncio.sleep(_POLL_S)

    async def _read(self, name: str) -> client.V1Pod:
        return await asyncio.to_thread(self._replicas.api.read_namespaced_pod, name, self._replicas.namespace)


def _num_restarts(pod: client.V1Pod) -> int:
    [container] = (pod.status and pod.status.container_statuses) or []
    return int(container.restart_count)


def _last_exit(pod: client.V1Pod) -> int | None:
    [container] = (pod.status and pod.status.container_statuses) or []
    ended = container.last_state.terminated if container.last_state else None
    return ended.exit_code if ended else None
