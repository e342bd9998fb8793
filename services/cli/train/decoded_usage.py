"""Measures what thresholds cost while a pair decodes, by asking a running one the queries of a labelled dataset.

Labelled tokens follow the LLM's own responses; what a pair writes under routing strays from them, and so may its LLM
usage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from trivium.v1 import orchestrator_pb2 as pb

from router_service.checkpoint_files import DESCRIPTION_FILE, WEIGHTS_FILE
from router_service.description import read_description
from services.cli.ask.client import OrchestratorClient
from services.cli.errors import CliError
from services.client import Options, chat_request
from services.common.progress import track
from services.common.threshold_table import threshold_for

MEASURED_USAGE_RATES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""LLM usage rates, by the sweep over labelled tokens, at whose thresholds usage is measured."""
_NUM_STREAMS = 16


def measure_decoded_usage(address: str, checkpoint: Path, validation: Path, num_queries: int) -> dict[float, float]:
    """Measures LLM usage at several thresholds.

    Args:
        address: An orchestrator that serves the router.
        checkpoint: The router's folder; its sweep tells which thresholds are worth a measurement.
        validation: The dataset; its queries lie beside it, in `queries`.
        num_queries: Queries asked at each threshold, at most.

    Returns:
        Tokens by the LLM / all tokens, by threshold.

    Raises:
        CliError: There is no sweep, there are no queries, or the orchestrator doesn't answer, or serves another
            router.
        CheckpointError: The checkpoint can't be read.
    """
    description = read_description(checkpoint / DESCRIPTION_FILE)
    if not description.sweep:
        raise CliError("--decode-on: the checkpoint carries no sweep; calibrate it without --decode-on first")
    queries = _queries(validation.parent / "queries", num_queries)
    points = [(row.threshold, row.llm_usage_rate) for row in description.sweep]
    usages = {}
    with OrchestratorClient(address) as client, ThreadPoolExecutor(_NUM_STREAMS) as streams:
        _check_router(client, checkpoint)
        for rate in track(MEASURED_USAGE_RATES, "decoding"):
            threshold = threshold_for(points, rate)
            ask = partial(_ask, client, Options(threshold=threshold))
            usages[threshold] = _pooled_usage(list(streams.map(ask, queries)))
    return usages


def _check_router(client: OrchestratorClient, checkpoint: Path) -> None:
    with (checkpoint / WEIGHTS_FILE).open("rb") as file:
        weights_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    served = client.server_info().router
    if served.weights_sha256 != weights_sha256:
        raise CliError(
            f"--decode-on: the pair serves the router {served.checkpoint!r} of weights {served.weights_sha256[:12]}; "
            f"those of {checkpoint} are {weights_sha256[:12]}"
        )


def _ask(client: OrchestratorClient, asked: Options, query: str) -> pb.Usage:
    return client.complete(chat_request(query, asked)).usage


def _pooled_usage(usages: Sequence[pb.Usage]) -> float:
    return sum(usage.num_llm_tokens for usage in usages) / sum(usage.num_completion_tokens for usage in usages)


def _queries(folder: Path, num_queries: int) -> list[str]:
    try:
        table = pq.read_table(folder, columns=["query"])
    except (OSError, pa.ArrowInvalid) as error:
        raise CliError(f"{folder}: no readable queries beside the dataset: {error}") from error
    queries: list[str] = table["query"].to_pylist()[:num_queries]
    if not queries:
        raise CliError(f"{folder}: no queries")
    return queries
