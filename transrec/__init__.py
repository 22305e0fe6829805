"""TransRec: distributed training of transferable, modality-based recommenders.

    import transrec

    run = transrec.load_run("runs/x")
    run.recommend(["100001", "100002"], top=10)  # records of item_id, title and score, best first
    ids, vectors = run.item_vectors()  # the ids of N items, and their vectors (N, D)
    run.evaluate(split="test", data="other/shards")  # value and interval of each metric

Names are imported on first use because they need PyTorch; `__init__.pyi` declares them for type checkers.
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["Query", "Recommender", "Visit", "__version__", "load_adapters", "load_run", "load_vectors"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    elsewhere = {"load_vectors": "vector_files", "Query": "answers.query", "Visit": "answers.click_scores"}
    module = elsewhere.get(name, "recommender")
    return getattr(importlib.import_module(f"transrec.runs.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
