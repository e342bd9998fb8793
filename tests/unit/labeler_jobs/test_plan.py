import dataclasses
import json
from pathlib import Path

import pytest

from labeler_jobs.plan import (
    MACHINE_SETTINGS,
    PLAN_FILE,
    LabelPlan,
    LabelSettings,
    PlanError,
    QuerySource,
    digest_queries,
    settle_plan,
)
from labeler_jobs.queries.loading import Query
from labeler_jobs.shards.store import ShardError, ShardStore
from router_service.description import ModelIdentity

SLM = ModelIdentity("small", "r1", 10, 4, "aa")
PLAN = LabelPlan(
    slm=SLM,
    llm=ModelIdentity("large", "r2", 12, 8, "aa"),
    context_len=64,
    source=QuerySource("reference", limit=10),
    num_queries=10,
    queries_sha256="00",
    num_shards=4,
    settings=LabelSettings(),
)


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    return ShardStore(str(tmp_path / "new"))


def test_plan_of_a_new_folder_is_written_and_the_same_plan_goes_on(store: ShardStore) -> None:
    assert settle_plan(store, PLAN) == PLAN
    assert settle_plan(store, PLAN) == PLAN


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_shards": 5}, "num_shards is 4, this run's is 5"),
        (
            {"slm": dataclasses.replace(SLM, tokenizer_sha256="bb")},
            "slm.tokenizer_sha256 is 'aa', this run's is 'bb'",
        ),
        ({"slm": dataclasses.replace(SLM, vocab_size=11)}, "slm.vocab_size is 10, this run's is 11"),
        ({"settings": LabelSettings(max_new_tokens=5)}, "settings.max_new_tokens is 32768, this run's is 5"),
        ({"source": QuerySource("reference", limit=None)}, "source.limit is 10, this run's is None"),
        ({"queries_sha256": "11"}, "queries_sha256 is '00', this run's is '11'"),
    ],
)
def test_run_that_differs_is_refused_with_the_field(
    store: ShardStore, changes: dict[str, object], message: str
) -> None:
    settle_plan(store, PLAN)
    with pytest.raises(PlanError, match=f"plan.json: {message}"):
        settle_plan(store, dataclasses.replace(PLAN, **changes))  # type: ignore[arg-type]
    assert settle_plan(store, PLAN) == PLAN


@pytest.mark.parametrize("name", MACHINE_SETTINGS)
def test_memory_and_threads_are_no_part_of_what_a_run_is(store: ShardStore, name: str) -> None:
    settle_plan(store, PLAN)
    changed = dataclasses.replace(PLAN, settings=dataclasses.replace(PLAN.settings, **{name: 7}))  # type: ignore[arg-type]
    assert settle_plan(store, changed) == changed
    assert json.loads(store.read_text(PLAN_FILE))["settings"][name] != 7


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LabelSettings(), LabelSettings(verifier="model:x")),
        (LabelSettings(), LabelSettings(verifier="http://a", verifier_model="m")),
        (
            LabelSettings(verifier="http://a", verifier_model="m"),
            LabelSettings(verifier="http://a", verifier_model="n"),
        ),
    ],
)
def test_verifier_may_change_as_long_as_there_is_no_verdict(
    store: ShardStore, before: LabelSettings, after: LabelSettings
) -> None:
    settle_plan(store, dataclasses.replace(PLAN, settings=before))
    changed = dataclasses.replace(PLAN, settings=after)
    with pytest.raises(PlanError, match=r"settings.verifier.*trivium label reverify"):
        settle_plan(store, changed, lambda: False)
    assert settle_plan(store, changed, lambda: True) == changed
    assert settle_plan(store, changed, lambda: False) == changed


def test_verifier_that_only_moved_to_another_address_is_the_same(store: ShardStore) -> None:
    settle_plan(store, dataclasses.replace(PLAN, settings=LabelSettings(verifier="http://a", verifier_model="m")))
    settle_plan(store, dataclasses.replace(PLAN, settings=LabelSettings(verifier="http://b", verifier_model="m")))


def test_plan_of_before_verifiers_had_a_model_goes_on(store: ShardStore) -> None:
    settle_plan(store, PLAN)
    fields = json.loads(store.read_text(PLAN_FILE))
    del fields["settings"]["verifier_model"]
    store.write_text(PLAN_FILE, json.dumps(fields))
    assert settle_plan(store, PLAN) == PLAN


def test_plan_with_a_field_that_is_missing_or_unknown_is_refused(store: ShardStore) -> None:
    settle_plan(store, PLAN)
    fields = json.loads(store.read_text(PLAN_FILE))
    del fields["context_len"]
    store.write_text(PLAN_FILE, json.dumps(fields))
    with pytest.raises(PlanError, match="context_len is missing"):
        settle_plan(store, PLAN)
    store.write_text(PLAN_FILE, json.dumps({**fields, "context_len": 64, "colour": 1}))
    with pytest.raises(PlanError, match="colour is unknown"):
        settle_plan(store, PLAN)


def test_damaged_plan_is_named(store: ShardStore) -> None:
    store.write_text(PLAN_FILE, "{")
    with pytest.raises(ShardError, match=r"plan\.json: not valid JSON"):
        settle_plan(store, PLAN)


@pytest.mark.parametrize(("num_queries", "num_shards"), [(10, 4), (3, 8), (0, 2), (16, 16)])
def test_query_ranges_hold_every_query_once(num_queries: int, num_shards: int) -> None:
    plan = dataclasses.replace(PLAN, num_queries=num_queries, num_shards=num_shards)
    ranges = [plan.query_range(index) for index in range(num_shards)]
    assert [number for numbers in ranges for number in numbers] == list(range(num_queries))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_digest_of_queries_depends_on_every_field_and_the_order() -> None:
    one, two = Query("1", "math", "how many?", "3"), Query("2", "qa", "who?", None)
    digests = {
        digest_queries(queries)
        for queries in ([one, two], [two, one], [one], [dataclasses.replace(one, answer="4"), two])
    }
    assert len(digests) == 4
    assert digest_queries([one, two]) in digests
