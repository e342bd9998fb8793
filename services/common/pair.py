"""Pair files: which small model, large model and router belong together, how their engines are set up, and the rule.

Owns the YAML schema and where its locations lead. Doesn't load models, and doesn't know which
pairs are shipped and which rules are installed.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from services.common.files.yaml_file import read_yaml
from services.common.rule_spec import RuleSpec

PACKAGE_PREFIX = "package:"
"""Starts a location inside an installed package: `package:evaluation/reference/weights/slm`."""


class PairError(ValueError):
    """A pair file can't be used. The message names the file and the key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class EngineSection(_Section):
    """How a model's engine is set up; what is left out keeps the service's own default.

    Attributes:
        name: Which engine runs the model.
        device: torch device, e.g. "cpu" or "cuda".
        dtype: Arithmetic and KV type.
        tp_size: Tensor parallel ranks (SGLang only).
        max_batch_size: Most sequences in one forward pass.
        kv_cache_tokens: KV budget in tokens over all sequences.
        prefill_chunk_len: Most tokens of one sequence in one forward pass.
        num_threads: CPU threads of a forward pass; 0 leaves the library's default.
    """

    name: Literal["transformers", "sglang"] | None = None
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    tp_size: Annotated[int, Field(ge=1)] | None = None
    max_batch_size: Annotated[int, Field(ge=1)] | None = None
    kv_cache_tokens: Annotated[int, Field(ge=1)] | None = None
    prefill_chunk_len: Annotated[int, Field(ge=1)] | None = None
    num_threads: Annotated[int, Field(ge=0)] | None = None


class ModelSection(_Section):
    """One of the two models.

    Attributes:
        model: Hugging Face id, a directory (absolute, or from `./` on relative to the pair file), or `package:` and a
            path inside an installed package.
        revision: Hugging Face commit, tag or branch; empty for a directory.
        engine: How its engine is set up.
    """

    model: Annotated[str, Field(min_length=1)]
    revision: str = ""
    engine: EngineSection = EngineSection()


class RouterSection(_Section):
    """The router of the pair.

    Attributes:
        checkpoint: Directory of a Trivium router checkpoint, written as a model is; absent if the user gives one.
        threshold_source: Where requests that name no threshold take it from: "checkpoint", from the validation sweep
            that the checkpoint carries.
        allow_other_slm: Serve it before an SLM of other weights than it was trained with.
        published: Where a router for this pair is published, for the user to read.
    """

    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    threshold_source: Literal["checkpoint"] = "checkpoint"
    allow_other_slm: bool = False
    published: str = ""


def _read_rule(value: object) -> RuleSpec:
    if isinstance(value, str):
        try:
            return RuleSpec.parse(value)
        except ValueError:
            pass
    raise PydanticCustomError("rule", "expected NAME or NAME:PARAMETER=NUMBER,…")


class Pair(_Section):
    """A small model, a large model, and what decides between them.

    Attributes:
        name: What it is called.
        description: For people.
        slm: The small model.
        llm: The large one.
        router: None where there is none: the rule has to be one that asks no router.
        rule: The rule of requests that name none, as `RuleSpec.parse` reads it; None for the router's.
        rule_sweeps: Files that `trivium calibrate --rule` has made, relative to the pair file or as `package:` and a
            path inside an installed package. With a rule's sweep, requests may name a budget for it.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]
    description: Annotated[str, Field(min_length=1)]
    slm: ModelSection
    llm: ModelSection
    router: RouterSection | None = None
    rule: Annotated[RuleSpec, PlainValidator(_read_rule)] | None = None
    rule_sweeps: tuple[str, ...] = ()

    @property
    def default_rule(self) -> RuleSpec:
        """The rule of requests that name none."""
        return self.rule or RuleSpec("router")


def load_pair(path: Path) -> Pair:
    """Reads a pair file and resolves the locations in it.

    Args:
        path: The YAML file.

    Returns:
        The pair; every model is a Hugging Face id or an absolute directory, every sweep an absolute path.

    Raises:
        PairError: The file can't be read, isn't YAML, has a wrong key or value, or names a directory or file that
            isn't there.
    """
    return _resolved(read_yaml(path, Pair, PairError), path)


def _resolved(pair: Pair, path: Path) -> Pair:
    def model(section: ModelSection, key: str) -> ModelSection:
        return section.model_copy(update={"model": resolve_location(section.model, path, f"{key}.model")})

    router = pair.router
    if router is not None and router.checkpoint is not None:
        checkpoint = resolve_location(router.checkpoint, path, "router.checkpoint")
        router = router.model_copy(update={"checkpoint": checkpoint})
    return pair.model_copy(
        update={
            "slm": model(pair.slm, "slm"),
            "llm": model(pair.llm, "llm"),
            "router": router,
            "rule_sweeps": tuple(_sweep(location, path) for location in pair.rule_sweeps),
        }
    )


def _sweep(location: str, path: Path) -> str:
    file = _in_package(location, path, "rule_sweeps") or _beside(location, path)
    if not file.is_file():
        raise PairError(f"{path}: rule_sweeps: no file {file}")
    return str(file)


def resolve_location(location: str, path: Path, key: str) -> str:
    """Turns a location of a pair file into a Hugging Face id or an absolute directory.

    Args:
        location: As it stands in the file.
        path: The pair file, to which `./…` and `../…` are relative.
        key: Named in the error.

    Raises:
        PairError: It names a directory that isn't there.
    """
    directory = _in_package(location, path, key)
    if directory is None:
        if not location.startswith(("./", "../", "/", "~")):
            return location
        directory = _beside(location, path)
    if not directory.is_dir():
        raise PairError(f"{path}: {key}: no directory {directory}")
    return str(directory)


def _in_package(location: str, path: Path, key: str) -> Path | None:
    if not location.startswith(PACKAGE_PREFIX):
        return None
    package, _, inner = location.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        return Path(str(files(package))) / inner
    except ModuleNotFoundError as error:
        raise PairError(f"{path}: {key}: no package {package!r} is installed") from error


def _beside(location: str, path: Path) -> Path:
    return (path.parent / Path(location).expanduser()).resolve()
