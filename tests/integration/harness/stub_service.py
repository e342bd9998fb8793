"""A process that behaves as a test wants: `python -m tests.integration.harness.stub_service [flags] MODE`."""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["idle", "stubborn", "parent", "fail"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--port-file", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.mode == "fail":
        sys.stderr.write("first line\nthe reason\n")
        sys.exit(3)
    if arguments.mode in ("stubborn", "parent"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.mode == "parent":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        sys.stdout.write(f"{child.pid}\n")
        sys.stdout.flush()
    # Whoever waits for the file must never read half of it.
    unfinished = arguments.port_file.with_suffix(".tmp")
    unfinished.write_text("4242\n")
    unfinished.replace(arguments.port_file)
    time.sleep(60)


if __name__ == "__main__":
    main()
