"""What a router checkpoint says about itself, and its strict reading from JSON.

Every field is checked: an unknown, missing or mistyped one is an error that names file and field.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from router_service.checkpoint_files import CheckpointError
from router_service.model import Objective, RouterConfig
from services.common.files.json_file import read_json_object, write_json
from services.common.weights import names_weights

FORMAT_VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True)
class ModelIdentity:
    """Which model a router was trained for.

    Attributes:
        model_id: Name of the model.
        revision: Its revision; for local weights a digest of them.
        vocab_size: Rows of its input embedding.
        hidden_size: Width of its hidden state.
        tokenizer_sha256: SHA-256 of its tokenizer.json, in hex.
    """

    model_id: str
    revision: str
    vocab_size: int
    hidden_size: int
    tokenizer_sha256: str

    def is_same_model(self, other: "ModelIdentity") -> bool:
        """Whether both have the same weights and tokenizer. Their names count where the revision says too little."""
        unnamed = dataclasses.replace(other, model_id=self.model_id)
        return self == (unnamed if names_weights(self.revision) else other)


@dataclass(frozen=True)
class SweepRow:
    """What one threshold gives on validation tokens.

    Attributes:
        threshold: Routes when the divergence probability is at least this.
        llm_usage_rate: Share of tokens that are routed.
        recall: Share of divergent tokens that are routed.
        precision: Share of routed tokens that are divergent.
        avg_activated_params_b: SLM + router + LLM x usage, in billions.
        decoded_llm_usage_rate: Share of tokens that the LLM writes when the pair decodes validation queries at this
            threshold; None where that wasn't measured. The other figures are of labelled tokens, whose prefixes are
            the LLM's alone.
    """

    threshold: float
    llm_usage_rate: float
    recall: float
    precision: float
    avg_activated_params_b: float
    decoded_llm_usage_rate: float | None = None


@dataclass(frozen=True)
class RouterDescription:
    """Everything about a router but its weights.

    Attributes:
        config: Its sizes.
        slm: The SLM whose features it reads.
        llm: The LLM whose path it predicts; None as long as it isn't known, of an imported router.
        threshold: Default threshold: calibrated, or an imported router's own.
        sweep: Sweep table, threshold falling.
        metrics: Figures of training and calibration, by name.
        data: Statistics of the labelled data, by set and name.
        objective: Which tokens it was taught to route.
        format_version: Version of this format.
    """

    config: RouterConfig
    slm: ModelIdentity
    llm: ModelIdentity | None
    threshold: float
    sweep: tuple[SweepRow, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    data: dict[str, dict[str, float]] = field(default_factory=dict)
    objective: Objective = "divergent"
    format_version: int = FORMAT_VERSION


def read_description(path: Path) -> RouterDescription:
    """Reads and checks a description.

    Args:
        path: A `router.json`.

    Returns:
        The description.

    Raises:
        CheckpointError: If the file is missing, is not JSON, or a field is unknown, missing or out of range.
    """
    fields = read_json_object(path, CheckpointError)
    if fields.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {fields.get('format_version')!r}, this release reads {FORMAT_VERSION}"
        )
    return _parse(path, fields)


def write_description(description: RouterDescription, path: Path) -> None:
    """Writes a description as indented JSON; the file changes whole or not at all."""
    write_json(path, dataclasses.asdict(description))


def read_identity(path: Path, name: str, fields: Any) -> ModelIdentity:
    """Checks the identity of a model.

    Args:
        path: The file that it stands in, for the error.
        name: Its name in the file, for the error.
        fields: What was read.

    Raises:
        CheckpointError: A field is unknown, missing or mistyped.
    """
    return _build(path, name, ModelIdentity, _object(path, name, fields))


def _parse(path: Path, fields: dict[str, Any]) -> RouterDescription:
    config = _object(path, "config", fields.get("config"))
    if isinstance(config.get("inputs"), list):
        config["inputs"] = tuple(config["inputs"])
    # Absent isn't null: an imported router says that it doesn't know.
    llm = None if fields.get("llm", "") is None else read_identity(path, "llm", fields.get("llm"))
    sweep = fields.get("sweep", [])
    if not isinstance(sweep, list):
        raise CheckpointError(f"{path}: sweep must be a list")
    parsed = {
        **fields,
        "config": _build(path, "config", RouterConfig, config),
        "slm": read_identity(path, "slm", fields.get("slm")),
        "llm": llm,
        "sweep": tuple(
            _build(path, f"sweep[{at}]", SweepRow, _object(path, f"sweep[{at}]", row)) for at, row in enumerate(sweep)
        ),
        "metrics": _object(path, "metrics", fields.get("metrics", {})),
        "data": _object(path, "data", fields.get("data", {})),
    }
    description = _build(path, "the document", RouterDescription, parsed)
    _check_thresholds(path, description)
    return description


def _check_thresholds(path: Path, description: RouterDescription) -> None:
    if description.objective not in get_args(Objective):
        raise CheckpointError(
            f"{path}: objective must be one of {get_args(Objective)}, not {description.objective!r}"
        )
    values = {"threshold": description.threshold}
    values.update({f"sweep[{at}].threshold": row.threshold for at, row in enumerate(description.sweep)})
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise CheckpointError(f"{path}: {name} must be a finite number of at least 0, not {value}")
    for at, row in enumerate(description.sweep):
        for name in ("llm_usage_rate", "recall", "precision", "decoded_llm_usage_rate"):
            share = getattr(row, name)
            # Written so that NaN fails it.
            if share is not None and not 0.0 <= share <= 1.0:
                raise CheckpointError(f"{path}: sweep[{at}].{name} must lie in [0, 1], not {share}")
    if description.config.slm_hidden_size != description.slm.hidden_size:
        raise CheckpointError(
            f"{path}: config.slm_hidden_size is {description.config.slm_hidden_size}, "
            f"slm.hidden_size is {description.slm.hidden_size}"
        )


def _object(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: {name} must be an object")
    return value


def _build(path: Path, name: str, kind: type[T], fields: Mapping[str, Any]) -> T:
    known = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(fields.keys() - known.keys()):
        raise CheckpointError(f"{path}: {name} has the unknown field {unknown[0]!r}")
    for item in known.values():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and item.name not in fields:
            raise CheckpointError(f"{path}: {name} lacks the field {item.name!r}")
        if item.name in fields and not _fits(fields[item.name], item.type):
            raise CheckpointError(f"{path}: {name}.{item.name} must be {item.type}, not {fields[item.name]!r}")
    try:
        return kind(**fields)
    except ValueError as error:
        raise CheckpointError(f"{path}: {name}: {error}") from error


def _fits(value: Any, annotation: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool)
    accepted = {
        int: whole,
        float: number,
        str: isinstance(value, str),
        (int | None): value is None or whole,
        (float | None): value is None or number,
    }
    return accepted.get(annotation, True)
