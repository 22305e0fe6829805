"""Sets of shards some of whose items have an image, some a text, some both, some neither; and tiny vision models."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, PreTrainedModel

from data_tools.build import build
from data_tools.sources.tables import TablesSource

WORDS = ("red", "blue", "old", "dry", "sweet", "young")

TINY_VISION: dict[str, dict[str, Any]] = {
    model_type: {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 16,
        "patch_size": 4,
    }
    for model_type in ("vit", "vit_mae", "dinov2")
} | {
    "swin": {"embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 16, "patch_size": 4}
}


def vision_model(model_type: str, **changes: Any) -> PreTrainedModel:
    """A random model of the family, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **TINY_VISION[model_type] | changes)
        pooler = {} if model_type in ("vit_mae", "dinov2") else {"add_pooling_layer": False}
        return AutoModel.from_config(config, **pooler).eval()


def build_pictured(
    folder: Path,
    n_items: int,
    pictured: Collection[int],
    described: Collection[int],
    histories: Sequence[Sequence[int]] = ((1, 2, 3),),
) -> Path:
    """Shards of items 1..n: those of `pictured` with an image of one colour, of `described` with a `blurb`."""
    raw = folder / "raw"
    (raw / "images").mkdir(parents=True)
    rows = ["item_id\ttitle\tblurb\timage"]
    for item in range(1, n_items + 1):
        image = f"{item}.jpg" if item in pictured else ""
        if image:
            Image.new("RGB", (30, 20), colour(item)).save(raw / "images" / image, quality=95)
        blurb = " ".join(WORDS[(item + k) % len(WORDS)] for k in range(item % 4 + 1)) if item in described else ""
        rows.append(f"item-{item}\tTitle {item}\t{blurb}\t{image}")
    (raw / "items.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    clicks = [
        f"user-{user}\titem-{item}\t{10 * place}"
        for user, history in enumerate(histories)
        for place, item in enumerate(history)
    ]
    (raw / "interactions.tsv").write_text("\n".join(["user_id\titem_id\ttimestamp", *clicks]) + "\n", encoding="utf-8")
    build(TablesSource(raw), "tables", folder / "shards")
    return folder / "shards"


def colour(item: int) -> tuple[int, int, int]:
    return 5 * item % 256, 255 - 3 * item % 256, 128


def random_histories(users: int, n_items: int, seed: int = 0) -> list[list[int]]:
    """Users who mostly take the next item, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(1, n_items + 1, users)
    return [
        [int((start + k * rng.integers(1, 3)) % n_items) + 1 for k in range(rng.integers(5, 9))] for start in starts
    ]
