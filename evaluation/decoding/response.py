"""What decoding a question comes to, whoever decoded it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RoutedResponse:
    """One decoded response.

    Attributes:
        token_ids: Emitted tokens, EOS included when it was reached.
        from_llm: For each of them, whether the LLM wrote it.
        scores: For each of them, the rule's verdict on the SLM's token; empty where one model answered alone.
    """

    token_ids: list[int] = field(default_factory=list)
    from_llm: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
