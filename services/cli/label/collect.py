"""What `trivium label collect` does: finds files of drafts, makes datasets of them and says what they hold.

Owns what is shown; the work is `labeler_jobs.live_sample`'s.
"""

from __future__ import annotations

from rich.table import Table

from labeler_jobs.live_sample import collect_samples, find_samples
from labeler_jobs.shards.store import ShardError
from services.cli.console import note, out
from services.cli.errors import CliError
from services.cli.label.options import CollectOptions
from services.common.draft_sample import SampleError


def run_collect(options: CollectOptions) -> None:
    """Writes the datasets, and prints what they hold.

    Raises:
        CliError: A file can't be used, or a dataset not be written; the message names it.
    """
    if options.validation is not None and options.validation.resolve() == options.out.resolve():
        raise CliError("--validation: must be another folder than --out")
    try:
        paths = find_samples(options.samples)
        found = collect_samples(
            paths, options.out, options.validation, validation_share=options.validation_share, seed=options.seed
        )
    except (SampleError, ShardError, OSError) as error:
        raise CliError(str(error)) from error
    table = Table("dataset", "answers", "drafts", "different %")
    for folder, counts in found.items():
        different = f"{100 * counts.different_rate:.2f}"
        table.add_row(str(folder), str(counts.num_queries), str(counts.num_tokens), different)
    out.print(table)
    note("no verifier has looked at these tokens: wherever the models differ counts as divergent")
