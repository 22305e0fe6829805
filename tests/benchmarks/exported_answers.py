"""Whether exported vectors and towers answer as `recommend` does: `python tests/benchmarks/exported_answers.py RUN`.

Needs the extras `onnx` and `faiss`, and a run without evidence, which vectors leave out. Counts the histories whose ten
best items are the same, in the same order, among a thousand random histories of 1 to 20 items; and measures the recall
of an HNSW index.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from transrec import load_run
from transrec.runs.answers.query import Query
from transrec.runs.recommender import Recommender
from transrec.runs.vector_export import Wanted, export_vectors
from transrec.runs.vector_files import VectorFolder
from transrec.runs.vector_index import Floats

COUNT, TOP = 1000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = load_run(parser.parse_args().run)
    chosen = random.Random(0)
    histories = [chosen.sample(run.catalogue.item_ids, chosen.randint(1, 20)) for _ in range(COUNT)]
    expected = [[row["item_id"] for row in rows] for rows in run.recommend_many([Query(h, TOP) for h in histories])]
    live = run.user_vectors(histories).numpy()
    with tempfile.TemporaryDirectory() as place:
        flat = exported(run, Path(place) / "flat", Wanted("flat", ("onnx", "torch")))
        hnsw = exported(run, Path(place) / "hnsw", Wanted("hnsw"))
        users = {"live user tower": live, "ONNX": flat.users(histories), "torch.export": by_program(flat, histories)}
        same = {name: agreeing(ids(flat, vectors, histories), expected) for name, vectors in users.items()}
        found = ids(hnsw, live, histories)
    recall = np.mean([len({*one} & {*other}) / TOP for one, other in zip(found, expected, strict=True)])
    print(json.dumps({"items": len(flat.ids), "histories": COUNT, "same, flat index": same, "recall, hnsw": recall}))


def exported(run: Recommender, folder: Path, wanted: Wanted) -> VectorFolder:
    export_vectors(run, folder, wanted)
    return VectorFolder.read(folder)


def by_program(folder: VectorFolder, histories: Sequence[Sequence[str]]) -> Floats:
    """User vectors computed by the program of `torch.export`."""
    items, mask = folder.inputs(histories)
    program = torch.export.load(folder.folder / "user_tower.pt2").module()
    found: Floats = program(torch.from_numpy(items), torch.from_numpy(mask)).detach().numpy()
    return found


def ids(folder: VectorFolder, users: Floats, histories: Sequence[Sequence[str]]) -> list[list[str]]:
    """The best items according to the index of a folder, without those of the history."""
    return [[str(row["item_id"]) for row in rows] for rows in folder.nearest(users, TOP, histories)]


def agreeing(found: list[list[str]], expected: list[list[str]]) -> int:
    return sum(one == other for one, other in zip(found, expected, strict=True))


if __name__ == "__main__":
    main()
