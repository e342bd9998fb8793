"""Each component scales by its own load: `python -m tests.cluster.autoscaling --out evaluation/results/autoscaling`.

Owns the phases of the load, and the samples of demand and replicas that are taken meanwhile. Needs KEDA and a
Prometheus that scrapes annotated pods. Here an LLM replica takes 2 sequences at once and an SLM replica 4, and twice
the share of a busy CPU: both models of the reference pair are so small that they would cost about the same otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kubernetes import client, config
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from urllib3.exceptions import HTTPError

from evaluation.exactness import Reference, reference_decodings, suite_prompts
from evaluation.in_process import SLM_ONLY
from evaluation.records.commit import code_commit
from evaluation.reference.pair import load_pair
from services.cli.console import err
from tests.cluster.harness.access import Access, way_in
from tests.cluster.harness.load import Load
from tests.cluster.harness.namespaces import new_namespace
from tests.cluster.harness.options import add_options, add_prometheus_option
from tests.cluster.harness.release import NAME, PORTS, Release, image_settings, light_image
from tests.cluster.harness.scaling import PodCount, Prometheus, ScaledComponent
from tests.cluster.harness.scaling_figure import draw
from tests.cluster.harness.scaling_record import Record, Sample

logger = logging.getLogger(__name__)

SCALED = ("slm", "llm")
NUM_PROMPTS = 12
PHASE_TIMEOUT_S = 420.0
HOLD_S = 20.0
_INTERVAL_S = 2.0

VALUES = """
autoscaling:
  prometheusAddress: http://{prometheus}
  pollingIntervalS: 5
  averageWindow: 30s
shutdown: {{leaveEndpointsS: 3, marginS: 5}}
slm:
  settings: {{maxBatchSize: 4, drainTimeoutS: 5}}
  resources: {{requests: {{cpu: 200m, memory: 384Mi}}}}
  autoscaling: {{kind: keda, maxReplicas: 3, targetOccupancy: 0.75, scaleDownWindowS: 30}}
llm:
  settings: {{maxBatchSize: 2, drainTimeoutS: 5}}
  resources: {{requests: {{cpu: 100m, memory: 384Mi}}}}
  autoscaling: {{kind: keda, maxReplicas: 3, targetOccupancy: 0.75, scaleDownWindowS: 30}}
router:
  resources: {{requests: {{cpu: 200m}}}}
orchestrator:
  resources: {{requests: {{cpu: 500m}}}}
"""


@dataclass(frozen=True, slots=True)
class Phase:
    """A load that stays until something has happened, and `HOLD_S` longer.

    Args:
        name: What the load is.
        streams: Streams on each path.
        until: What has to happen.
    """

    name: str
    streams: dict[str, int]
    until: Callable[[Sample], bool]


def _all_at(number: int, *components: str) -> Callable[[Sample], bool]:
    wanted = PodCount(number, number)
    return lambda sample: all(sample.pods[component] == wanted for component in components)


# A little of both goes on while pods are taken away, so that they have something to hand over.
_LITTLE = {"llm": 1, "slm": 1}
PHASES = (
    Phase("a little", _LITTLE, _all_at(1, *SCALED)),
    # Few enough that one SLM replica keeps up with three of the LLM.
    Phase("LLM path", {"llm": 10, "slm": 0}, _all_at(3, "llm")),
    Phase("a little again", _LITTLE, _all_at(1, *SCALED)),
    Phase("SLM path", {"llm": 0, "slm": 24}, _all_at(3, "slm")),
    Phase("a little at last", _LITTLE, _all_at(1, *SCALED)),
)


def install(release: Release, prometheus: str) -> None:
    """Installs the reference preset so that KEDA scales slm and llm, by the Prometheus at this address inside."""
    release.install(text=VALUES.format(prometheus=prometheus))


def references() -> list[Reference]:
    """What streams ask for: a dozen held-out questions, by either model alone."""
    pair = load_pair()
    one_model = [pair.rule(threshold=threshold) for threshold in (0.0, SLM_ONLY)]
    return reference_decodings(pair, suite_prompts(pair, NUM_PROMPTS), one_model)


class Experiment:
    """Goes through the phases, and looks every other second.

    Args:
        namespace: Where the release is.
        address: Its orchestrator's.
        prometheus: Which the autoscalers ask, too.
        asked: What streams ask for, at thresholds 0 and above 1.
        tell: Told how it stands.
    """

    def __init__(
        self,
        namespace: str,
        address: str,
        prometheus: Prometheus,
        asked: Sequence[Reference],
        tell: Callable[[str], None],
    ) -> None:
        self._namespace = namespace
        self._prometheus = prometheus
        self._tell = tell
        self._components = [ScaledComponent(namespace, name) for name in SCALED]
        self._loads = {
            # One token at a time, as the paper has it: the small model waits while the large one is asked.
            "llm": Load(address, [item for item in asked if item.threshold == 0], run_ahead_depth=0),
            "slm": Load(address, [item for item in asked if item.threshold > 1]),
        }
        self._began = time.monotonic()
        self.record = Record({item.component: item.per_replica for item in self._components})

    async def run(self) -> None:
        """Runs it to its end, or to a phase in which nothing happens."""
        for phase in PHASES:
            for path, load in self._loads.items():
                load.resize(phase.streams[path])
            if not await self._has_happened(phase):
                self.record.failures.append(f"{phase.name!r} has changed nothing in {PHASE_TIMEOUT_S:g} s")
                break
            await self._stay(phase)
        await asyncio.gather(*(load.finish() for load in self._loads.values()))
        for load in self._loads.values():
            self.record.num_streams += load.num_done
            self.record.failures += load.failures

    async def _has_happened(self, phase: Phase) -> bool:
        deadline = time.monotonic() + PHASE_TIMEOUT_S
        while time.monotonic() < deadline:
            sample = await self._look(phase)
            if sample is not None and phase.until(sample):
                return True
        return False

    async def _stay(self, phase: Phase) -> None:
        end = time.monotonic() + HOLD_S
        while time.monotonic() < end:
            await self._look(phase)

    async def _look(self, phase: Phase) -> Sample | None:
        await asyncio.sleep(_INTERVAL_S)
        try:
            sample = await asyncio.to_thread(self._sample, phase)
        except (OSError, HTTPError) as error:
            # A machine that is busy with the load may not answer in time. The next look will do.
            logger.warning("no sample: %s", error)
            return None
        self.record.samples.append(sample)
        num_failed = sum(len(load.failures) for load in self._loads.values())
        self._tell(f"{sample} · {num_failed} failed")
        return sample

    def _sample(self, phase: Phase) -> Sample:
        for name in SCALED:
            query = f'sum(trivium_orchestrator_failovers_total{{namespace="{self._namespace}", service="{name}"}})'
            self.record.failovers[name] = self._prometheus.value(query)
        return Sample(
            round(time.monotonic() - self._began, 2),
            phase.name,
            {path: load.num_streams for path, load in self._loads.items()},
            {item.component: self._prometheus.value(item.query) for item in self._components},
            {item.component: item.pods() for item in self._components},
        )


def check(record: Record) -> None:
    """Holds a record to what autoscaling promises.

    Raises:
        AssertionError: It doesn't keep it.
    """
    assert record.num_streams > 0
    assert record.failures == []
    for phase, idle in (("LLM path", "slm"), ("SLM path", "llm")):
        moved = [sample for sample in record.during(phase) if sample.pods[idle].wanted != 1]
        assert not moved, f"{idle} was scaled in the phase {phase!r}: {moved[0]}"


def prometheus_service(text: str) -> tuple[str, str, int]:
    """Reads namespace, Service and port from "namespace/service:port".

    Raises:
        ValueError: It isn't of that form.
    """
    namespace, _, rest = text.partition("/")
    name, _, port = rest.partition(":")
    if not (namespace and name and port.isdecimal()):
        raise ValueError(f"--prometheus: expected namespace/Service:port, got {text!r}")
    return namespace, name, int(port)


def measure(
    release: Release, access: Access, service: tuple[str, str, int], asked: Sequence[Reference], show: Progress
) -> Record:
    """Installs the release, goes through the phases, and returns what was seen.

    Args:
        release: Not installed yet.
        access: The way into its cluster.
        service: Prometheus: namespace, Service, port.
        asked: What streams ask for.
        show: Where it is shown how it stands.
    """
    namespace, name, port = service
    install(release, f"{name}.{namespace}.svc:{port}")
    task = show.add_task("installed", total=None)
    with ExitStack() as stack:
        front = access.to_service(release.namespace, f"{NAME}-orchestrator", PORTS["orchestrator"])
        prometheus = Prometheus(stack.enter_context(access.to_service(*service)))
        address = stack.enter_context(front)
        experiment = Experiment(
            release.namespace, address, prometheus, asked, lambda line: show.update(task, description=line)
        )
        asyncio.run(experiment.run())
        return experiment.record


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.autoscaling", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where results go, without a suffix")
    add_options(parser.add_argument)
    add_prometheus_option(parser.add_argument)
    return parser.parse_args()


def main() -> int:
    """Entry point. Returns 1 where autoscaling doesn't keep what it promises."""
    arguments = _parse_arguments()
    config.load_kube_config()  # type: ignore[no-untyped-call]
    api = client.CoreV1Api()
    helm, kubectl = (shutil.which(name) or name for name in ("helm", "kubectl"))
    registry, tag = arguments.image_registry, arguments.image_tag
    access = way_in(api, kubectl, light_image(registry, tag), arguments.cluster_access)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with new_namespace(api, "autoscaling") as namespace, Progress(*columns, console=err) as show:
        release = Release(helm, namespace, image_settings(registry, tag))
        try:
            record = measure(release, access, prometheus_service(arguments.prometheus), references(), show)
        except AssertionError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        finally:
            release.uninstall()
    command = "python -m tests.cluster.autoscaling --out STEM"
    record.save(arguments.out, command=command, commit=code_commit(), values=VALUES.strip().splitlines())
    draw(record, arguments.out)
    check(record)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
