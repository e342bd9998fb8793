"""Runs a solution inside the sandbox: `main.py` there. Not imported by anything.

`plan.json` names the entry: none, and the solution reads stdin and writes stdout as a program; or a function, and its
arguments come as JSON, and its return value goes as JSON to stdout, whatever the solution prints itself.
"""

import importlib
import json
import os
import sys
from pathlib import Path

# Contest solutions are written against an editor that has these names already, those of later modules going first.
_MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
_RECURSION_LIMIT = 50_000


def main() -> None:
    """Runs the plan that lies beside this file."""
    plan = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    source = Path("solution.py").read_text(encoding="utf-8")
    sys.setrecursionlimit(_RECURSION_LIMIT)
    sys.set_int_max_str_digits(0)
    results = os.dup(1)
    names: dict[str, object] = {}
    for name in _MODULES:
        exec(f"from {name} import *", names)
    names |= {name: importlib.import_module(name) for name in _MODULES}
    function = plan["function"]
    if function is not None:
        # What the solution prints is no result.
        os.dup2(2, 1)
    names["__name__"] = "solution" if function else "__main__"
    exec(compile(source, "solution.py", "exec"), names)
    if function is None:
        return
    solution = names.get("Solution")
    called = getattr(solution(), function) if isinstance(solution, type) else names[function]
    value = called(*map(json.loads, plan["arguments"]))  # type: ignore[operator]
    os.write(results, json.dumps(value).encode())


if __name__ == "__main__":
    main()
