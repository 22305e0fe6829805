"""Measures the cost and throughput of a served run: `python tests/benchmarks/serving.py RUN [--requests 4000]`.

Prints JSON: users/s in batches of 64, as a multiple of users/s one by one, and the share of equal answers; over HTTP,
the statuses of many requests, with reloads among them, and the sizes of batches; and, for the vectors without evidence,
the share of the 10 best items that a flat index and a graph find.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from served import served

from transrec import load_run
from transrec.runs.answers.query import Query
from transrec.runs.recommender import Recommender
from transrec.runs.vector_export import Wanted, export_vectors
from transrec.runs.vector_files import VectorFolder

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--requests", type=int, default=4000)
    arguments = parser.parse_args()
    recommender = load_run(arguments.run)
    chosen = random.Random(0)
    ids = recommender.catalogue.item_ids
    histories = [chosen.sample(ids, chosen.randint(1, 20)) for _ in range(1000)]
    print(json.dumps(batches(recommender, histories)))
    print(json.dumps(requests(recommender, histories, arguments.requests)))
    for index in ("flat", "hnsw"):
        print(json.dumps(indexes(recommender, histories, index)))


def batches(recommender: Recommender, histories: list[list[str]]) -> dict[str, Any]:
    queries = [Query(history) for history in histories]
    recommender.recommend_many(queries[:BATCH])
    seconds, found = {}, {}
    for size in (1, BATCH, 1, BATCH):  # in turn, as other work may slow the machine
        started = time.perf_counter()
        found[size] = [
            row for i in range(0, len(queries), size) for row in recommender.recommend_many(queries[i : i + size])
        ]
        seconds[size] = seconds.get(size, 0.0) + time.perf_counter() - started
    equal = sum(one == other for one, other in zip(ids_of(found[1]), ids_of(found[BATCH]), strict=True))
    return {
        "users": len(queries),
        "users_per_second_batched_by_single": round(seconds[1] / seconds[BATCH], 2),
        "equal_top_10": equal / len(queries),
    }


def requests(recommender: Recommender, histories: list[list[str]], count: int) -> dict[str, Any]:
    """`count` requests by 16 clients, with reloads while they run."""
    with served([recommender]) as client, ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(client.post, "/recommend", history=histories[i % len(histories)]) for i in range(count)]
        reloads = Counter(client.post("/reload")[0] for _ in range(3))
        found = [one.result() for one in asked]
        lines = [line.split() for line in client.http.get("/metrics").text.splitlines() if "batch_size_" in line]
        figures = {line[0]: float(line[1]) for line in lines if len(line) == 2}
    expected = ids_of(recommender.recommend_many([Query(history) for history in histories]))
    same = sum(
        [row["item_id"] for row in answer["recommendations"]] == expected[i % len(histories)]
        for i, (_, answer) in enumerate(found)
    )
    return {
        "requests": count,
        "statuses": Counter(status for status, _ in found),
        "reloads": reloads,
        "equal_top_10": same / count,
        "queries_per_batch": round(figures["transrec_batch_size_sum"] / figures["transrec_batch_size_count"], 2),
    }


def indexes(recommender: Recommender, histories: list[list[str]], index: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        export_vectors(recommender, Path(folder) / "out", Wanted(index=index))
        vectors = VectorFolder.read(Path(folder) / "out")
        users = recommender.user_vectors(histories).numpy()
        near = ids_of(vectors.nearest(users, 10, histories))
        best = ids_of(recommender.recommend_many([Query(history) for history in histories]))
        candidates = ids_of(vectors.nearest(users, 200, histories))
    found = sum(len({*one} & {*other}) for one, other in zip(near, best, strict=True))
    reached = sum(len({*one} & {*other}) for one, other in zip(candidates, best, strict=True))
    return {
        "index": index,
        "leaves_out": vectors.manifest.leaves_out,
        "identical_top_10": sum(map(list.__eq__, near, best)) / len(histories),
        "share_of_the_10_best_among_10": round(found / (10 * len(histories)), 4),
        "share_of_the_10_best_among_200": round(reached / (10 * len(histories)), 4),
    }


def ids_of(answers: list[list[dict[str, Any]]]) -> list[list[str]]:
    return [[str(row["item_id"]) for row in rows] for rows in answers]


if __name__ == "__main__":
    main()
