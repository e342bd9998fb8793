"""The orchestrator's metrics: names, and where their values come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from services.common.access.keys import Keys
from services.common.access.tenant import Reason
from services.common.serving.lifecycle import Lifecycle
from services.common.serving.telemetry import Telemetry
from services.orchestrator.driver import Driver
from services.orchestrator.index.prefix_index import PrefixIndex
from services.orchestrator.learning.sample_files import SampleFiles
from services.orchestrator.learning.shadow import Outcome, Shadow, ShadowCounts
from services.orchestrator.pair.rules import ServedRules
from services.orchestrator.sequences.counts import rule_label


def instrument(
    telemetry: Telemetry,
    driver: Driver,
    index: PrefixIndex,
    lifecycle: Lifecycle,
    *,
    rules: ServedRules,
    keys: Keys | None,
) -> None:
    """Adds all of them."""
    _callers(telemetry, keys)
    _requests(telemetry, driver, lifecycle)
    _tokens(telemetry, driver)
    _rules(telemetry, driver, rules)
    _peers(telemetry, driver, index)


def instrument_learning(telemetry: Telemetry, shadow: Shadow | None, files: SampleFiles | None) -> None:
    """Adds those of the shadow, and of the sample."""
    counts = shadow.counts if shadow else ShadowCounts()

    def of(decisions: Mapping[Outcome, int]) -> dict[str, Callable[[], float]]:
        return {outcome.value: partial(lambda outcome: decisions[outcome], outcome) for outcome in Outcome}

    telemetry.counter(
        "trivium_orchestrator_shadow_accepted_tokens_total",
        "Drafts that the shadow would have accepted, by what became of them: stood without the LLM, confirmed or "
        "replaced by it, or taken as a fallback where there was none.",
        of(counts.num_accepted),
        label="outcome",
    )
    telemetry.counter(
        "trivium_orchestrator_shadow_asked_tokens_total",
        "Drafts that the shadow would have asked the LLM about, by what became of them.",
        of(counts.num_asked),
        label="outcome",
    )
    telemetry.counter(
        "trivium_orchestrator_shadow_unscored_tokens_total",
        "Drafts that the shadow was to decide about and has no score of.",
        lambda: counts.num_unscored,
    )
    telemetry.counter(
        "trivium_orchestrator_sample_drafts_total",
        "Drafts of the sample, by whether they were written or had to be dropped.",
        {
            "kept": lambda: files.num_kept if files else 0,
            "dropped": lambda: files.num_dropped if files else 0,
        },
        label="outcome",
    )


def _callers(telemetry: Telemetry, keys: Keys | None) -> None:
    def number(reason: Reason) -> int:
        return keys.num_refused[reason] if keys else 0

    telemetry.gauge(
        "trivium_orchestrator_keys_file_current",
        "1 while the keys in use are those of keys_file; 0 while it holds what can't be used. 1 without one, too.",
        lambda: keys is None or keys.current,
    )
    telemetry.counter(
        "trivium_orchestrator_denied_calls_total",
        "Calls refused for their key or their tenant's limits, by reason.",
        {reason.value: partial(number, reason) for reason in Reason},
        label="reason",
    )


def _requests(telemetry: Telemetry, driver: Driver, lifecycle: Lifecycle) -> None:
    telemetry.gauge("trivium_orchestrator_active_requests", "Requests that run.", lambda: driver.admission.num_active)
    telemetry.gauge(
        "trivium_orchestrator_waiting_requests",
        "Requests that wait for their turn.",
        lambda: driver.admission.num_waiting,
    )
    telemetry.counter(
        "trivium_orchestrator_refused_requests_total",
        "Requests refused with RESOURCE_EXHAUSTED, since too many waited, unread ones among them.",
        lambda: driver.admission.num_refused + lifecycle.num_calls_refused,
    )
    telemetry.counter(
        "trivium_orchestrator_finished_requests_total",
        "Requests that reached their end; not those that were cancelled or failed.",
        lambda: driver.counts.num_requests_finished,
    )


def _tokens(telemetry: Telemetry, driver: Driver) -> None:
    counts = driver.counts
    telemetry.counter(
        "trivium_orchestrator_tokens_total",
        "Tokens of answers by who wrote them; slm_fallback is the SLM where the LLM was due and lost, "
        "slm_confirmed the SLM where the LLM would have written the same.",
        {
            "slm": lambda: counts.num_slm_tokens,
            "llm": lambda: counts.num_llm_tokens,
            "slm_fallback": lambda: counts.num_fallback_tokens,
            "slm_confirmed": lambda: counts.num_confirmed_tokens,
        },
        label="author",
    )
    telemetry.counter(
        "trivium_orchestrator_wasted_drafts_total",
        "Drafts that became no token, counted when their request ends.",
        lambda: counts.num_drafts_dropped,
    )
    telemetry.counter(
        "trivium_orchestrator_wasted_answers_total",
        "Answers of the LLM that became no token, counted when their request ends.",
        lambda: counts.num_answers_dropped,
    )


def _rules(telemetry: Telemetry, driver: Driver, rules: ServedRules) -> None:
    by_rule = driver.counts.by_rule
    labels = [rule_label(rule) for rule in rules]
    telemetry.counter(
        "trivium_orchestrator_rule_tokens_total",
        "Tokens of answers by the rule that decided about them, as name@version.",
        {label: partial(lambda label: by_rule[label].num_tokens, label) for label in labels},
        label="rule",
    )
    telemetry.counter(
        "trivium_orchestrator_rule_llm_tokens_total",
        "Those of them that the LLM wrote.",
        {label: partial(lambda label: by_rule[label].num_llm_tokens, label) for label in labels},
        label="rule",
    )


def _peers(telemetry: Telemetry, driver: Driver, index: PrefixIndex) -> None:
    telemetry.gauge(
        "trivium_orchestrator_replicas",
        "Replicas that take work, by service.",
        {
            "slm": lambda: len(driver.slm.links.available),
            "router": lambda: len(driver.router.links.available),
            "llm": lambda: len(driver.llm.links.available),
        },
        label="service",
    )
    telemetry.counter(
        "trivium_orchestrator_failovers_total",
        "Times that a request lost a replica, or was handed over by one that drains, by service.",
        {
            "slm": lambda: driver.slm.num_failovers,
            "router": lambda: driver.router.num_failovers,
            "llm": lambda: driver.llm.num_failovers,
        },
        label="service",
    )
    telemetry.counter(
        "trivium_orchestrator_stalls_total",
        "Times that a replica was given up, since it owed an answer and was silent, by service.",
        {
            "slm": lambda: driver.slm.links.num_stalls,
            "router": lambda: driver.router.links.num_stalls,
            "llm": lambda: driver.llm.links.num_stalls,
        },
        label="service",
    )
    telemetry.gauge(
        "trivium_orchestrator_prefix_index_available",
        "1 while Redis answers; 0 while it is away, or where none is set up.",
        lambda: index.available,
    )
    telemetry.counter(
        "trivium_orchestrator_prefix_index_failures_total",
        "Times that Redis was found unavailable, if only for one command.",
        lambda: index.num_failures,
    )
    telemetry.counter(
        "trivium_orchestrator_prefix_index_damaged_total",
        "Entries, token logs and replies of Redis that were damaged or not Trivium's, and counted for nothing.",
        lambda: index.num_damaged,
    )
