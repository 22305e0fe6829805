"""Forward and backward of the two backbones on one device: milliseconds, share of the peak, memory, by remedy.

    python tests/gpu/encoder_passes.py OUT.json [--tiny]

`--tiny` takes small backbones, to see on a CPU that it runs. The peak is that of the card in bf16 without sparsity.
Times are medians between device events; each remedy is a new encoder of the same seed on the same chunk. The first rows
name the lines at which the host waits for the device in a pass.
"""

import argparse
import contextlib
import itertools
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from transrec.item_encoders.backbone_encoder import BackboneEncoder
from transrec.item_encoders.image import ImageEncoderConfig
from transrec.item_encoders.text import TextEncoderConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PEAK = 989e12  # operations a second, H100 and H200 SXM
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
IMAGE = {"model_type": "vit", "image_size": 224, "patch_size": 16}
TEXT = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512}
AT_ONCE = ("autocast", "bf16 weights", "tf32", "fp32")
REMEDIES = (*AT_ONCE, "bf16 weights, compiled", "autocast, compiled")


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], BackboneEncoder]
    chunk: Callable[[], dict[str, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = list(all_cases(Path(folder), arguments.tiny))
        asked = (cases[0], cases[-1]) if DEVICE == "cuda" else ()
        rows = [{"case": case.name, "host waits at": host_waits(case)} for case in asked]
        for remedy in AT_ONCE if arguments.tiny else REMEDIES:
            for case in cases:
                rows.append(measured(case, remedy, 2 if arguments.tiny else 12))
                arguments.out.write_text(json.dumps(rows, indent=1))  # also where a time limit ends this


def all_cases(folder: Path, tiny: bool) -> Iterator[Case]:
    def backbone(values: dict[str, Any]) -> str:
        path = folder / values["model_type"]
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(values | (SMALL if tiny else BASE)))
        return str(path)

    image = ImageEncoderConfig(backbone=backbone(IMAGE), pretrained=False, dropout=0.0)
    text = TextEncoderConfig(backbone=backbone(TEXT), pretrained=False, max_tokens=30)
    few = 16 if tiny else 1
    for length, items in ((30, 546), (12, 546), (256, 64), (12, 20)):
        yield Case(
            f"BERT-base, {items} texts of {length} tokens", lambda: text.build(64, 10), texts(items // few, length)
        )
    for items in (64, 8):
        yield Case(f"ViT-B/16, {items} images", lambda: image.build(64, 10), images(items // min(few, 4)))


def images(count: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8, device=DEVICE)}


def texts(count: int, length: int, padded: float = 0.1) -> Callable[[], dict[str, Tensor]]:
    def chunk() -> dict[str, Tensor]:
        mask = torch.ones(count, length, dtype=torch.int64, device=DEVICE)
        mask[:, length - max(1, int(padded * length)) :] = 0
        return {"input_ids": torch.randint(5, 30000, (count, length), device=DEVICE), "attention_mask": mask}

    return chunk


def measured(case: Case, remedy: str, repeats: int) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.name, "remedy": remedy}
    try:
        seconds, memory = passes(case, remedy, repeats)
        achieved = count(case) / seconds
        row |= {"ms": 1e3 * seconds, "tflops": achieved / 1e12, "mfu": achieved / PEAK, "peak_gib": memory / 2**30}
    except Exception as error:  # a remedy that does not run is a finding too
        row["error"] = f"{type(error).__name__}: {str(error)[:200]}"
    print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}), flush=True)
    return row


def count(case: Case) -> int:
    encoder = case.build().to(DEVICE).train()
    with FlopCounterMode(display=False) as counter:
        encoder.encode(case.chunk()).sum().backward()
    return int(counter.get_total_flops())


def passes(case: Case, remedy: str, repeats: int) -> tuple[float, int]:
    """Median seconds of a pass, and the device's peak memory."""
    torch.manual_seed(0)
    encoder = case.build().to(DEVICE).train()
    if remedy.startswith("bf16"):
        encoder = encoder.bfloat16()
    torch.backends.cuda.matmul.allow_tf32 = remedy == "tf32"
    chunk = case.chunk()
    encode = torch.compile(encoder.encode, dynamic=False) if "compiled" in remedy else encoder.encode
    autocast = torch.autocast(DEVICE, torch.bfloat16) if remedy.startswith("autocast") else contextlib.nullcontext()

    def once() -> None:
        encoder.zero_grad(set_to_none=True)
        with autocast:
            vectors = encode(chunk)
        vectors.float().sum().backward()

    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(once, repeats)
    return seconds, torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0


def timed(once: Callable[[], None], repeats: int) -> float:
    for _ in range(3):
        once()
    if DEVICE == "cpu":
        began = time.perf_counter()
        for _ in range(repeats):
            once()
        return (time.perf_counter() - began) / repeats
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        once()
        mark.record()
    torch.cuda.synchronize()
    return sorted(a.elapsed_time(b) for a, b in itertools.pairwise(marks))[repeats // 2] / 1e3


def host_waits(case: Case) -> list[str]:
    """The lines that made the host wait in a pass."""
    encoder, chunk = case.build().to(DEVICE).train(), case.chunk()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder.encode(chunk)
    torch.cuda.set_sync_debug_mode("default")
    places = sorted({f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)})
    print(json.dumps({"case": case.name, "host waits at": places}), flush=True)
    return places


if __name__ == "__main__":
    main()
