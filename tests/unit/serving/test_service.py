"""The routes: what they answer is what `recommend` answers, and what they refuse is a sentence."""

import json
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("fastapi_offline")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from pictured import build_pictured, random_histories
from portable_runs import random_ids, untrained
from served import Client, served
from tiny_world import Tiny
from untrained_runs import HOULSBY, export_run, make

from transrec import load_adapters, load_run
from transrec.config import validate
from transrec.data.shards.shard_folder import ShardFolder
from transrec.experiment import Experiment
from transrec.runs.recommender import Recommender


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Recommender:
    return untrained(tmp_path_factory.mktemp("serving") / "run", tiny)


@pytest.fixture(scope="module")
def client(run: Recommender) -> Iterator[Client]:
    with served([run], most_results=20, most_body_bytes=20_000) as client:
        yield client


def test_it_recommends_what_recommend_does(client: Client, run: Recommender) -> None:
    for history in random_ids(run.catalogue.item_ids, 30):
        status, found = client.post("/recommend", history=history, k=7)
        assert status == 200
        assert (found["channel"], found["generation"], found["unknown"]) == ("run", 1, [])
        expected = [row | {"picture": False} for row in run.recommend(history, 7)]
        assert found["recommendations"] == expected


def test_many_at_once_have_the_answers_of_each_alone(client: Client, run: Recommender) -> None:
    histories = random_ids(run.catalogue.item_ids, 120)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda history: client.post("/recommend", history=history)[1], histories))
    for answer, history in zip(found, histories, strict=True):
        assert [row["item_id"] for row in answer["recommendations"]] == [
            row["item_id"] for row in run.recommend(history)
        ]
    figures = client.http.get("/metrics").text
    assert 'transrec_requests_total{path="/recommend",status="200"}' in figures
    counted = {
        line.split()[0]: float(line.split()[1]) for line in figures.splitlines() if line.startswith("transrec_b")
    }
    assert counted["transrec_batch_size_count"] < counted["transrec_batch_size_sum"]  # some were answered together


def test_unknown_items_are_left_out_and_listed_or_refused(client: Client, run: Recommender) -> None:
    status, found = client.post("/recommend", history=["item-3", "gone", 17])
    assert (status, found["unknown"]) == (200, ["gone", "17"])
    assert [row["item_id"] for row in found["recommendations"]] == [row["item_id"] for row in run.recommend(["item-3"])]
    assert found["note"] is None
    for history, note in ((["gone"], "no item of the history is in the catalogue"), ([], "the history is empty")):
        _, found = client.post("/recommend", history=history)
        assert (found["recommendations"], found["note"]) == ([], note)
    _, found = client.post("/recommend", history=["item-3"], candidates=["lost"])
    assert (found["recommendations"], found["note"]) == ([], "no candidate is in the catalogue")
    _, found = client.post("/recommend", history=["item-3", "gone"], candidates=["item-5", "lost"])
    assert (found["unknown"], [row["item_id"] for row in found["recommendations"]]) == (["gone", "lost"], ["item-5"])
    status, found = client.post("/recommend", history=["gone"], unknown="error")
    assert status == 422
    assert "history: unknown item ids: gone; the catalogue has ids such as" in found["detail"]


def test_what_may_be_recommended_can_be_narrowed(client: Client, run: Recommender) -> None:
    every = [row["item_id"] for row in run.recommend(["item-3"], 80)]
    _, found = client.post("/recommend", history=["item-3"], exclude=[every[0], "gone"])
    assert [row["item_id"] for row in found["recommendations"]] == every[1:11]
    _, found = client.post("/recommend", history=["item-3"], candidates=every[40:45][::-1])
    assert [row["item_id"] for row in found["recommendations"]] == every[40:45]
    (topics,) = [one["columns"] for one in client.get("/channels")[1]]
    assert topics == ["title", "text", "topic"]
    topic = run.catalogue._values["topic"][0]
    _, found = client.post("/recommend", history=["item-3"], filters={"topic": [topic]}, k=20)
    allowed = run.catalogue.where({"topic": [topic]})
    expected = [item_id for item_id in every if allowed[run.catalogue.index_of[item_id]]][:20]
    assert [row["item_id"] for row in found["recommendations"]] == expected
    assert 0 < len(expected) < 79
    _, found = client.post("/recommend", history=["item-3"], filters={"topic": ["none", "nil"]})
    assert (found["recommendations"], found["note"]) == ([], "no item has topic none or nil")
    _, found = client.post("/recommend", history=["item-3"], candidates=["item-5"], exclude=["item-5"])
    assert (found["recommendations"], found["note"]) == ([], "candidates, filters and exclusions leave no item")


def test_items_of_the_history_are_recommended_if_asked_or_named(client: Client, run: Recommender) -> None:
    history = ["item-3", "item-17"]
    _, found = client.post("/recommend", history=history, candidates=["item-5", *history], repeats=False)
    assert [row["item_id"] for row in found["recommendations"]] == [
        row["item_id"] for row in run.recommend(history, candidates=["item-5", *history])
    ]
    assert len(found["recommendations"]) == 3
    _, found = client.post("/recommend", history=history, k=20, repeats=True)
    expected = [row | {"picture": False} for row in run.recommend(history, 20, repeats=True)]
    assert found["recommendations"] == expected


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/recommend", {}, "history: Field required"),
        ("/recommend", {"history": "item-3"}, "history: Input should be a valid list"),
        ("/recommend", {"history": [1.5]}, "history.0"),
        ("/recommend", {"history": [True]}, "history.0"),
        ("/recommend", {"history": ["item-3"], "k": 0}, "k: Input should be greater than or equal to 1"),
        ("/recommend", {"history": ["item-3"], "k": 21}, "k 21: ask for at most 20 results"),
        ("/recommend", {"history": ["item-3"], "channel": "x"}, "there is no channel 'x'; the channels are: run"),
        (
            "/recommend",
            {"history": ["item-3"], "candidates": ["gone"], "unknown": "error"},
            "candidates: unknown item ids: gone",
        ),
        ("/recommend", {"history": ["item-3"], "filters": {"colour": ["red"]}}, "the items have no column 'colour'"),
        (
            "/recommend",
            {"history": ["item-3"], "top": 5},
            "top: unknown key; the keys are history, channel, k, exclude, candidates, repeats, filters, unknown, u",
        ),
        (
            "/recommend",
            {"history": ["item-3"], "filter": {}},
            "filter: unknown key; did you mean filters? The keys are h",
        ),
        (
            "/similar",
            {"item_id": "item-3", "top": 5},
            "top: unknown key; the keys are item_id, channel, k, exclude, filt",
        ),
        ("/recommend", {"history": ["x" * 1001]}, "history.0"),
        ("/similar", {"item_id": "gone"}, "unknown item ids: gone"),
        ("/similar", {"item_id": "item-3", "filters": {"colour": ["red"]}}, "the items have no column 'colour'"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_with_a_sentence(
    client: Client, path: str, body: dict, message: str
) -> None:
    status, found = client.post(path, **body)
    assert status == 422
    assert message in found["detail"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"history": ["\\ud800"]}', b'{"\\ud800": 1}', b"\xff", b"9" * 5000])
def test_a_body_that_is_no_request_is_refused(client: Client, body: bytes) -> None:
    answer = client.http.post("/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"detail"}


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (
            b'{"history": ["item-3"]}',
            {},
            "the body was not read as JSON: send the header Content-Type: application/json",
        ),
        (b"[]", {"Content-Type": "application/json"}, "the body: expected a JSON object, such as {…}"),
        (b'{"history": ', {"Content-Type": "application/json"}, "the body is not JSON: Expecting value (character 1"),
    ],
)
def test_a_body_that_is_no_json_is_refused_with_a_sentence(
    client: Client, body: bytes, headers: dict[str, str], message: str
) -> None:
    answer = client.http.post("/recommend", content=body, headers=headers)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_one_bad_query_spoils_no_other_in_its_batch(client: Client, run: Recommender) -> None:
    bodies = [{"history": ["item-3"]}, {"history": ["item-3"], "filters": {"colour": ["red"]}}] * 20
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda body: client.post("/recommend", **body)[0], bodies))
    assert found == [200, 422] * 20


def test_similar_items_and_found_ones(client: Client, run: Recommender) -> None:
    _, found = client.post("/similar", item_id="item-3", k=4, exclude=["item-5"])
    assert found["similar"] == [row | {"picture": False} for row in run.similar("item-3", 4, ["item-5"])]
    title = run.catalogue.title("item-7")
    assert client.get("/items", text=title.upper())[1][0] == {"item_id": "item-7", "title": title, "picture": False}
    assert client.get("/items", text="item-7")[1][0]["item_id"] == "item-7"
    assert client.get("/items", text=" ")[1] == []
    assert client.get("/items", text="a", k=3)[1] == client.get("/items", text="a", k=50)[1][:3]
    assert client.get("/items", text="a", k=51)[0] == 422


def test_a_full_queue_turns_requests_away(run: Recommender) -> None:
    with served([run], most_waiting=1, most_at_once=1) as client:
        with ThreadPoolExecutor(24) as pool:
            codes = list(pool.map(lambda _: client.post("/recommend", history=["item-3"])[0], range(200)))
        assert set(codes) == {200, 503}
        assert client.post("/recommend", history=["item-3"])[0] == 200


def test_adapters_are_channels_and_requests_name_one(tmp_path: Path, tiny: Tiny) -> None:
    text = {"name": "text", "backbone": str(tiny.backbone), "max_tokens": 16}
    export_run(make(tmp_path / "source", tiny.shards, text))
    for seed, name in enumerate(("films", "books")):
        values = make(tmp_path / name, tiny.shards, text).model_dump(mode="json")
        values |= {"init_from": str(tmp_path / "source"), "seed": seed, "adaptation": HOULSBY}
        export_run(validate(Experiment, values), moved=0.1 * (1 + seed))
    adapters = load_adapters([tmp_path / "films", tmp_path / "books"])
    with served(adapters) as client:
        assert [one["name"] for one in client.get("/channels")[1]] == ["films", "books"]
        histories = random_ids(adapters[0].catalogue.item_ids, 40)
        asked = [(one.name, history) for history in histories for one in adapters]
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda pair: client.post("/recommend", channel=pair[0], history=pair[1])[1], asked))
        alone = {name: load_run(tmp_path / name) for name in ("films", "books")}
        for (name, history), answer in zip(asked, found, strict=True):
            expected = [row["item_id"] for row in alone[name].recommend(history)]
            assert [row["item_id"] for row in answer["recommendations"]] == expected
        assert found[0] != found[1]
        status, refusal = client.post("/recommend", history=["item-3"])
        assert (status, refusal["detail"]) == (422, "name a `channel`; the channels are: films, books")


def test_pictures_come_from_the_shards(tmp_path: Path) -> None:
    shards = build_pictured(tmp_path, 12, range(1, 7), range(1, 13), random_histories(20, 12))
    export_run(make(tmp_path / "run", shards))
    with served([load_run(tmp_path / "run")]) as client:
        ids = client.service.generation.channel(None).recommender.catalogue.item_ids
        with_picture, without = (next(i for i in ids if (int(i[5:]) <= 6) is here) for here in (True, False))
        answer = client.http.get("/picture", params={"item_id": with_picture})
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.content.startswith(b"\xff\xd8")
        assert client.get("/picture", item_id=without)[0] == 404
        assert client.get("/picture", item_id="../index.json")[0] == 404
        _, found = client.post("/recommend", history=[ids[3]], k=11)
        assert {row["picture"] for row in found["recommendations"]} == {True, False}


def test_a_reload_encodes_what_is_new_and_changes_nothing_else(
    tmp_path: Path, tiny: Tiny, build_shards, caplog: pytest.LogCaptureFixture
) -> None:
    histories = {f"user-{i}": [1 + (i + step) % 8 for step in (0, 3, 5, 1, 2, 7)] for i in range(12)}
    before, after = build_shards(histories, 8), build_shards(histories, 11)
    untrained(tmp_path / "run", tiny, before)
    place = tmp_path / "current"
    place.symlink_to(before)
    with served([load_run(tmp_path / "run", catalogue=place)]) as client:
        assert client.post("/reload") == (200, {"generation": 1, "changed": False, "items": 8})
        renew(place, after)
        assert client.post("/recommend", history=["item-9"])[1]["unknown"] == ["item-9"]
        assert client.post("/reload") == (200, {"generation": 2, "changed": True, "items": 11})
        assert client.service.generation.channel(None).recommender.encoded == 3
        _, found = client.post("/recommend", history=["item-9"])
        assert (found["generation"], found["unknown"], len(found["recommendations"])) == (2, [], 10)
        alone = load_run(tmp_path / "run", catalogue=after).recommend(["item-9"])
        assert [row["item_id"] for row in found["recommendations"]] == [row["item_id"] for row in alone]
        renew(place, tmp_path / "gone")
        status, refusal = client.post("/reload")
        assert status == 409
        assert "the old catalogue remains in use: " in refusal["detail"]
        assert client.post("/recommend", history=["item-9"])[0] == 200
        assert 'transrec_reloads_total{result="failed"} 1.0' in client.http.get("/metrics").text
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("transrec.serving")]
    assert messages[:2] == ["generation 1 of the catalogue has 8 items", "generation 2 of the catalogue has 11 items"]
    assert messages[2].startswith("the old catalogue remains in use: ")


def renew(place: Path, target: Path) -> None:
    new = place.with_name("new")
    new.symlink_to(target)
    new.rename(place)


def test_a_run_that_was_trained_further_is_not_mixed_with_its_old_vectors(tmp_path: Path, tiny: Tiny) -> None:
    shutil.copytree(tiny.shards, tmp_path / "shards")
    recommender = untrained(tmp_path / "run", tiny, tmp_path / "shards")
    with served([recommender]) as client:
        description = tmp_path / "run" / "export" / "config.json"
        values = json.loads(description.read_text())
        description.write_text(json.dumps(values | {"seed": 5}))
        status, refusal = client.post("/reload")
        assert status == 409
        assert "was trained further after the service started" in refusal["detail"]


def test_requests_get_through_while_the_catalogue_is_read_again(tmp_path: Path, tiny: Tiny, build_shards) -> None:
    histories = {f"user-{i}": [1 + (i + step) % 8 for step in (0, 3, 5, 1, 2, 7)] for i in range(12)}
    sets = [build_shards(histories, 8), build_shards(histories, 11)]
    untrained(tmp_path / "run", tiny, sets[0])
    place = tmp_path / "current"
    place.symlink_to(sets[0])
    assert ShardFolder(sets[0]).index_sha256 != ShardFolder(sets[1]).index_sha256
    with served([load_run(tmp_path / "run", catalogue=place)]) as client, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(client.post, "/recommend", history=[f"item-{1 + i % 8}"]) for i in range(600)]
        for turn in range(4):
            renew(place, sets[(turn + 1) % 2])
            assert client.post("/reload")[0] == 200
        found = [one.result() for one in asked]
    assert {status for status, _ in found} == {200}
    assert all(len(answer["recommendations"]) >= 7 for _, answer in found)


def test_two_channels_of_one_name_are_refused(run: Recommender) -> None:
    with pytest.raises(Exception, match="two channels are named run"), served([run, run]):
        pass


def test_a_connection_sends_small_answers_at_once() -> None:
    """Else an answer takes 40 ms more, until the client has acknowledged its first part."""
    from transrec.serving.server import listening
    from transrec.serving.settings import Settings

    with listening(Settings(port=0)) as listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
