"""`trivium doctor` and `trivium smoke`.

Owns the command line alone; what runs is imported when it runs.
"""

from __future__ import annotations

import typer

from services.cli import options as opt
from services.cli.doctor import options as own


def doctor(
    address: opt.Address = None,
    slm: own.Slm = None,
    router: own.Router = None,
    llm: own.Llm = None,
    orchestrator: own.Orchestrator = None,
    gateway: own.Gateway = None,
    kube: own.Kube = False,
    namespace: own.Namespace = None,
    release: own.Release = "trivium",
    context: own.KubeContext = None,
    allow_other_slm: opt.AllowOtherSlm = False,
    as_json: opt.Json = False,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Tells what is installed, which services answer, which pair they serve, and what doesn't fit together.

    Example:  trivium doctor --kube --namespace trivium
    """
    if kube:
        from services.cli.doctor.kube_doctor import run_kube_doctor

        return run_kube_doctor(namespace=namespace, release=release, context=context, as_json=as_json)
    from services.cli.doctor.doctor import run_doctor

    given = {"slm": slm, "router": router, "llm": llm, "orchestrator": orchestrator or address, "gateway": gateway}
    run_doctor(
        {name: value for name, value in given.items() if value},
        state_dir=state_dir,
        as_json=as_json,
        allow_other_slm=allow_other_slm,
    )


def smoke(
    address: opt.Address = None,
    prompt: own.SmokePrompt = own.QUESTION,
    max_new_tokens: own.SmokeMaxNewTokens = 256,
    timeout_s: own.ServingTimeout = 60.0,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Streams one answer, and fails unless both models wrote tokens of it, or one whom the rule leaves all to.

    Example:  trivium smoke --address 127.0.0.1:50050
    """
    from services.cli.ask.answer import find_address
    from services.cli.doctor.smoke import run_smoke

    where = find_address(address, state_dir)
    run_smoke(prompt, address=where, max_new_tokens=max_new_tokens, timeout_s=timeout_s)


def add_commands(app: typer.Typer) -> None:
    """Adds this family's commands."""
    for command in (doctor, smoke):
        app.command()(command)
