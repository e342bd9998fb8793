"""What the gateway counts, and how it is called in its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.common.serving.telemetry import Telemetry
from services.gateway.openai.choice import Choice

STATUSES = (200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 499, 500, 501, 503, 504)


@dataclass(slots=True)
class Counts:
    """Counts from the start of the process.

    Attributes:
        num_active: Requests that run.
        num_disconnects: Clients that went away before their answer's end.
        num_slm_tokens: Tokens of answers that the SLM wrote, in place of the LLM as well.
        num_llm_tokens: Those that the LLM wrote.
        statuses: Responses by status. A failure after the first event is a 200.
        first_token_s: Called with the seconds until each choice's first token.
    """

    num_active: int = 0
    num_disconnects: int = 0
    num_slm_tokens: int = 0
    num_llm_tokens: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    first_token_s: Callable[[float], None] | None = None

    def add(self, choices: Sequence[Choice]) -> None:
        """Counts the tokens of a request that has ended."""
        num_llm = sum(choice.num_llm_tokens for choice in choices)
        self.num_llm_tokens += num_llm
        self.num_slm_tokens += sum(choice.num_tokens for choice in choices) - num_llm


def instrument(telemetry: Telemetry, counts: Counts) -> None:
    """Adds the gateway's metrics."""
    telemetry.gauge("trivium_gateway_active_requests", "HTTP requests that run.", lambda: counts.num_active)
    telemetry.counter(
        "trivium_gateway_responses_total",
        "HTTP responses by status; a failure after a stream's first event counts as 200.",
        {str(status): (lambda status=status: counts.statuses[status]) for status in STATUSES},  # type: ignore[misc]
        label="status",
    )
    telemetry.counter(
        "trivium_gateway_disconnects_total",
        "Clients that went away before the end of their answer.",
        lambda: counts.num_disconnects,
    )
    telemetry.counter(
        "trivium_gateway_tokens_total",
        "Tokens of answers by who wrote them.",
        {"slm": lambda: counts.num_slm_tokens, "llm": lambda: counts.num_llm_tokens},
        label="author",
    )
    counts.first_token_s = telemetry.durations(
        "trivium_gateway_first_token_seconds", "Seconds from a request to the first token of each of its choices."
    )
