"""Made labelled datasets and models, small enough to train on in a second, written in the true formats."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from evaluation.reference.pair import WEIGHTS_DIR
from router_service.description import ModelIdentity
from router_service.training.dataset import METADATA_KEY, dataset_schema
from router_service.training.recipe import RouterRecipe, RouterSizes, RouterTraining
from router_service.training.routing_data import RoutingData
from services.common.text.tokenizer import load_tokenizer, tokenizer_sha256
from services.common.weights import digest_weights

HIDDEN, LOGITS, VOCAB = 6, 5, 704
RECIPE = RouterRecipe(
    name="made",
    description="For tests.",
    sizes=RouterSizes(num_top_logits=LOGITS, projection_size=4, hidden_size=8, num_blocks=1),
    training=RouterTraining(learning_rate=5e-3, batch_size=64, max_epochs=4, warmup_steps=5),
)
EMBEDDING = torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(9))


def made_data(rows: int, seed: int) -> RoutingData:
    """Rows whose label the first column of the hidden state tells: above 8 divergent, above 7 at least neutral."""
    generator = torch.Generator().manual_seed(seed)
    hidden_state = torch.randn(rows, HIDDEN, generator=generator) * 3 + 5
    top_logits = torch.randn(rows, LOGITS, generator=generator).sort(descending=True).values * 20
    token_ids = torch.randint(0, 11, (rows,), generator=generator)
    labels = (hidden_state[:, 0] > 7).to(torch.int8) + (hidden_state[:, 0] > 8).to(torch.int8)
    return RoutingData(hidden_state, top_logits, token_ids, labels)


def made_models(folder: Path) -> tuple[Path, Path]:
    """A small and a large model's folders: a real tokenizer, and no more weights than are read."""
    for role, width in (("slm", HIDDEN), ("llm", 16)):
        (folder / role).mkdir(parents=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(WEIGHTS_DIR / "slm" / name, folder / role)
        (folder / role / "config.json").write_text(json.dumps({"vocab_size": VOCAB, "hidden_size": width}))
        embedding = EMBEDDING if role == "slm" else torch.zeros(VOCAB, width)
        save_file({"model.embed_tokens.weight": embedding}, folder / role / "model.safetensors")
    return folder / "slm", folder / "llm"


def identify_model(model_dir: Path, model_id: str) -> ModelIdentity:
    config = json.loads((model_dir / "config.json").read_text())
    return ModelIdentity(
        model_id=model_id,
        revision=digest_weights(model_dir),
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        tokenizer_sha256=tokenizer_sha256(load_tokenizer(str(model_dir))),
    )


def made_identities(slm_dir: Path, llm_dir: Path) -> dict[str, ModelIdentity]:
    return {"slm": identify_model(slm_dir, "made-slm"), "llm": identify_model(llm_dir, "made-llm")}


def made_table(data: RoutingData, identities: dict[str, ModelIdentity], **columns: Any) -> pa.Table:
    """Rows as the labelling road writes them; a column given by name replaces its own."""
    rows = len(data)
    values = {
        "query_id": [f"q{row // 10}" for row in range(rows)],
        "domain": [("math", "code")[row // 10 % 2] for row in range(rows)],
        "position": pa.array([row % 10 for row in range(rows)], pa.int32()),
        "slm_token_id": pa.array(data.token_ids.numpy(), pa.int32()),
        "llm_token_id": pa.array(data.token_ids.numpy(), pa.int32()),
        "label": pa.array(data.labels.numpy()),
        "hidden_state": as_lists(data.hidden_state),
        "top_logits": as_lists(data.top_logits),
    } | columns
    metadata = {METADATA_KEY: json.dumps({role: dataclasses.asdict(model) for role, model in identities.items()})}
    table = pa.table(values)
    if not columns:
        table = table.cast(dataset_schema(data.hidden_state.size(1), data.top_logits.size(1)))
    return table.replace_schema_metadata(metadata)


def as_lists(values: torch.Tensor) -> pa.Array:
    flat = pa.array(values.numpy().astype(np.float16).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.size(1))


def write_dataset(folder: Path, table: pa.Table, num_shards: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-table.num_rows // num_shards)
    for index in range(num_shards):
        path = folder / f"part-{index:05}-of-{num_shards:05}.parquet"
        pq.write_table(table.slice(index * size, size), path, compression="zstd", row_group_size=37)
    return folder
