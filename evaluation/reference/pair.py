"""The pair as one object: both models, their tokenizer, the router and its default threshold."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from router_service.checkpoint import load_checkpoint, load_slm_embedding
from router_service.description import RouterDescription
from router_service.model import Router
from services.common.model_sizes import ModelSizes
from services.rules.chosen import THRESHOLD, ChosenRule
from services.rules.registry import Rules
from services.rules.rule import Evidence

WEIGHTS_DIR = Path(__file__).parent / "weights"
"""Where the shipped pair lives: folders slm, llm and router."""


@dataclass(frozen=True)
class LoadedPair:
    """Everything that routed decoding needs.

    Attributes:
        tokenizer: Shared by both models.
        slm: The small model, float32, in evaluation mode.
        llm: The large model, likewise.
        router: In evaluation mode.
        slm_embedding: f32 [vocab, slm_hidden].
        description: The router's description; holds the default threshold.
    """

    tokenizer: PreTrainedTokenizerFast
    slm: PreTrainedModel
    llm: PreTrainedModel
    router: Router
    slm_embedding: Tensor
    description: RouterDescription

    @property
    def sizes(self) -> ModelSizes:
        """Parameter counts of the three models; tied weights count once."""
        return ModelSizes(count_parameters(self.slm), self.router.num_parameters, count_parameters(self.llm))

    def rule(self, name: str = "router", **parameters: float) -> ChosenRule:
        """An installed rule; where it asks the router, at the router's threshold if no other one is given.

        Raises:
            RuleError: There is no such rule, or a parameter can't be used.
        """
        rule = Rules.installed().named(name)
        asks_router = rule.evidence is Evidence.ROUTER and THRESHOLD in rule.parameters
        known = {THRESHOLD: self.description.threshold} if asks_router else {}
        return ChosenRule.of(rule, known | parameters)


def load_pair(folder: Path = WEIGHTS_DIR) -> LoadedPair:
    """Loads a pair.

    Args:
        folder: Holds slm, llm and router.

    Returns:
        The pair in float32, whatever its dtype on disk.
    """
    checkpoint = load_checkpoint(folder / "router")
    embedding = checkpoint.slm_embedding
    return LoadedPair(
        tokenizer=load_tokenizer(folder / "slm"),
        slm=load_model(folder / "slm"),
        llm=load_model(folder / "llm"),
        router=checkpoint.router,
        slm_embedding=load_slm_embedding(folder / "slm") if embedding is None else embedding,
        description=checkpoint.description,
    )


def load_model(folder: Path) -> PreTrainedModel:
    """Loads one model in float32, in evaluation mode."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Loads the tokenizer that a model folder carries."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def count_parameters(model: torch.nn.Module) -> int:
    """Counts weights; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
