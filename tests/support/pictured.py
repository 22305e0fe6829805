"""Sets of shards some of whose items have an image, some a text, some both, some neither; and tiny vision models."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tiny_backbones import tiny_model
from transformers import PreTrainedModel

from data_tools.build import build
from data_tools.sources.tables import TablesSource

WORDS = ("red", "blue", "old", "dry", "sweet", "young")

_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "patch_size": 4}
_SMALL_SWIN = {"embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2]}


def vision_model(model_type: str, **changes: Any) -> PreTrainedModel:
    """A random model of the family for images of 16 pixels, in evaluation mode."""
    return tiny_model(model_type, **(_SMALL_SWIN if model_type == "swin" else _SMALL) | changes)


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
