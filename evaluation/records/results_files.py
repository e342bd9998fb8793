"""The JSON files in `evaluation/results/`: what tables and figures are drawn from, beside the runs' records.

    runs/<run_id>.parquet   one row a question of every run (`evaluation.records.run_records`)
    labeling.json           statistics and cost of the labelled data (`Labeling`; the paper's Tables 1 and 6)
    token_analysis.json     what tells divergent tokens from others (`TokenAnalysis`; Figure 4)
    routers.json            every trained router and rule, and its thresholds (`Routers`; Table 4)
    sweep.json              what every threshold of a router gives on validation tokens (`Sweeps`; Figure 8)
    query_routing.json      accuracy of query-level routing at every cost (`QueryRouting`; Table 2, Figure 5)
    speed.json              seconds and tokens/s of single streams (`Speed`; Tables 3 and 5)

Every file names the command that makes it again, the commit that made it and the seeds. Sizes are in billions of
parameters, rates and shares in [0, 1], times in seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

RESULTS_DIR = Path(__file__).parents[1] / "results"
"""Where the committed results of the reference pair lie."""
RUNS_FOLDER = "runs"


class ResultsError(ValueError):
    """A file of results can't be read. The message names the file and the field."""


class Row(BaseModel):
    """A part of a file; an unknown, missing or mistyped field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Provenance(Row):
    """Where a file comes from.

    Attributes:
        command: Makes the file again.
        commit: Git commit of the code that made it, empty if unknown.
        seeds: Seeds of what was trained or drawn.
    """

    command: str
    commit: str
    seeds: list[int] = []


class ResultFile(Row):
    """One file of the folder; subclasses name it."""

    name: ClassVar[str]
    provenance: Provenance

    def save(self, folder: Path) -> Path:
        """Writes the file; it appears whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.name
        aside = path.with_suffix(".json.tmp")
        aside.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        aside.replace(path)
        return path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the file.

        Raises:
            ResultsError: It is missing, or not of this form.
        """
        path = folder / cls.name
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise ResultsError(f"{path}: no such file") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise ResultsError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


class DomainLabels(Row):
    """Counts of one domain of one labelled set; the paper's Table 1.

    Attributes:
        domain: The suite's domain, or "all".
        num_queries: Responses that were labelled.
        num_tokens: Tokens of the responses, EOS included.
        num_different: Tokens that the SLM would write differently.
        num_divergent: Those of them that change what is said.
        num_unparsable: Verdicts that couldn't be read; they count as divergent.
    """

    domain: str
    num_queries: int
    num_tokens: int
    num_different: int
    num_divergent: int
    num_unparsable: int = 0


class StageCost(Row):
    """What one stage of labelling cost; the paper's Table 6.

    Attributes:
        stage: "responses", "prefill", "continuations", "verdicts" or "dataset".
        seconds: Time of the stage, summed over shards.
        num_tokens: Tokens that the stage wrote or read.
    """

    stage: str
    seconds: float
    num_tokens: int


class Labeling(ResultFile):
    """`labeling.json`.

    Attributes:
        sets: Statistics by set ("train", "validation"): one row a domain, then "all".
        cost: Cost by set, one row a stage.
    """

    name: ClassVar[str] = "labeling.json"
    sets: dict[str, list[DomainLabels]]
    cost: dict[str, list[StageCost]]


class Histogram(Row):
    """How a score is spread, by label.

    Attributes:
        bin_edges: One more than there are bins, rising.
        counts: Tokens in each bin, by "identical", "neutral", "divergent".
        mean: Mean score, by label.
        auc: Probability that a divergent token scores above another.
    """

    bin_edges: list[float]
    counts: dict[str, list[int]]
    mean: dict[str, float]
    auc: float


class FrequencyBand(Row):
    """Tokens of similar frequency.

    Attributes:
        min_count: Least number of times that a token of the band occurs as the SLM's prediction.
        max_count: Largest.
        num_token_ids: Distinct tokens in the band.
        num_tokens: Their occurrences.
        num_different: Occurrences that differ.
        num_divergent: Occurrences that diverge.
    """

    min_count: int
    max_count: int
    num_token_ids: int
    num_tokens: int
    num_different: int
    num_divergent: int


class TokenAnalysis(ResultFile):
    """`token_analysis.json`, from the labelled training tokens; the paper's Figure 4.

    Attributes:
        entropy: Entropy of the SLM's distribution, in nats, over its top 100 logits.
        aleatoric: Aleatoric uncertainty of the SLM's logits.
        frequency: Divergence by token frequency, rare tokens first.
    """

    name: ClassVar[str] = "token_analysis.json"
    entropy: Histogram
    aleatoric: Histogram
    frequency: list[FrequencyBand]


class RouterResult(Row):
    """One trained router, or one rule that needs no training, on validation tokens.

    Attributes:
        method: Name of its runs: "r2r", "different", "hs_tok", "hs", "entropy", "aleatoric" or "random".
        config: Its config file's name; None for a rule.
        seed: Seed of its training; None for a rule.
        num_params: Weights that a token passes through.
        auc: Probability that a divergent token scores above another.
        threshold: The default threshold.
        llm_usage_rate: Share of tokens that the default threshold routes.
        recall: Share of divergent tokens that it routes.
        precision: Share of routed tokens that are divergent.
        thresholds: Threshold by target LLM usage rate ("0.05"), chosen on validation tokens.
    """

    method: str
    config: str | None
    seed: int | None
    num_params: int
    auc: float
    threshold: float
    llm_usage_rate: float
    recall: float
    precision: float
    thresholds: dict[str, float]


class Routers(ResultFile):
    """`routers.json`."""

    name: ClassVar[str] = "routers.json"
    routers: list[RouterResult]


class SweepPoint(Row):
    """What one threshold gives on validation tokens; fields as in `router_service.description.SweepRow`."""

    threshold: float
    llm_usage_rate: float
    recall: float
    precision: float
    avg_activated_params_b: float


class RouterSweep(Row):
    """The sweep of one router, threshold falling; `method`, `config` and `seed` as in `RouterResult`."""

    method: str
    config: str | None
    seed: int | None
    rows: list[SweepPoint]


class Sweeps(ResultFile):
    """`sweep.json`; the paper's Figure 8."""

    name: ClassVar[str] = "sweep.json"
    sweeps: list[RouterSweep]


class QueryRoutingPoint(Row):
    """Query-level routing at one share of queries.

    Attributes:
        llm_share: Share of queries that the LLM answers.
        llm_usage_rate: Share of emitted tokens that the LLM wrote.
        avg_params_b: Average activated parameters of an emitted token.
        accuracy: Share of correct answers.
        mean_tokens: Tokens of a response.
    """

    llm_share: float
    llm_usage_rate: float
    avg_params_b: float
    accuracy: float
    mean_tokens: float


class QueryRouter(Row):
    """One query-level router of one seed.

    Attributes:
        method: "qr_sw", "qr_mf", "qr_encoder" or "qr_llm".
        seed: Seed of its training.
        auc: Probability that it ranks a query which the SLM fails above one which it solves, on held-out queries.
        curve: Share rising from 0 to 1.
    """

    method: str
    seed: int
    auc: float
    curve: list[QueryRoutingPoint]


class QueryRouting(ResultFile):
    """`query_routing.json`.

    Attributes:
        num_train_queries: Queries whose outcomes were learned from.
        num_held_out_queries: Queries of the curves.
        routers: One for each method and seed.
    """

    name: ClassVar[str] = "query_routing.json"
    num_train_queries: int
    num_held_out_queries: int
    routers: list[QueryRouter]


class SpeedRow(Row):
    """Single-stream speed of one method; lists hold one value a repetition, repetitions side by side.

    Attributes:
        method: "slm", "mid", "llm" and "r2r", which share a loop; "llm_generate" and "speculative", which share that
            of Hugging Face.
        llm: Which LLM took part: "reference" or "inflated"; None where none did.
        avg_params_b: Average activated parameters of an emitted token; of speculative decoding None.
        num_tokens: Tokens of each repetition.
        tokens_per_s: Speed.
        latency_s: Mean time of a question.
        equal_to_llm: Share of responses that equal the LLM's, token for token.
        accepted_rate: Of speculative decoding: share of emitted tokens that were the SLM's drafts; else None.
    """

    method: str
    llm: str | None
    avg_params_b: float | None
    num_tokens: list[int]
    tokens_per_s: list[float]
    latency_s: list[float]
    equal_to_llm: float | None = None
    accepted_rate: float | None = None


class Speed(ResultFile):
    """`speed.json`; the paper's Tables 3 and 5.

    Attributes:
        num_questions: Questions of a repetition.
        num_threads: CPU threads.
        llm_params_b: Size by LLM ("reference", "inflated").
        cost_ratio: Measured cost of a decoding step, LLM against SLM, by LLM.
        rows: One for each method and LLM.
    """

    name: ClassVar[str] = "speed.json"
    num_questions: int
    num_threads: int
    llm_params_b: dict[str, float]
    cost_ratio: dict[str, float]
    rows: list[SpeedRow]
