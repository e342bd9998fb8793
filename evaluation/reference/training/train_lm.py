"""Train one of the pair's models: `python -m evaluation.reference.training.train_lm --role llm --minutes 60`.

Muon moves the matrices of the layers and AdamW the rest; the loss counts the response alone; the learning rate holds,
then falls linearly to zero. A checkpoint is written every few minutes and a run that finds one goes on from it. A run
can be bounded by wall-clock minutes: the schedule then follows the larger of the two shares, of steps and of minutes.
"""

import argparse
import copy
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from evaluation.reference.training.architecture import Role, build_model
from evaluation.reference.training.muon import Muon
from evaluation.reference.training.token_store import IGNORED, TokenStore
from services.common.progress import progress_bar

logger = logging.getLogger(__name__)

DECAY_SHARE = 0.6
"""Share of the run, at its end, over which the learning rate falls to zero."""
WARMUP_STEPS = 50
_LOG_EVERY = 50


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run computes.

    Attributes:
        role: Which model is trained.
        num_steps: Optimizer steps of the whole run.
        minutes: Wall-clock bound of this process; the schedule ends with it when it comes first. None: no bound.
        batch_size: Conversations in a step.
        matrix_lr: Peak learning rate of Muon.
        other_lr: Peak learning rate of AdamW.
        seed: Seed of weights and batch order.
        checkpoint_s: Seconds between checkpoints.
    """

    role: Role
    num_steps: int
    minutes: float | None = None
    batch_size: int = 24
    matrix_lr: float = 0.015
    other_lr: float = 2.5e-3
    seed: int = 1
    checkpoint_s: float = 180.0


def learning_rate_scale(progress: float, step: int) -> float:
    """Factor on the peak learning rate: a short warm-up, a plateau, a linear fall over the last `DECAY_SHARE`.

    Args:
        progress: Share of the run that is done, in [0, 1].
        step: Steps done.

    Returns:
        A factor in [0, 1].
    """
    return min(1.0, (step + 1) / WARMUP_STEPS, max(0.0, 1.0 - progress) / DECAY_SHARE)


class Trainer:
    """One training run: model, optimizers, place in the schedule, and its checkpoint file."""

    def __init__(self, config: TrainConfig, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
        """Builds an untrained model, or goes on from the checkpoint in `folder`.

        Args:
            config: What to compute.
            tokenizer: The pair's tokenizer.
            folder: Where the checkpoint and, at the end, the Hugging Face model folder live.
        """
        torch.manual_seed(config.seed)
        self.config = config
        self.tokenizer = tokenizer
        self.folder = folder
        self.model = build_model(config.role, tokenizer.pad_token_id, tokenizer.eos_token_id)
        self.step = 0
        self.elapsed_s = 0.0
        matrices = [p for p in self.model.model.layers.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if id(p) not in chosen]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=config.matrix_lr, weight_decay=0.01),
            torch.optim.AdamW(others, lr=config.other_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self._peaks = [config.matrix_lr, config.other_lr]
        self._checkpoint = folder / "checkpoint.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        if self._checkpoint.exists():
            self._resume()

    @property
    def progress(self) -> float:
        """Share of the run that is done, by steps or by minutes, whichever is further."""
        by_steps = self.step / self.config.num_steps
        minutes = self.config.minutes
        return max(by_steps, self.elapsed_s / (60 * minutes)) if minutes else by_steps

    def run(self, store: TokenStore) -> None:
        """Trains to the end of the schedule, then saves the model folder.

        Args:
            store: The training range.
        """
        batches = store.batches(self.config.batch_size, self.tokenizer.pad_token_id, self.config.seed + self.step)
        saved_s = self.elapsed_s
        with progress_bar() as bar:
            task = bar.add_task(f"train {self.config.role}, %", total=100, completed=int(100 * self.progress))
            while self.progress < 1.0:
                began = time.monotonic()
                loss = self._train_step(*next(batches))
                self.elapsed_s += time.monotonic() - began
                bar.update(task, completed=int(100 * self.progress))
                if self.step % _LOG_EVERY == 0:
                    logger.info("%s step %d of %d, loss %.4f, %.0f s", self.config.role, self.step,
                                self.config.num_steps, loss, self.elapsed_s)  # fmt: skip
                if self.elapsed_s - saved_s > self.config.checkpoint_s:
                    self._save_checkpoint()
                    saved_s = self.elapsed_s
        self._save_checkpoint()
        save_model(self.model, self.tokenizer, self.folder)

    def _train_step(self, token_ids: Tensor, labels: Tensor) -> float:
        scale = learning_rate_scale(self.progress, self.step)
        for optimizer, peak in zip(self.optimizers, self._peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
        counted = labels != IGNORED
        with torch.autocast("cpu", torch.bfloat16):
            hidden_state = self.model.model(input_ids=token_ids, use_cache=False).last_hidden_state
            logits = self.model.lm_head(hidden_state[counted])
        loss = functional.cross_entropy(logits.float(), labels[counted])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def _save_checkpoint(self) -> None:
        # Parameters, not the state dict: tied weights are one tensor.
        tensors = {f"model/{name}": value.detach() for name, value in self.model.named_parameters()}
        for which, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors.update({f"optimizer/{which}/{index}/{name}": value for name, value in state.items()})
        partial = self._checkpoint.with_suffix(".partial")
        save_file(tensors, partial, {"step": str(self.step), "elapsed_s": str(self.elapsed_s)})
        partial.replace(self._checkpoint)

    @torch.no_grad()
    def _resume(self) -> None:
        with safe_open(self._checkpoint, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            progress = file.metadata()
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
        for which, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                kind, *place = name.split("/")
                if kind == "optimizer" and place[0] == str(which):
                    state.setdefault(int(place[1]), {})[place[2]] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        self.step, self.elapsed_s = int(progress["step"]), float(progress["elapsed_s"])
        logger.info("%s goes on from step %d", self.config.role, self.step)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes a Hugging Face folder with bfloat16 weights; `model` itself stays as it is.

    Args:
        model: The model, in float32.
        tokenizer: The pair's tokenizer.
        folder: Where to write.
    """
    rounded = copy.deepcopy(model)
    torch.nn.Module.to(rounded, torch.bfloat16)
    rounded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=get_args(Role), required=True, help="which model to train")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="wall-clock bound; the schedule ends with it")
    parser.add_argument("--batch-size", type=int, default=24, help="conversations in a step (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/reference-pair"), help="folder of the build")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Trains one model from the command line."""
    args = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out / "tokenizer")
    config = TrainConfig(args.role, args.steps, args.minutes, args.batch_size)
    Trainer(config, tokenizer, args.out / args.role).run(TokenStore.load(args.out / "tokens.npz"))


if __name__ == "__main__":
    main()
