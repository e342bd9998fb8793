"""Figure 6: where in a response R2R asks the LLM.

Source: arXiv:2505.21600 Figure 6 and §5.5; deviation: intervals over queries.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes

from evaluation.metrics import Estimate, bootstrap_ratio
from evaluation.report.operating_point import Floats, OperatingPoint
from evaluation.report.parts import Part, sentence_of_counts
from evaluation.report.stored import MissingInput, StoredResults
from evaluation.report.style import BLUE, VERMILION, new_figure, percent_axis

_NUM_THINK_BINS, _NUM_REPLY_BINS, _NUM_THOUGHT_BINS = 20, 8, 10


@dataclass
class _Profile:
    """Tokens and LLM tokens by normalised position, query by query.

    Attributes:
        num_bins: Bins of the position.
        tokens: Tokens in each bin, by query.
        llm_tokens: Those of them that the LLM wrote.
    """

    num_bins: int
    tokens: dict[str, Floats] = field(default_factory=dict)
    llm_tokens: dict[str, Floats] = field(default_factory=dict)

    def add(self, query: str, from_llm: Floats) -> None:
        """Counts one segment: f64 [tokens], 1 where the LLM wrote the token."""
        if not len(from_llm):
            return
        bins = ((np.arange(len(from_llm)) + 0.5) / len(from_llm) * self.num_bins).astype(np.int64)
        tokens = self.tokens.setdefault(query, np.zeros(self.num_bins))
        tokens += np.bincount(bins, minlength=self.num_bins)
        llm_tokens = self.llm_tokens.setdefault(query, np.zeros(self.num_bins))
        llm_tokens += np.bincount(bins, weights=from_llm, minlength=self.num_bins)

    @property
    def usage(self) -> list[Estimate]:
        """LLM usage rate of each bin, resampling queries."""
        tokens, llm_tokens = (np.stack(list(part.values())) for part in (self.tokens, self.llm_tokens))
        return [_ratio(llm_tokens[:, at], tokens[:, at]) for at in range(self.num_bins)]

    @property
    def overall(self) -> Estimate:
        """LLM usage rate of all bins together."""
        tokens, llm_tokens = (np.stack(list(part.values())).sum(axis=1) for part in (self.tokens, self.llm_tokens))
        return bootstrap_ratio(llm_tokens, tokens)


def _ratio(llm_tokens: Floats, tokens: Floats) -> Estimate:
    # A query whose segment is shorter than the number of bins leaves some of them empty.
    held = tokens > 0
    if not held.any():
        return Estimate(float("nan"), float("nan"), float("nan"))
    return bootstrap_ratio(llm_tokens[held], tokens[held])


@dataclass(frozen=True)
class PositionProfiles:
    """LLM usage by position in finished responses that end their thinking.

    Attributes:
        think: Within the thinking, its end token included.
        reply: Within the reply.
        thought: Within thoughts.
        num_responses: Responses.
        num_thoughts: Thoughts.
        think_len: Mean tokens of the thinking.
        reply_len: Mean tokens of the reply.
    """

    think: _Profile
    reply: _Profile
    thought: _Profile
    num_responses: int
    num_thoughts: int
    think_len: float
    reply_len: float


def profile_positions(point: OperatingPoint) -> PositionProfiles:
    """Measures where the LLM wrote, over all seeds of an operating point.

    Raises:
        MissingInput: No response is finished and has both thinking and reply.
    """
    think, reply, thought = _Profile(_NUM_THINK_BINS), _Profile(_NUM_REPLY_BINS), _Profile(_NUM_THOUGHT_BINS)
    think_lens, reply_lens, num_thoughts = [], [], 0
    for row in _finished_rows(point.tables):
        query, think_len, num_tokens = row["question_id"], row["think_len"], row["num_tokens"]
        from_llm = np.zeros(num_tokens)
        from_llm[row["llm_positions"]] = 1.0
        think.add(query, from_llm[:think_len])
        reply.add(query, from_llm[think_len:])
        bounds = [*row["thought_starts"], think_len]
        for start, end in itertools.pairwise(bounds):
            thought.add(query, from_llm[start:end])
        num_thoughts += len(row["thought_starts"])
        think_lens.append(think_len)
        reply_lens.append(num_tokens - think_len)
    if not think_lens:
        raise MissingInput("runs/, a finished response of R2R with thinking and a reply")
    return PositionProfiles(
        think, reply, thought, len(think_lens), num_thoughts, float(np.mean(think_lens)), float(np.mean(reply_lens))
    )


def _finished_rows(tables: Iterable[pa.Table]) -> Iterator[dict[str, Any]]:
    for table in tables:
        for row in table.to_pylist():
            if row["finished"] and row["think_len"] is not None and row["think_len"] < row["num_tokens"]:
                yield row


def _draw(axes: Axes, profile: _Profile, color: str, title: str) -> None:
    usage = profile.usage
    middle = (np.arange(profile.num_bins) + 0.5) / profile.num_bins
    axes.fill_between(middle, [u.low for u in usage], [u.high for u in usage], color=color, alpha=0.2, linewidth=0)
    axes.plot(middle, [u.value for u in usage], color=color, marker="o", markersize=3)
    axes.axhline(profile.overall.value, color=color, linestyle="--", linewidth=0.9)
    axes.set_title(title)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    percent_axis(axes.yaxis)


def usage_by_position(results: StoredResults) -> Part:
    """Draws Figure 6."""
    point = results.main
    profiles = profile_positions(point)
    # The two panels of (a) are as wide as their mean lengths, up to where the smaller one couldn't be read.
    reply_width = max(0.15, profiles.reply_len / max(profiles.think_len, 1.0))
    figure, (think, reply, thought) = new_figure(2.9, 3, (1.0, reply_width, 0.8), share_y=True)
    _draw(think, profiles.think, VERMILION, "(a) Thinking")
    _draw(reply, profiles.reply, BLUE, "Reply")
    _draw(thought, profiles.thought, VERMILION, "(b) Within thoughts")
    think.set_ylabel("tokens by the LLM (%)")
    think.set_ylim(bottom=0)
    figure.supxlabel("normalised position", fontsize=9)
    caption = (
        f"Share of tokens that the LLM writes, by normalised position. R2R, {point.setting}; "
        f"{sentence_of_counts(point.num_queries, point.num_seeds)}, of which {profiles.num_responses:,} responses "
        "finished. Bands: 95% bootstrap intervals over queries; dashed: mean of the panel. **(a)** Thinking "
        f"({profiles.think_len:.0f} tokens on average) and reply ({profiles.reply_len:.0f}); widths follow these "
        f"lengths. **(b)** {profiles.num_thoughts:,} thoughts, which begin where the thinking begins and at words "
        "such as *Wait*."
    )
    return Part(caption, figure)
