"""`trivium up` and `trivium router`.

Owns the command line alone; what runs is imported when it runs.
"""

from __future__ import annotations

import typer

from services.cli import options as opt
from services.cli.pair import options as own

router_app = typer.Typer(name="router", help="Changes the router of the pair that runs here.", no_args_is_help=True)


def up(
    pair: opt.PairName = "reference",
    redis_url: opt.RedisUrl = None,
    port: own.Port = opt.DEFAULT_PORT,
    http_port: own.HttpPort = opt.DEFAULT_HTTP_PORT,
    engine: opt.EngineName = None,
    router_checkpoint: own.RouterCheckpoint = None,
    allow_other_slm: opt.AllowOtherSlm = False,
    rule: own.Rule = None,
    start_timeout_s: opt.StartTimeout = 600.0,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Runs the services of a pair as local processes, and starts those that end again. Ctrl-C stops them.

    Ctrl-C twice doesn't wait for answers that run.
    """
    from services.cli.pair.local_pair import LocalOptions
    from services.cli.pair.up import chosen_pair, run_up

    run_up(
        LocalOptions(
            pair=chosen_pair(
                pair, engine and engine.value, router_checkpoint, allow_other_slm=allow_other_slm, rule=rule
            ),
            state_dir=state_dir,
            port=port,
            http_port=http_port,
            redis_url=redis_url,
            start_timeout_s=start_timeout_s,
        )
    )


@router_app.command()
def swap(
    checkpoint: own.NewRouter,
    timeout_s: own.SwapTimeout = 60.0,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Serves new requests with another router, while those that run keep the one that they began with.

    It has to be trained with the same SLM. One that can't be served changes nothing, and is told of. On a cluster,
    the same happens when the directory of a router's checkpoint holds another one.

    Example:  trivium router swap checkpoints/newer
    """
    from services.cli.pair.swap import run_swap

    run_swap(checkpoint, state_dir=state_dir, timeout_s=timeout_s)


def add_commands(app: typer.Typer) -> None:
    """Adds this family's commands."""
    app.add_typer(router_app)
    app.command()(up)
