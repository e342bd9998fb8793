"""What the thresholds of a rule cost: sweep files, which let requests name a budget instead of a threshold.

Owns the format, its strict reading, and whether a sweep belongs to a rule and a small model.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.common.files.json_file import read_json_object, write_json
from services.common.threshold_table import threshold_for
from services.rules.rule import Rule

SLM_ONLY_THRESHOLD = float(np.finfo(np.float32).max)
"""No score of any rule reaches it."""

_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=1)]


class SweepError(ValueError):
    """A sweep can't be used. The message names the file and the field."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class SweptModel(_Part):
    """The small model whose drafts were scored.

    Attributes:
        model_id: Name of the model, for people.
        revision: Its commit; of a folder, a digest of the weights.
        vocab_size: Rows of its input embedding.
        hidden_size: Width of its hidden state.
        tokenizer_sha256: SHA-256 of its tokenizer, in hex.
    """

    model_id: Annotated[str, Field(min_length=1)]
    revision: str
    vocab_size: _Count
    hidden_size: _Count
    tokenizer_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SweepPoint(_Part):
    """What one threshold gives.

    Attributes:
        threshold: Routes a draft when its score is at least this.
        llm_usage_rate: Share of drafts that are routed, in text that the small model writes by itself.
        recall: Share of divergent tokens that are routed; None without labels.
        precision: Share of routed tokens that are divergent, of labelled ones; None without labels.
    """

    threshold: Annotated[float, Field(ge=0)]
    llm_usage_rate: _Share
    recall: _Share | None = None
    precision: _Share | None = None


class RuleSweep(_Part):
    """A rule's sweep.

    Attributes:
        rule: Name of the rule.
        version: Its version.
        slm: Whose drafts were scored.
        num_tokens: How many were.
        rows: By falling threshold, from one that routes nothing to 0, which routes everything.
    """

    rule: Annotated[str, Field(min_length=1)]
    version: Annotated[str, Field(min_length=1)]
    slm: SweptModel
    num_tokens: _Count
    rows: Annotated[tuple[SweepPoint, ...], Field(min_length=2, strict=False)]

    @field_validator("rows")
    @classmethod
    def _in_order(cls, rows: tuple[SweepPoint, ...]) -> tuple[SweepPoint, ...]:
        for above, below in pairwise(rows):
            if below.threshold >= above.threshold or below.llm_usage_rate < above.llm_usage_rate:
                raise ValueError(f"thresholds have to fall and usage to rise, but not after {above.threshold:g}")
        if rows[0].llm_usage_rate != 0 or rows[-1].threshold != 0 or rows[-1].llm_usage_rate != 1:
            raise ValueError("they have to begin with a usage of 0 and end with threshold 0 and a usage of 1")
        return rows

    def threshold_for(self, llm_usage_rate: float) -> float:
        """The threshold of a budget, linear between two rows, as a float32 can hold it.

        Args:
            llm_usage_rate: Tokens written by the LLM / all tokens; 0 and less means none, 1 and more all.
        """
        if llm_usage_rate <= 0:
            return SLM_ONLY_THRESHOLD
        points = [(row.threshold, row.llm_usage_rate) for row in self.rows]
        return threshold_for(points, llm_usage_rate, highest=self.rows[0].threshold)


def read_sweep(path: Path, rule: Rule, slm: SweptModel) -> RuleSweep:
    """Reads the sweep of a rule and a small model.

    Args:
        path: A JSON file that `trivium calibrate --rule` wrote.
        rule: The rule that it has to be of.
        slm: The small model that it has to be of.

    Raises:
        SweepError: It can't be read, a field is unknown, missing or out of range, or it is of another rule, another
            version of it, or another small model.
    """
    sweep = parse_sweep(path)
    check_sweep(path, sweep, rule, slm)
    return sweep


def check_sweep(path: Path, sweep: RuleSweep, rule: Rule, slm: SweptModel) -> None:
    """Checks that a sweep, read from `path`, is of a rule and a small model; raises as `read_sweep` does."""
    if sweep.rule != rule.name:
        raise SweepError(f"{path}: rule: it is a sweep of {sweep.rule}, not of {rule.name}")
    if sweep.version != rule.version:
        raise SweepError(
            f"{path}: version: it is of version {sweep.version} of {rule.name}, installed is {rule.version}: make it "
            f"anew with `trivium calibrate --rule {rule.name}`"
        )
    # A folder's name means nothing elsewhere; its weights do.
    for field in ("tokenizer_sha256", "vocab_size", "hidden_size", "revision"):
        theirs, ours = getattr(sweep.slm, field), getattr(slm, field)
        if theirs != ours:
            raise SweepError(
                f"{path}: slm.{field}: it was made with {theirs} of {sweep.slm.model_id!r}, "
                f"slm {slm.model_id!r} has {ours}"
            )


def parse_sweep(path: Path) -> RuleSweep:
    """Reads a sweep, whatever it is of.

    Raises:
        SweepError: It can't be read, or a field is unknown, missing or out of range.
    """
    content = read_json_object(path, SweepError)
    try:
        return RuleSweep.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SweepError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def write_sweep(sweep: RuleSweep, path: Path) -> None:
    """Writes a sweep as indented JSON; the file changes whole or not at all."""
    write_json(path, sweep.model_dump(exclude_none=True))
