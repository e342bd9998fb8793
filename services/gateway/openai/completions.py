"""Reads the requests of /v1/completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Discriminator, Field, StrictBool, StrictInt, StrictStr, Tag
from trivium.v1 import orchestrator_pb2 as pb

from services.client import Options, text_request, tokens_request
from services.gateway.errors import invalid
from services.gateway.openai.base import parse, whole_numbers
from services.gateway.openai.common import CommonRequest, Identity, check_common, options
from services.gateway.openai.plan import Limits, Plan
from services.gateway.openai.policy import check_fields

TokenId = Annotated[StrictInt, Field(ge=0, lt=2**32)]
TokenIds = Annotated[list[TokenId], Field(min_length=1), BeforeValidator(whole_numbers)]

_KINDS: Mapping[type, str] = {str: "<texts>", int: "<ids>", float: "<ids>", list: "<lists>"}


def _prompt_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return _KINDS.get(type(value[0]) if value else str) if isinstance(value, list) else None


Prompt = Annotated[
    Annotated[StrictStr, Tag("<text>")]
    | Annotated[Annotated[list[StrictStr], Field(min_length=1)], Tag("<texts>")]
    | Annotated[TokenIds, Tag("<ids>")]
    | Annotated[Annotated[list[TokenIds], Field(min_length=1)], Tag("<lists>")],
    Discriminator(
        _prompt_kind,
        custom_error_type="prompt_type",
        custom_error_message="expected a string, a list of strings, a list of token ids or a list of such lists",
    ),
]


class CompletionRequest(CommonRequest):
    """A text to go on with, as it stands. Special tokens that are written out in it are special tokens."""

    prompt: Prompt
    echo: StrictBool = Field(False, description="The text begins with the prompt. Not for token ids.")

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """All of them, in order."""
        match self.prompt:
            case str() as text:
                return [text]
            case [int(), *_] as token_ids:
                return [cast(list[int], token_ids)]
        return cast(list[str | list[int]], self.prompt)


def plan_completion(body: Mapping[str, Any], request_id: str, limits: Limits) -> Plan:
    """Turns a request into what is to be asked.

    Args:
        body: As received.
        request_id: Names the request.
        limits: What this gateway allows.

    Raises:
        ApiError: It isn't served; names the field.
    """
    is_same = body.get("best_of") == body.get("n", 1)
    check_fields(body, {*CompletionRequest.model_fields, *(["best_of"] if is_same else [])})
    request = parse(CompletionRequest, body)
    check_common(request, limits.max_n)
    prompts = request.prompts
    num_choices = len(prompts) * request.n
    if num_choices > limits.max_prompts:
        raise invalid("prompt", f"at most {limits.max_prompts} answers to one request are served")
    if request.echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise invalid("echo", "token ids aren't turned into text")
    identity = Identity(request_id, request.seed)
    requests = [
        _request(
            prompt,
            options(request, identity, place * request.n + answer, answer, num_choices, limits.default_temperature),
        )
        for place, prompt in enumerate(prompts)
        for answer in range(request.n)
    ]
    is_batch = len(prompts) > 1
    return Plan(
        request=request,
        request_id=request_id,
        requests=requests,
        prompt_params=[
            f"prompt[{place}]" if is_batch else "prompt" for place in range(len(prompts)) for _ in range(request.n)
        ],
        is_chat=False,
        echoes=[str(prompt) for prompt in prompts for _ in range(request.n)] if request.echo else (),
    )


def _request(prompt: str | list[int], asked: Options) -> pb.GenerateRequest:
    return text_request(prompt, asked) if isinstance(prompt, str) else tokens_request(prompt, asked)
