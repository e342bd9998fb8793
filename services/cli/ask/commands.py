"""`trivium generate`, `trivium chat` and `trivium demo`.

Owns the command line alone; what runs is imported when it runs.
"""

from __future__ import annotations

import typer

from services.cli import options as opt
from services.cli.ask import options as own


def generate(
    prompt: own.Prompt,
    address: opt.Address = None,
    max_new_tokens: opt.MaxNewTokens = None,
    rule: opt.RoutingRule = None,
    threshold: opt.Threshold = None,
    target_llm_usage: own.TargetLlmUsage = None,
    target_avg_params_b: own.TargetAvgParams = None,
    stop: own.Stop = None,
    temperature: own.Temperature = 0.0,
    top_k: own.TopK = 0,
    top_p: own.TopP = 1.0,
    seed: own.Seed = None,
    llm_loss_policy: own.LlmLoss = own.LossPolicy.WAIT,
    timeout_s: own.Timeout = own.DEFAULT_TIMEOUT_S,
    raw: own.Raw = False,
    as_json: opt.Json = False,
    start: own.Start = False,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Answers one question. The LLM's tokens have another colour."""
    from services.cli.ask.generate import prompt_of, run_generate
    from services.client import LossPolicy, Sampling

    asked = own.asked(
        max_new_tokens=max_new_tokens,
        rule=rule,
        threshold=threshold,
        target_llm_usage=target_llm_usage,
        target_avg_params_b=target_avg_params_b,
        stop=stop or (),
        sampling=Sampling(temperature, top_k, top_p, seed),
        llm_loss_policy=LossPolicy[llm_loss_policy.name],
    )
    run_generate(
        prompt_of(prompt),
        asked,
        address=address,
        state_dir=state_dir,
        raw=raw,
        as_json=as_json,
        start=start,
        timeout_s=timeout_s,
    )


def chat(
    address: opt.Address = None,
    max_new_tokens: opt.MaxNewTokens = None,
    rule: opt.RoutingRule = None,
    threshold: opt.Threshold = None,
    target_llm_usage: own.TargetLlmUsage = None,
    target_avg_params_b: own.TargetAvgParams = None,
    temperature: own.Temperature = 0.0,
    top_k: own.TopK = 0,
    top_p: own.TopP = 1.0,
    seed: own.Seed = None,
    llm_loss_policy: own.LlmLoss = own.LossPolicy.WAIT,
    timeout_s: own.Timeout = own.DEFAULT_TIMEOUT_S,
    system: own.System = None,
    state_dir: opt.StateDir = opt.DEFAULT_STATE_DIR,
) -> None:
    """Holds a conversation. /reset forgets it, /quit ends it, Ctrl-C stops an answer."""
    from services.cli.ask.chat import run_chat
    from services.client import LossPolicy, Sampling

    asked = own.asked(
        max_new_tokens=max_new_tokens,
        rule=rule,
        threshold=threshold,
        target_llm_usage=target_llm_usage,
        target_avg_params_b=target_avg_params_b,
        sampling=Sampling(temperature, top_k, top_p, seed),
        llm_loss_policy=LossPolicy[llm_loss_policy.name],
    )
    run_chat(asked, address=address, state_dir=state_dir, system=system, timeout_s=timeout_s)


def demo(
    engine: opt.EngineName = None,
    redis_url: opt.RedisUrl = None,
    start_timeout_s: opt.StartTimeout = 600.0,
) -> None:
    """Runs the reference pair, asks it one question of each domain, and stops it."""
    from services.cli.ask.demo import run_demo

    run_demo(engine=engine and engine.value, redis_url=redis_url, start_timeout_s=start_timeout_s)


def add_commands(app: typer.Typer) -> None:
    """Adds this family's commands."""
    for command in (generate, chat, demo):
        app.command()(command)
