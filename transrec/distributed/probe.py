"""Prints the devices and communication backends that PyTorch has on this machine, as JSON for `transrec doctor`."""

import json
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed

_PATIENCE = timedelta(seconds=20)


def main() -> None:
    """Print one line of JSON."""
    devices = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    backends = ["gloo", *(["nccl"] if devices else [])]
    print(
        json.dumps(
            {
                "version": torch.__version__,
                "built_for": f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU",
                "devices": [{"name": device.name, "bytes": device.total_memory} for device in devices],
                "gpu_here": shutil.which("nvidia-smi") is not None,
                "backends": {backend: fault(backend) for backend in backends},
            }
        )
    )


def fault(backend: str) -> str:
    """The reason why a process cannot exchange tensors with a backend; "" if it can."""
    with tempfile.TemporaryDirectory() as folder:
        store = torch.distributed.FileStore(str(Path(folder) / "store"), 1)
        try:
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1, timeout=_PATIENCE)
            tensor = torch.ones(1, device="cuda" if backend == "nccl" else "cpu")
            torch.distributed.all_reduce(tensor)
            return "" if tensor.item() == 1 else "a sum was wrong"
        except Exception as error:  # of any kind that a backend raises
            return " ".join(str(error).split())[:300] or type(error).__name__
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
