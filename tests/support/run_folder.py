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


def assert_same_weights(run: Path, reference: Path) -> None:
    weights, expected = exported(run), exported(reference)
    assert weights.keys() == expected.keys()
    assert all(tensor.numel() for tensor in weights.values())
    # A softmax pulls items apart that a random encoder has all but in one place, so its gradients are small differences
    # of large terms, and Adam turns the rounding of the smallest into whole updates. So a few single elements may be
    # off by what such updates add up to, all others not.
    differences = {name: (weights[name] - tensor).abs() for name, tensor in expected.items()}
    far = {name: difference > 1e-5 + 1e-4 * expected[name].abs() for name, difference in differences.items()}
    total = sum(tensor.numel() for tensor in expected.values())
    assert sum(int(tensor.sum()) for tensor in far.values()) <= 5e-3 * total, {
        n: int(t.sum()) for n, t in far.items() if t.any()
    }
    assert max(float(difference.max()) for difference in differences.values()) < 1e-3


def gradient_norms(run_dir: Path) -> list[float]:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    return [float(tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors("train/gradient_norm")]
