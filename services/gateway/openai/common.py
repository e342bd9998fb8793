"""What both kinds of requests share: the fields, and what they come to for an orchestrator."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Discriminator, Field, StrictBool, StrictStr, Tag

from services.client import LossPolicy, Options, Sampling
from services.common.rule_spec import RuleSpec
from services.gateway.errors import invalid
from services.gateway.openai.base import Number, RequestPart, Whole

MAX_STOP_STRINGS = 16
_MAX_INT32 = 2**31 - 1
_WAYS = ("threshold", "target_llm_usage", "target_avg_params_b")

NonEmpty = Annotated[StrictStr, Field(min_length=1)]


def _stop_kind(value: object) -> str | None:
    return "<string>" if isinstance(value, str) else "<strings>" if isinstance(value, list) else None


Stop = Annotated[
    Annotated[NonEmpty, Tag("<string>")]
    | Annotated[Annotated[list[NonEmpty], Field(max_length=MAX_STOP_STRINGS)], Tag("<strings>")],
    Discriminator(
        _stop_kind, custom_error_type="stop_type", custom_error_message="expected a string or a list of strings"
    ),
]


class StreamOptions(RequestPart):
    """What a stream tells beside the answer."""

    include_usage: StrictBool = False
    continuous_usage_stats: StrictBool = Field(False, description="Running totals in every chunk.")


class CommonRequest(RequestPart):
    """The fields that chats and plain prompts share."""

    model: StrictStr | None = Field(None, description="As /v1/models has it; absent: the one that is served.")
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    n: Whole = Field(1, ge=1, description="Answers to each prompt.")
    max_tokens: Whole | None = Field(None, ge=1, description="Absent: the room that the context has.")
    temperature: Number | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: Number = Field(1, gt=0, le=1)
    top_k: Whole = Field(0, ge=-1, le=2**31 - 1, description="0 and -1 keep all tokens.")
    seed: Whole | None = Field(None, ge=-(2**63), lt=2**64)
    stop: Stop = Field(default_factory=list)
    rule: StrictStr | None = Field(
        None,
        max_length=1000,
        description='Decides who writes a token, as "entropy" or "random:rate=0.2,seed=7"; absent: the server\'s.',
    )
    threshold: Number | None = Field(
        None,
        ge=0,
        le=3e38,
        description="The LLM writes a token from this score on; the router's is a divergence probability.",
    )
    target_llm_usage: Number | None = Field(None, ge=0, le=1, description="Instead: the share that the LLM writes.")
    target_avg_params_b: Number | None = Field(
        None, gt=0, description="Instead: billions of parameters that a token takes on average."
    )
    llm_loss_policy: LossPolicy = Field(LossPolicy.WAIT, description="While no replica of the LLM is left.")
    run_ahead_depth: Whole | None = Field(None, ge=0, lt=2**32, description="Changes speed alone.")
    include_token_sources: StrictBool = Field(False, description="Adds each token, its author and its probability.")

    @property
    def most_tokens(self) -> int | None:
        """Tokens to write at most."""
        return self.max_tokens

    @property
    def stop_strings(self) -> list[str]:
        """What ends an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


@dataclass(frozen=True, slots=True)
class Identity:
    """Names the choices of a request, and gives them their noise.

    Args:
        request_id: Of the request. A request of one choice has it as its own.
        seed: As the request has it.
    """

    request_id: str
    seed: int | None

    def of_choice(self, index: int, num_choices: int) -> str:
        """The id of a choice."""
        return self.request_id if num_choices == 1 else f"{self.request_id}-{index}"

    def seed_of(self, index: int, answer: int) -> int:
        """The key of a choice's noise.

        Args:
            index: Of the choice.
            answer: Which answer of its prompt it is: those of one seed are the same for each equal prompt.
        """
        if self.seed is None:
            return _hashed(f"{self.request_id}/{index}")
        return self.seed % 2**64 if answer == 0 else _hashed(f"{self.seed % 2**64}/{answer}")


def options(
    request: CommonRequest, identity: Identity, index: int, answer: int, num_choices: int, default_temperature: float
) -> Options:
    """What a choice asks for beside its prompt."""
    temperature = default_temperature if request.temperature is None else request.temperature
    most = request.most_tokens
    return Options(
        max_new_tokens=None if most is None else min(most, _MAX_INT32),
        rule=request.rule,
        threshold=request.threshold,
        target_llm_usage=request.target_llm_usage,
        target_avg_params_b=request.target_avg_params_b,
        stop=request.stop_strings,
        sampling=Sampling(temperature, max(0, request.top_k), request.top_p, identity.seed_of(index, answer)),
        llm_loss_policy=request.llm_loss_policy,
        run_ahead_depth=request.run_ahead_depth,
        request_id=identity.of_choice(index, num_choices),
    )


def check_common(request: CommonRequest, max_n: int) -> None:
    """Checks fields that have to fit each other, or the settings.

    Raises:
        ApiError: Names the field.
    """
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "only a stream has it: send stream: true")
    if request.n > max_n:
        raise invalid("n", f"at most {max_n} are served")
    if request.rule is not None:
        try:
            RuleSpec.parse(request.rule)
        except ValueError as error:
            raise invalid("rule", str(error).removeprefix("rule: ")) from None
    ways = [name for name in _WAYS if getattr(request, name) is not None]
    if len(ways) > 1:
        raise invalid(ways[1], f"give it or {ways[0]}, not both")


HEADERS: Mapping[str, tuple[str, type]] = {
    "X-Trivium-Rule": ("rule", str),
    "X-Trivium-Threshold": ("threshold", float),
    "X-Trivium-Target-LLM-Usage": ("target_llm_usage", float),
    "X-Trivium-Target-Avg-Params-B": ("target_avg_params_b", float),
    "X-Trivium-LLM-Loss-Policy": ("llm_loss_policy", str),
    "X-Trivium-Run-Ahead-Depth": ("run_ahead_depth", int),
}
"""Headers that stand for fields, for clients that can't add any to the body."""


def with_headers(body: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """Adds what headers ask for and the body doesn't.

    Raises:
        ApiError: Names the header.
    """
    merged = dict(body)
    routes = any(body.get(name) is not None for name in _WAYS)
    for header, (name, kind) in HEADERS.items():
        given = headers.get(header)
        if given is None or body.get(name) is not None or (routes and name in _WAYS):
            continue
        try:
            merged[name] = kind(given)
        except ValueError:
            raise invalid(header, "expected a number") from None
    return merged


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
