"""Installs SGLang, unmodified, into the current virtual environment of a machine without a GPU.

    python -m tests.sglang_cpu.install

SGLang is published for CUDA: its dependencies name CUDA builds of torch and a dozen kernel packages that don't import
without a GPU. Its CPU path needs none of them. So SGLang and a few packages are installed without their dependencies
(`requirements-nodeps.txt`), then what its CPU path imports (`requirements.txt`), next to the project's own torch.
Two imports are left that can't work here, and `site/` holds what stands in for them:

- `sgl_kernel`, the compiled kernels: a package whose names can be imported and raise when they are called.
- `torchvision`, whose only wheels on the package index are CUDA builds: an import hook, started by a `.pth` file in
  every interpreter, that declares two operators right before torchvision is imported. It imports nothing before that.

It takes about two minutes and 1.5 GB of disk once. When all is in place it returns at once without network.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent
NO_DEPENDENCIES = HERE / "requirements-nodeps.txt"
WITH_DEPENDENCIES = HERE / "requirements.txt"
STAND_INS = HERE / "site"

logger = logging.getLogger(__name__)


def main() -> None:
    """Installs what is missing.

    Raises:
        SystemExit: There is no virtual environment, or it holds SGLang's real kernels.
        subprocess.CalledProcessError: pip failed; it has said why.
    """
    if sys.prefix == sys.base_prefix:
        raise SystemExit("run this in a virtual environment: it changes what can be imported")
    if _installed_version("sglang-kernel") is not None:
        raise SystemExit("sglang-kernel is installed: this environment runs SGLang on a GPU and needs no stand-ins")
    for file, flags in ((NO_DEPENDENCIES, ["--no-deps"]), (WITH_DEPENDENCIES, [])):
        if missing := [requirement for requirement in _requirements(file) if not _is_met(requirement)]:
            logger.info("installing %s", ", ".join(map(str, missing)))
            command = [sys.executable, "-m", "pip", "install", "--quiet", *flags, *map(str, _requirements(file))]
            subprocess.run(command, check=True)
    shutil.copytree(
        STAND_INS, sysconfig.get_path("purelib"), dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    logger.info("SGLang %s runs on this machine's CPU", _installed_version("sglang"))


def _requirements(file: Path) -> list[Requirement]:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def _is_met(requirement: Requirement) -> bool:
    installed = _installed_version(requirement.name)
    # A local build such as 2.13.0+cpu meets ==2.13.0.
    return installed is not None and requirement.specifier.contains(installed, prereleases=True)


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
