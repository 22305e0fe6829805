"""What a run leaves behind in its folder."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter  # noqa: F401  # first, or reading events imports TensorFlow's stub twice


def records(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Whole lines of metrics.jsonl, also while the run writes it."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("}\n")]
    return [record for record in parsed if record["kind"] == kind]


def losses(run_dir: Path) -> list[float]:
    return [record["loss"] for record in records(run_dir, "step")]


def hashes(run_dir: Path) -> list[str]:
    return [record["batch"] for record in records(run_dir, "step")]


def exported(run_dir: Path) -> dict[str, Tensor]:
    """The weights of the export, of the whole model or of the adapter."""
    (path,) = (run_dir / "export").glob("*.safetensors")
    return load_file(path)


def gradient_norms(run_dir: Path) -> list[float]:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    return [float(tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors("train/gradient_norm")]
