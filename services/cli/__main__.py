"""The `trivium` command: its subcommands and their options.

Owns the command line alone. Each command's work is imported when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from services.cli import options as opt
from services.cli.calibrate_command import calibrate
from services.cli.errors import CliError
from services.cli.evaluate_command import evaluate_app
from services.cli.label_command import label_app
from services.cli.smoke_command import smoke
from services.cli.submit_command import PASS_ON, submit
from services.cli.train_command import train

app = typer.Typer(
    name="trivium",
    help="Serves a small and a large language model as one: a router decides, token by token, who writes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def up(
    pair: opt.PairName = "reference",
    redis_url: opt.RedisUrl = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The orchestrator's; 0 picks one.")
    ] = opt.DEFAULT_PORT,
    engine: opt.EngineName = None,
    router_checkpoint: opt.RouterCheckpoint = None,
    start_timeout_s: opt.StartTimeout = 600.0,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Starts the services of a pair as local processes. Ctrl-C stops them."""
    from services.cli.local_pair import LocalOptions
    from services.cli.up import chosen_pair, run_up

    run_up(
        LocalOptions(
            pair=chosen_pair(pair, engine and engine.value, router_checkpoint),
            state_dir=state_dir,
            port=port,
            redis_url=redis_url,
            start_timeout_s=start_timeout_s,
        )
    )


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The question; `-` reads it from stdin.")],
    address: opt.Address = None,
    max_new_tokens: opt.MaxNewTokens = None,
    threshold: opt.Threshold = None,
    target_llm_usage: opt.TargetLlmUsage = None,
    target_avg_params_b: opt.TargetAvgParams = None,
    stop: opt.Stop = None,
    temperature: opt.Temperature = 0.0,
    top_k: opt.TopK = 0,
    top_p: opt.TopP = 1.0,
    seed: opt.Seed = 0,
    llm_loss_policy: opt.LlmLoss = opt.LossPolicy.WAIT,
    raw: Annotated[bool, typer.Option("--raw", help="Sends the prompt as it is, without the chat template.")] = False,
    as_json: opt.Json = False,
    start: Annotated[
        bool, typer.Option("--start", help="Runs the reference pair for this answer if none runs.")
    ] = False,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Answers one question. The LLM's tokens have another colour."""
    from services.cli.client import Limits, sampling
    from services.cli.generate import run_generate

    drawn = sampling(temperature, top_k, top_p, seed)
    asked = Limits(
        max_new_tokens, threshold, stop or (), drawn, target_llm_usage, target_avg_params_b, llm_loss_policy
    )
    text = sys.stdin.read() if prompt == "-" else prompt
    run_generate(text, asked, address=address, state_dir=state_dir, raw=raw, as_json=as_json, start=start)


@app.command()
def chat(
    address: opt.Address = None,
    max_new_tokens: opt.MaxNewTokens = None,
    threshold: opt.Threshold = None,
    target_llm_usage: opt.TargetLlmUsage = None,
    target_avg_params_b: opt.TargetAvgParams = None,
    temperature: opt.Temperature = 0.0,
    top_k: opt.TopK = 0,
    top_p: opt.TopP = 1.0,
    seed: opt.Seed = 0,
    llm_loss_policy: opt.LlmLoss = opt.LossPolicy.WAIT,
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Holds a conversation. /reset forgets it, /quit ends it, Ctrl-C stops an answer."""
    from services.cli.chat import run_chat
    from services.cli.client import Limits, sampling

    drawn = sampling(temperature, top_k, top_p, seed)
    asked = Limits(max_new_tokens, threshold, (), drawn, target_llm_usage, target_avg_params_b, llm_loss_policy)
    run_chat(asked, address=address, state_dir=state_dir, system=system)


@app.command()
def demo(
    engine: opt.EngineName = None,
    redis_url: opt.RedisUrl = None,
    start_timeout_s: opt.StartTimeout = 600.0,
) -> None:
    """Runs the reference pair, asks it one question of each domain, and stops it."""
    from services.cli.demo import run_demo

    run_demo(engine=engine and engine.value, redis_url=redis_url, start_timeout_s=start_timeout_s)


@app.command()
def doctor(
    address: opt.Address = None,
    slm: Annotated[str | None, typer.Option("--slm", metavar="HOST:PORT", help="The slm service.")] = None,
    router: Annotated[str | None, typer.Option("--router", metavar="HOST:PORT", help="The router service.")] = None,
    llm: Annotated[str | None, typer.Option("--llm", metavar="HOST:PORT", help="The llm service.")] = None,
    orchestrator: Annotated[
        str | None, typer.Option("--orchestrator", metavar="HOST:PORT", help="The same as --address.")
    ] = None,
    kube: Annotated[
        bool, typer.Option("--kube", help="Examines a Helm release on the cluster of KUBECONFIG instead.")
    ] = False,
    namespace: Annotated[
        str | None, typer.Option("--namespace", help="--kube: the release's; the context's without it.")
    ] = None,
    release: Annotated[str, typer.Option("--release", help="--kube: the release's name.")] = "trivium",
    context: Annotated[str | None, typer.Option("--context", help="--kube: a context of KUBECONFIG.")] = None,
    as_json: opt.Json = False,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Tells what is installed, which services answer, which pair they serve, and what doesn't fit together.

    Example:  trivium doctor --kube --namespace trivium
    """
    if kube:
        from services.cli.kube_doctor import run_kube_doctor

        return run_kube_doctor(namespace=namespace, release=release, context=context, as_json=as_json)
    from services.cli.doctor import run_doctor

    given = {"slm": slm, "router": router, "llm": llm, "orchestrator": orchestrator or address}
    run_doctor({name: value for name, value in given.items() if value}, state_dir=state_dir, as_json=as_json)


@app.command()
def bench(
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Turns of every setting.")] = 5,
    depth: Annotated[int, typer.Option("--depth", min=1, max=64, help="Run-ahead depth to compare with 0.")] = 12,
    json_path: Annotated[Path | None, typer.Option("--json", help="File for all values.")] = None,
    start_timeout_s: opt.StartTimeout = 600.0,
) -> None:
    """Measures tokens/s of the reference pair's services against the same models in one process."""
    from services.cli.bench import run_bench

    run_bench(repetitions=repetitions, depth=depth, json_path=json_path, start_timeout_s=start_timeout_s)


app.command()(smoke)
app.command()(train)
app.command()(calibrate)
label_app.command(context_settings=PASS_ON)(submit)
app.add_typer(label_app)
app.add_typer(evaluate_app)


EXTRAS = {
    **dict.fromkeys(("torch", "safetensors"), "engines"),
    **dict.fromkeys(("pyarrow", "fsspec", "nltk", "httpx", "matplotlib", "math_verify", "datasets"), "learning"),
    "kubernetes": "kubernetes",
}
"""The extra that brings a package, by the package's import name."""


def main() -> None:
    """Runs the command line of this process."""
    try:
        app()
    except CliError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        typer.echo(f"error: this command needs {package!r}: pip install 'trivium[{EXTRAS[package]}]'", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
