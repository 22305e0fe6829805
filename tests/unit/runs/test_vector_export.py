"""Vectors for other programs: their inner products are the scores of `recommend`, and no file of two exports mixes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from portable_runs import MODELS, random_ids, untrained
from safetensors.numpy import load_file, save_file
from tiny_world import Tiny
from untrained_runs import export_run, make

from transrec import Query, load_run
from transrec.config import ConfigError, validate
from transrec.experiment import Experiment
from transrec.runs.histories import UserHistory
from transrec.runs.recommender import Recommender
from transrec.runs.vector_export import Wanted, export_vectors
from transrec.runs.vector_files import VectorFolder


@pytest.fixture(scope="module", params=MODELS)
def recommender(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Recommender:
    return untrained(tmp_path_factory.mktemp("vectors") / "run", tiny, **MODELS[request.param])


@pytest.fixture(scope="module")
def sasrec(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Recommender:
    return untrained(tmp_path_factory.mktemp("sasrec") / "run", tiny)


def expected(recommender: Recommender, histories: list[list[str]]) -> list[list[str]]:
    return [[row["item_id"] for row in recommender.recommend(history)] for history in histories]


def found(folder: VectorFolder, histories: list[list[str]], users: np.ndarray) -> list[list[str]]:
    return [[str(row["item_id"]) for row in rows] for rows in folder.nearest(users, 10, histories)]


def test_the_nearest_targets_are_what_recommend_recommends(recommender: Recommender, tmp_path: Path) -> None:
    export_vectors(recommender, tmp_path / "out", Wanted())
    folder = VectorFolder.read(tmp_path / "out")
    histories = random_ids(folder.ids, 100)
    assert found(folder, histories, recommender.user_vectors(histories).numpy()) == expected(recommender, histories)


def test_what_cannot_be_searched_for_is_a_sentence(recommender: Recommender, tmp_path: Path) -> None:
    export_vectors(recommender, tmp_path / "out", Wanted())
    folder = VectorFolder.read(tmp_path / "out")
    users = recommender.user_vectors(random_ids(folder.ids, 2)).numpy()
    for top in (0, -3):
        with pytest.raises(ConfigError, match="at least 1 result"):
            folder.nearest(users, top)
    for wrong in (users[0], users[:, :-1]):
        with pytest.raises(ConfigError, match=r"users: expected vectors of shape \(users, \d+\), found shape"):
            folder.nearest(wrong)
    with pytest.raises(ConfigError, match="users: expected finite numbers, found NaN or infinity"):
        folder.nearest(users * np.nan)
    for left_out in ([folder.ids[:1]], "12"):
        with pytest.raises(ConfigError, match="left_out: expected a list of item ids for each of 2 users"):
            folder.nearest(users, 3, left_out)
    with pytest.raises(ConfigError, match="a history must be a list of item ids, found the string"):
        folder.nearest(users, 3, [folder.ids[0], folder.ids[1]])


def test_a_flat_index_finds_the_same(recommender: Recommender, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    export_vectors(recommender, tmp_path / "out", Wanted(index="flat"))
    folder = VectorFolder.read(tmp_path / "out")
    assert folder.manifest.index == "flat"
    histories = random_ids(folder.ids, 100)
    assert found(folder, histories, recommender.user_vectors(histories).numpy()) == expected(recommender, histories)


def test_a_graph_finds_most_of_it(sasrec: Recommender, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    export_vectors(sasrec, tmp_path / "out", Wanted(index="hnsw"))
    folder = VectorFolder.read(tmp_path / "out")
    histories = random_ids(folder.ids, 100)
    pairs = zip(
        found(folder, histories, sasrec.user_vectors(histories).numpy()), expected(sasrec, histories), strict=True
    )
    assert np.mean([len({*one} & {*other}) / 10 for one, other in pairs]) > 0.95


def test_what_the_files_hold(recommender: Recommender, tmp_path: Path) -> None:
    manifest = export_vectors(recommender, tmp_path / "out", Wanted())
    ids, items = recommender.item_vectors()
    table = pq.read_table(tmp_path / "out" / "items.parquet")
    assert table["item_id"].to_pylist() == ids
    assert table["title"].to_pylist() == recommender.catalogue.titles
    targets = np.array(table["vector"].to_pylist(), np.float32)
    assert np.array_equal(targets, recommender.target_vectors().numpy())
    assert targets.shape == (80, manifest.target_width)
    tensors = load_file(tmp_path / "out" / "items.safetensors")
    assert np.array_equal(tensors["items"], items.numpy())
    assert ("targets" in tensors) == (not np.array_equal(targets, items.numpy()))
    assert manifest.items == manifest.encoded_items == 80
    assert manifest.leaves_out == []


def test_users_of_a_file_and_those_without_a_known_item(sasrec: Recommender, tmp_path: Path) -> None:
    users = [
        UserHistory("line 1", "ann", ["item-3", "gone"]),
        UserHistory("line 2", 7, ["item-5"]),
        UserHistory("line 3", "eve", ["gone"]),
        UserHistory("line 4", "\ud800", ["item-5"]),  # no character, and so no text of Parquet
    ]
    manifest = export_vectors(sasrec, tmp_path / "out", Wanted(), users)
    assert manifest.users is not None
    assert manifest.users.model_dump() == {"written": 3, "left_out": 1, "unknown_ids": 2}
    table = pq.read_table(tmp_path / "out" / "users.parquet").to_pydict()
    assert table["user"] == ["ann", "7", '"\\ud800"']
    assert np.allclose(table["vector"], sasrec.user_vectors([["item-3"], ["item-5"], ["item-5"]]))
    with pytest.raises(ConfigError, match="no user of the file has an item of the catalogue"):
        export_vectors(sasrec, tmp_path / "none", Wanted(), users[2:3])
    assert not (tmp_path / "none").exists()
    assert not list(tmp_path.glob(".*"))


def test_only_items_with_new_content_are_encoded_again(tiny: Tiny, tmp_path: Path, build_shards) -> None:
    histories = {f"user-{i}": [1 + (i + step) % 8 for step in (0, 3, 5, 1, 2, 7)] for i in range(12)}
    before, after = build_shards(histories, 8), build_shards(histories, 11)
    export_vectors(untrained(tmp_path / "run", tiny, before), tmp_path / "out", Wanted())
    kept = VectorFolder.read(tmp_path / "out")
    renewed = load_run(tmp_path / "run", catalogue=after)
    manifest = export_vectors(renewed, tmp_path / "out", Wanted(), new_items=True)
    assert (manifest.items, manifest.encoded_items) == (11, 3)
    folder = VectorFolder.read(tmp_path / "out")
    assert folder.ids == [f"item-{i}" for i in range(1, 12)]
    assert np.array_equal(folder.items[:8], kept.items)
    alone = load_run(tmp_path / "run", catalogue=after).item_vectors().vectors.numpy()
    assert np.allclose(folder.items, alone, atol=1e-6)
    again = export_vectors(renewed, tmp_path / "out", Wanted(), new_items=True)
    assert again.encoded_items == 0


def test_vectors_of_another_model_are_not_kept(tiny: Tiny, tmp_path: Path) -> None:
    one, other = (untrained(tmp_path / name, tiny, width=width) for name, width in (("one", 8), ("other", 16)))
    export_vectors(one, tmp_path / "out", Wanted())
    with pytest.raises(ConfigError, match="holds vectors from a different model"):
        export_vectors(other, tmp_path / "out", Wanted(), new_items=True)
    with pytest.raises(ConfigError, match="is not empty"):
        export_vectors(other, tmp_path / "out", Wanted())


def test_an_update_keeps_what_else_the_folder_holds(sasrec: Recommender, tmp_path: Path) -> None:
    users = [UserHistory("line 1", "ann", ["item-3"])]
    before = export_vectors(sasrec, tmp_path / "out", Wanted(towers=["torch"]), users)
    after = export_vectors(sasrec, tmp_path / "out", Wanted(), new_items=True)
    assert (after.users, after.files.keys()) == (before.users, before.files.keys())
    assert after.files["users.parquet"] == before.files["users.parquet"]
    assert VectorFolder.read(tmp_path / "out").manifest == after
    again = export_vectors(sasrec, tmp_path / "out", Wanted(), [*users, *users], new_items=True)
    assert again.users is not None
    assert again.users.written == 2


def test_an_update_keeps_the_index(sasrec: Recommender, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    export_vectors(sasrec, tmp_path / "out", Wanted(index="flat"))
    assert export_vectors(sasrec, tmp_path / "out", Wanted(), new_items=True).index == "flat"
    assert export_vectors(sasrec, tmp_path / "out", Wanted(index="hnsw"), new_items=True).index == "hnsw"
    assert VectorFolder.read(tmp_path / "out").manifest.index == "hnsw"


def test_ids_have_no_vectors_for_new_items(tiny: Tiny, tmp_path: Path) -> None:
    export_run(make(tmp_path / "ids", tiny.shards))
    with pytest.raises(ConfigError, match="embeds item ids, so it has no vectors for new items"):
        export_vectors(load_run(tmp_path / "ids"), tmp_path / "out", Wanted(), new_items=True)


@pytest.mark.parametrize("name", ["items.parquet", "items.safetensors"])
def test_a_file_of_another_export_is_refused(sasrec: Recommender, tiny: Tiny, tmp_path: Path, name: str) -> None:
    other = untrained(tmp_path / "run", tiny, width=16)
    export_vectors(sasrec, tmp_path / "out", Wanted())
    export_vectors(other, tmp_path / "other", Wanted())
    shutil.copy(tmp_path / "other" / name, tmp_path / "out" / name)
    with pytest.raises(ConfigError, match=f"{name} does not belong to the manifest.json beside it"):
        VectorFolder.read(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    with pytest.raises(ConfigError, match=rf"cannot read .*{name} \(No such file"):
        VectorFolder.read(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[]", "has a format"),
        ('{"format": 9}', "has a format"),
        ('{"format": 1}', "is not the"),
    ],
)
def test_a_manifest_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"No such file or directory\): write the folder with"):
        VectorFolder.read(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        VectorFolder.read(tmp_path)


def test_files_outside_of_the_folder_are_refused(sasrec: Recommender, tmp_path: Path) -> None:
    export_vectors(sasrec, tmp_path / "out", Wanted())
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": {"../kept.txt": "0"}}))
    with pytest.raises(ConfigError, match=r"names files outside its folder, such as '\.\./kept"):
        VectorFolder.read(tmp_path / "out")


def test_tensors_of_another_kind_are_refused(sasrec: Recommender, tmp_path: Path) -> None:
    export_vectors(sasrec, tmp_path / "out", Wanted())
    save_file({"users": np.zeros((1, 2), np.float32)}, tmp_path / "out" / "items.safetensors")
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": {}}))
    with pytest.raises(ConfigError, match=r"cannot read the vectors in .*'items'.*: export them again"):
        VectorFolder.read(tmp_path / "out")


def test_evidence_is_left_out_and_named(tiny: Tiny, tmp_path: Path) -> None:
    recommender = untrained(tmp_path / "run", tiny, evidence=[{"name": "co_occurrence"}])
    manifest = export_vectors(recommender, tmp_path / "out", Wanted())
    assert manifest.leaves_out == ["co_occurrence"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["leaves_out"] == ["co_occurrence"]
    folder = VectorFolder.read(tmp_path / "out")
    (history,) = random_ids(folder.ids, 1)
    (near,) = folder.nearest(recommender.user_vectors([history]).numpy(), 80, [history])
    candidates = [str(row["item_id"]) for row in near]
    ranked = recommender.recommend(history, candidates=candidates)
    assert ranked == recommender.recommend(history)


def test_a_task_has_no_vectors_to_search(tmp_path: Path, build_shards) -> None:
    histories = {f"user-{i}": [1 + (i + step) % 8 for step in (0, 3, 5, 1, 2, 7)] for i in range(12)}
    shards = build_shards(
        histories, 8, profiles={user: {"age": age} for user, age in zip(histories, ["young", "old"] * 6, strict=True)}
    )
    values = make(tmp_path / "run", shards).model_dump(mode="json")
    values["model"]["objective"] = {"name": "classification"}
    values["data"]["examples"] = {"name": "task", "targets": {"name": "profile", "column": "age"}}
    values["train"]["monitor"] = values["evaluation"]["metrics"][0]
    export_run(validate(Experiment, values))
    with pytest.raises(ConfigError, match="predicts the targets of a task"):
        export_vectors(load_run(tmp_path / "run"), tmp_path / "out", Wanted())


def differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["item_id"] != other["item_id"])


def tied(scores: list[float], place: int) -> bool:
    """Whether rounding can swap the item at this place with a neighbour, or with the first one that is not listed."""
    neighbours = scores[max(0, place - 1) : place] + scores[place + 1 : place + 2]
    return place == len(scores) - 1 or min(abs(scores[place] - score) for score in neighbours) < 1e-5


def test_many_queries_in_one_pass_have_the_answers_of_each_alone(recommender: Recommender) -> None:
    ids = recommender.catalogue.item_ids
    queries = [
        Query(history, 1 + i % 12, ids[: 20 + i] if i % 3 == 0 else None, exclude=ids[i : 2 * i])
        for i, history in enumerate(random_ids(ids, 30))
    ]
    together, alone = recommender.recommend_many(queries), [recommender.recommend_many([one])[0] for one in queries]
    for found_rows, expected_rows, query in zip(together, alone, queries, strict=True):
        found, expected = ([row["score"] for row in rows] for rows in (found_rows, expected_rows))
        assert found == pytest.approx(expected, abs=5e-6)
        swapped = [place for place, rows in enumerate(zip(found_rows, expected_rows, strict=True)) if differ(*rows)]
        assert all(tied(expected, place) for place in swapped)
        assert len(found_rows) <= query.top
        barred = {*query.exclude} if query.candidates else {*query.exclude, *query.history}
        assert not {row["item_id"] for row in found_rows} & barred
        if query.candidates is not None:
            assert {row["item_id"] for row in found_rows} <= {*query.candidates}
    assert recommender.recommend_many([]) == []


def test_items_are_similar_by_the_cosine_of_their_vectors(sasrec: Recommender) -> None:
    ids, vectors = sasrec.item_vectors()
    cosines = torch.nn.functional.cosine_similarity(vectors.double(), vectors[3:4].double())
    cosines[3] = -1
    rows = sasrec.similar(ids[3], 5)
    best = [str(row["item_id"]) for row in rows]
    assert ids[3] not in best
    assert [row["similarity"] for row in rows] == pytest.approx(cosines.topk(5).values.tolist(), abs=2e-6)
    assert [float(cosines[ids.index(item_id)]) for item_id in best] == pytest.approx(
        cosines.topk(5).values.tolist(), abs=2e-6
    )
    assert best[0] not in {row["item_id"] for row in sasrec.similar(ids[3], 5, exclude=best[:1])}
    title = sasrec.catalogue.title(best[1])
    assert {row["title"] for row in sasrec.similar(ids[3], 5, filters={"title": [title]})} <= {title}
    with pytest.raises(ConfigError, match="the items have no column 'colour': choose from title, text"):
        sasrec.similar(ids[3], 5, filters={"colour": ["red"]})
