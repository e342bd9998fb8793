"""What an evaluation run leaves behind: one row a question, and what the run was, in one Parquet file.

Tables and figures are drawn from these files alone, so that none of them needs a run to be repeated.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.common.model_sizes import ModelSizes

_METADATA_KEY = b"trivium_run"

RECORDS_SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),
        # Whether the response ended by itself, not at the token limit.
        pa.field("finished", pa.bool_(), nullable=False),
        pa.field("num_prompt_tokens", pa.int32(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        # Positions in the response that the LLM wrote, ascending. Of a model that answered alone: empty, see `model`.
        pa.field("llm_positions", pa.list_(pa.int32()), nullable=False),
        # Tokens up to and with the end of thinking; null where the response never ends it.
        pa.field("think_len", pa.int32()),
        # Positions in the thinking at which a thought starts ("Wait", "Alternatively"), 0 included.
        pa.field("thought_starts", pa.list_(pa.int32()), nullable=False),
        # Who answered: "slm", "llm" or "mid" alone, or "routed" token by token.
        pa.field("model", pa.string(), nullable=False),
        # Seconds from request to last token; null where questions were decoded as one batch.
        pa.field("latency_s", pa.float64()),
    ]
)


class RecordError(ValueError):
    """A file of records can't be read. The message names the file and the field."""


@dataclass(frozen=True)
class Run:
    """What was run.

    Attributes:
        run_id: Names the file: `<run_id>.parquet`.
        suite: The suite's name.
        method: "slm", "llm", "mid", "r2r", "different", "hs_tok", "hs", "entropy", "aleatoric", "random", "oracle" or
            the name of a query-level router ("qr_sw", "qr_mf", "qr_encoder", "qr_llm").
        model_params_b: Parameters in billions by name: "slm", "llm", and "router" or "mid" where they took part.
        seed: Seed of what was trained or drawn; None where nothing was.
        threshold: What the method's score was held against; None where it has none.
        target_llm_usage: LLM usage rate that the threshold was chosen for on validation data; None where none was.
        commit: Git commit of the code that ran, empty if unknown.
        command: Command that makes this run again.
    """

    run_id: str
    suite: str
    method: str
    model_params_b: dict[str, float]
    seed: int | None = None
    threshold: float | None = None
    target_llm_usage: float | None = None
    commit: str = ""
    command: str = ""

    @property
    def sizes(self) -> ModelSizes:
        """Sizes of a routed run's models; a rule without weights counts as a router of none.

        Raises:
            KeyError: `model_params_b` lacks the SLM or the LLM.
        """
        params_b = {"router": 0.0, **self.model_params_b}
        return ModelSizes(*(round(params_b[name] * 1e9) for name in ("slm", "router", "llm")))


@dataclass(frozen=True)
class RunRecords:
    """A run and its rows.

    Attributes:
        run: What was run.
        table: Rows of `RECORDS_SCHEMA`, one a question.
    """

    run: Run
    table: pa.Table


def save_records(records: RunRecords, folder: Path) -> Path:
    """Writes a run; the file appears whole or not at all.

    Args:
        records: The run; its table is cast to `RECORDS_SCHEMA`.
        folder: Made when missing.

    Returns:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = records.table.cast(RECORDS_SCHEMA)
    metadata = {_METADATA_KEY: json.dumps(dataclasses.asdict(records.run), sort_keys=True).encode()}
    path = folder / f"{records.run.run_id}.parquet"
    aside = path.with_suffix(".parquet.tmp")
    pq.write_table(table.replace_schema_metadata(metadata), aside, compression="zstd")
    aside.replace(path)
    return path


def load_records(path: Path) -> RunRecords:
    """Reads a run.

    Raises:
        RecordError: The file is missing, damaged, or holds no run.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise RecordError(f"{path}: not a readable file of records: {error}") from error
    metadata = (table.schema.metadata or {}).get(_METADATA_KEY)
    if metadata is None:
        raise RecordError(f"{path}: holds no description of its run")
    try:
        run = Run(**json.loads(metadata))
        rows = table.replace_schema_metadata(None).cast(RECORDS_SCHEMA)
    except (TypeError, ValueError, pa.ArrowInvalid) as error:
        raise RecordError(f"{path}: {error}") from error
    return RunRecords(run, rows)


def load_all(folder: Path) -> list[RunRecords]:
    """Reads every run in a folder, ordered by run id."""
    return [load_records(path) for path in sorted(folder.glob("*.parquet"))]
