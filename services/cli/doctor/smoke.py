"""The check of `trivium smoke`: one streamed answer, written by both models, or by one whom the rule leaves all to.

Owns what counts as routed. It needs no model and no torch, so that it runs from the light image.
"""

from __future__ import annotations

import time
from collections import Counter

from trivium.v1 import orchestrator_pb2 as pb

from services.cli.ask.client import OrchestratorClient
from services.cli.console import out
from services.cli.errors import CliError
from services.cli.pair.probe import probe
from services.client import Options, chat_request
from services.common.rule_spec import RuleSpec

_POLL_S = 0.5
_RULES_OF_ONE_MODEL = ("slm", "llm")


def run_smoke(prompt: str, *, address: str, max_new_tokens: int, timeout_s: float) -> None:
    """Asks one question and counts who wrote the answer.

    Args:
        prompt: The question.
        address: The orchestrator's, "host:port".
        max_new_tokens: Tokens to write at most.
        timeout_s: Seconds until it has to serve.

    Raises:
        CliError: It doesn't serve in time, the request failed, it came in one piece, or one model wrote all of it.
    """
    _await_serving(address, timeout_s)
    with OrchestratorClient(address) as client:
        answer = client.complete(chat_request(prompt, Options(max_new_tokens=max_new_tokens)))
    written = Counter(token.source for token in answer.tokens)
    num_slm, num_llm = written[pb.TOKEN_SOURCE_SLM], written[pb.TOKEN_SOURCE_LLM]
    rule = answer.usage.used_rule.rule
    counts = (
        f"{len(answer.tokens)} tokens in {answer.num_messages} messages: {num_slm} by the SLM, {num_llm} by the LLM, "
        f"rule {RuleSpec(rule.name, rule.parameters)}"
    )
    if not (num_slm and num_llm) and rule.name not in _RULES_OF_ONE_MODEL:
        raise CliError(
            f"orchestrator {address}: not routed: {counts}; doesn't the rule, or the router, fit this pair?"
        )
    if answer.num_messages < 2:
        raise CliError(f"orchestrator {address}: not streamed: {counts}")
    out.print(f"{counts}, {answer.seconds:.1f} s", highlight=False)


def _await_serving(address: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while (found := probe("orchestrator", address)).health != "SERVING":
        if time.monotonic() >= deadline:
            reason = f": {found.error}" if found.error else ""
            raise CliError(f"orchestrator {address}: {found.health} after {timeout_s:.0f} s{reason}")
        time.sleep(_POLL_S)
