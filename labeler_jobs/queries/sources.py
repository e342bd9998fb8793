"""The sources of queries that the paper draws on: where each is published, and which fields it has.

Source: arXiv:2505.21600 A.2 (AIME; code and QA of Bespoke-Stratos; only the formatted questions are used, responses
come from the LLM). deviation: OpenThoughts and LIMO are offered too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from labeler_jobs.queries.rows import QueryError, Row, read_rows

BOXED_TEMPLATE = "{question}\n\nReason step by step, and put the final answer in \\boxed{}."
"""How a bare mathematical question becomes a message."""
PLAIN_TEMPLATE = "{question}"
"""For sources whose questions are messages already."""

_CODE_PROMPT = "Generate an executable Python function"
_MATH_PROMPT = "Return your final response within \\boxed{}"
_ASKING = ("user", "human")


@dataclass(frozen=True)
class Question:
    """What one row asks.

    Attributes:
        row_id: Tells the row from the others of its source.
        domain: What it is about.
        query: The message for the model.
        answer: The short correct answer, where the source has one.
    """

    row_id: str
    domain: str
    query: str
    answer: str | None


@dataclass(frozen=True)
class Source:
    """One source.

    Attributes:
        dataset: Hugging Face id; empty where only local files are read.
        config: Configuration of the dataset; empty for the default one.
        split: Split that is read unless another is asked for.
        read_row: Reads one row.
        prompt_template: The message, with "{question}" where the question goes.
    """

    dataset: str
    config: str
    split: str
    read_row: Callable[[Row], Question]
    prompt_template: str


def read_source(source: Source, path: str, split: str) -> Iterator[Question]:
    """Reads a source's questions.

    Args:
        source: What the rows look like.
        path: Local file or folder, or dataset id with an optional "@revision"; empty for `source.dataset`.
        split: Split; empty for `source.split`.

    Yields:
        A question a row, formatted by the source's template.

    Raises:
        QueryError: If nothing can be read, or a row doesn't fit. The message names file, field and row.
    """
    if not (path or source.dataset):
        raise QueryError("path: this source has no dataset of its own; name a file")
    for row in read_rows(path or source.dataset, source.config, split or source.split):
        question = source.read_row(row)
        message = source.prompt_template.replace("{question}", question.query)
        yield Question(question.row_id, question.domain, message, question.answer)


def _read_plain(row: Row) -> Question:
    row_id = row.text("query_id", default=str(row.number))
    answer = row.answer("answer") if row.has("answer") else None
    return Question(row_id, row.text("domain"), row.text("query"), answer)


def _read_aime(row: Row) -> Question:
    """The id, problem and answer, as the published copies of AIME name them."""
    row_id = row.text("id", "ID", "problem_idx", default=str(row.number))
    return Question(
        row_id, "math", row.text("problem", "Problem", "question", "Question"), row.answer("answer", "Answer")
    )


def _read_limo(row: Row) -> Question:
    return Question(str(row.number), "math", row.text("question"), row.answer("answer"))


def _read_conversation(row: Row) -> Question:
    """The first message; its response is left out, because labels need the pair's own LLM's."""
    query = row.first_message("conversations", _ASKING)
    return Question(str(row.number), row.text("domain", default=_guess_domain(query)), query, None)


def _read_openthoughts_metadata(row: Row) -> Question:
    return Question(str(row.number), row.text("domain"), row.text("problem"), None)


def _guess_domain(query: str) -> str:
    """Bespoke-Stratos has no field for it, but begins its coding and its mathematical prompts alike."""
    if query.lstrip().startswith(_CODE_PROMPT):
        return "code"
    return "math" if query.lstrip().startswith(_MATH_PROMPT) else "qa"


SOURCES = {
    "file": Source("", "", "train", _read_plain, PLAIN_TEMPLATE),
    "aime": Source("AI-MO/aimo-validation-aime", "", "train", _read_aime, BOXED_TEMPLATE),
    "limo": Source("GAIR/LIMO", "", "train", _read_limo, BOXED_TEMPLATE),
    "bespoke-stratos": Source("bespokelabs/Bespoke-Stratos-17k", "", "train", _read_conversation, PLAIN_TEMPLATE),
    "openthoughts": Source("open-thoughts/OpenThoughts-114k", "", "train", _read_conversation, PLAIN_TEMPLATE),
    "openthoughts-metadata": Source(
        "open-thoughts/OpenThoughts-114k", "metadata", "train", _read_openthoughts_metadata, PLAIN_TEMPLATE
    ),
}
"""All sources by name. "file" has the fields query_id (optional), domain, query and answer (optional)."""
