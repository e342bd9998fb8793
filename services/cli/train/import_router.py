"""What `trivium import-router` does: finds the published file and the small model, and writes the checkpoint.

Owns what is shown; the work is `router_service.published.importing`'s.
"""

from __future__ import annotations

from pathlib import Path

from labeler_jobs.models.identity import identify_model
from router_service.checkpoint_files import DESCRIPTION_FILE
from router_service.published.importing import import_router
from services.cli.console import note
from services.cli.errors import CliError
from services.cli.train.model_folder import published_file, small_model_folder
from services.cli.train.options import ImportOptions
from services.common.pair import ModelSection


def run_import_router(options: ImportOptions) -> None:
    """Imports a router and says what is left to do.

    Raises:
        CliError: Something can't be used; the message names it.
    """
    if (options.out / DESCRIPTION_FILE).exists() and not options.overwrite:
        raise CliError(f"{options.out}: holds a checkpoint; --overwrite replaces it")
    section = _section(options.slm)
    is_folder = Path(section.model).is_dir()
    try:
        file = published_file(options.source, options.file)
        slm_dir = small_model_folder(section)
        name = slm_dir.resolve().name if is_folder else section.model
        # By the folder: it has the commit in its path, or is digested.
        slm, _ = identify_model(ModelSection(model=str(slm_dir)), name)
        description = import_router(
            file,
            slm,
            slm_dir,
            options.out,
            with_embedding=not is_folder if options.with_embedding is None else options.with_embedding,
            allow_other_slm=options.allow_other_slm,
        )
    # Everything that can be wrong with files is a ValueError of its own kind.
    except (ValueError, OSError) as error:
        raise CliError(str(error)) from error
    note(f"router of {slm.model_id} {slm.revision}, threshold {description.threshold:.6g}, written to {options.out}")
    note("budgets need a sweep: `trivium calibrate` makes one from labelled data")


def _section(model: str) -> ModelSection:
    if Path(model).is_dir():
        return ModelSection(model=str(Path(model).absolute()))
    name, _, revision = model.partition("@")
    if not name:
        raise CliError("--slm: expected a folder, or a Hugging Face id with an optional @revision")
    return ModelSection(model=name, revision=revision)
