"""What `trivium calibrate` does: sweeps, shows the sweep and says which threshold was chosen.

Owns what is shown; the work is `router_service.training.recalibrate`'s.
"""

from __future__ import annotations

from rich.table import Table

from router_service.checkpoint_files import DESCRIPTION_FILE
from router_service.description import RouterDescription, read_description
from router_service.training.build import TRAINING_DIR
from router_service.training.calibrate import Target
from router_service.training.recalibrate import recalibrate
from services.cli.console import err, note, out
from services.cli.errors import CliError
from services.cli.pairs import find_pair
from services.cli.train.decoded_usage import measure_decoded_usage
from services.cli.train.model_folder import large_model_folder, small_model_folder
from services.cli.train.options import CalibrateOptions
from services.cli.train.train import warn_of_auc
from services.common.pair import load_pair
from services.common.progress import progress_bar


def run_calibrate(options: CalibrateOptions) -> None:
    """Chooses and writes a threshold, and prints the sweep.

    Raises:
        CliError: Something can't be used; the message names it.
    """
    try:
        pair = load_pair(find_pair(options.pair))
        slm_dir = small_model_folder(pair.slm)
        old = read_description(options.checkpoint / DESCRIPTION_FILE)
        decoded = (
            measure_decoded_usage(options.decode_on, options.checkpoint, options.validation, options.num_queries)
            if options.decode_on is not None
            else None
        )
        llm_dir = None if "llm_params" in old.metrics else large_model_folder(pair.llm)
        with progress_bar(console=err) as bar:
            task = bar.add_task("scoring", total=1)
            new = recalibrate(
                options.checkpoint, options.validation, Target(*options.target), slm_dir, decoded,
                llm_dir=llm_dir, num_threads=options.threads,
            )  # fmt: skip
            bar.advance(task)
    # Everything that can be wrong with files, data or target is a ValueError of its own kind.
    except (ValueError, OSError) as error:
        raise CliError(str(error)) from error
    out.print(sweep_table(new))
    warn_of_auc(new)
    note(f"default threshold {old.threshold:.6g} -> {new.threshold:.6g}, written to {options.checkpoint}")
    note(f"the sweep is drawn in {options.checkpoint / TRAINING_DIR / 'sweep.png'}")


def sweep_table(description: RouterDescription) -> Table:
    """The sweep of a checkpoint, and its default threshold as a row of its own."""
    table = Table(
        "threshold", "LLM usage %", "recall %", "precision %", "average parameters (B)", "decoding: usage %"
    )
    for row in description.sweep:
        decoded = "" if row.decoded_llm_usage_rate is None else f"{100 * row.decoded_llm_usage_rate:.2f}"
        shares = (f"{100 * share:.2f}" for share in (row.llm_usage_rate, row.recall, row.precision))
        table.add_row(f"{row.threshold:.6f}", *shares, f"{row.avg_activated_params_b:.5g}", decoded)
    metrics = description.metrics
    chosen = (f"{100 * metrics[f'validation_{name}']:.2f}" for name in ("llm_usage_rate", "recall", "precision"))
    table.add_section()
    average = f"{metrics['validation_avg_activated_params_b']:.5g}"
    table.add_row(f"{description.threshold:.6f}", *chosen, average, "default", style="bold")
    return table
