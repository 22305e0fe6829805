import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from asked import users_asked
from rated_world import MAX_LENGTH, N_ITEMS, Shown, impressions, ratings

from data_tools.build import build
from data_tools.sources.tables import TablesSource
from transrec.config import ConfigError
from transrec.data.batch import Impressions, Sampling
from transrec.data.content.item_store import ItemStore
from transrec.data.examples import impressions as module
from transrec.data.examples.exposures import RatedConfig
from transrec.data.examples.impressions import Asked, ImpressionExamples
from transrec.data.peers import Alone
from transrec.features.feature import ContextFeature, TimeFeature, UserColumnFeature

Scan = Callable[..., ImpressionExamples]
TEMPORAL = {"name": "temporal", "valid_from": 0.6, "test_from": 0.8}
LAST_SHARE = {"name": "last_share", "valid": 0.2, "test": 0.2}
SPLITS = pytest.mark.parametrize("split", [TEMPORAL, LAST_SHARE], ids=["temporal", "last_share"])
EVERY = impressions(ratings())


def shown_rows(shown: Impressions) -> list[tuple[int, tuple[int, ...]]]:
    """The candidate and the history of each impression, as catalogue indices."""
    candidates, history = shown.items[shown.candidates].tolist(), shown.items[shown.history]
    masked = zip(history.tolist(), shown.history_mask.tolist(), strict=True)
    histories = [tuple(item for item, there in zip(*row, strict=True) if there) for row in masked]
    return list(zip(candidates, histories, strict=True))


Row = tuple[str, int, tuple[int, ...], bool]  # user, item, newest items of the history, whether it was clicked


def training_rows(examples: ImpressionExamples) -> list[Row]:
    collate = examples.collation(ItemStore(examples.folder, {}, Path()), Sampling(), seed=1)
    slots = [examples.example(block, i) for block, count in enumerate(examples.counts) for i in range(count)]
    batch = collate(0, 0, slots)
    pairs = zip(batch.user_ids, shown_rows(batch.shown), batch.labels[:, 0].tolist(), strict=True)
    return [(user, item, history, label == 1) for user, (item, history), label in pairs]


def asked_rows(examples: ImpressionExamples, part: str) -> list[Row]:
    users = iter(users_asked(examples, part))
    return [
        (next(users), item, history, label == 1)
        for asked in examples.questions(part)
        if asked is not None
        for (item, history), label in zip(shown_rows(asked.shown), asked.labels[:, 0].tolist(), strict=True)
    ]


def rows(examples: ImpressionExamples, part: str) -> list[Row]:
    return training_rows(examples) if part == "train" else asked_rows(examples, part)


def row(shown: Shown) -> Row:
    return shown.user, shown.item, shown.liked_before[-MAX_LENGTH:], shown.clicked


# Parts


@SPLITS
def test_every_impression_is_in_one_part_with_the_history_strictly_before_it(scan_impressions: Scan, split) -> None:
    """Users rate several films at one time, and none of them is another's history."""
    examples = scan_impressions(split=split)
    found = {part: Counter(rows(examples, part)) for part in ("train", "valid", "test")}
    assert all(len(part) > 40 for part in found.values())
    assert sum(found.values(), Counter()) == Counter(map(row, EVERY))


def test_a_temporal_split_has_one_moment_for_all(scan_impressions: Scan) -> None:
    examples = scan_impressions(split=TEMPORAL)
    times = sorted(shown.time for shown in EVERY)
    valid_from, test_from = (times[int(q * (len(times) - 1))] for q in (0.6, 0.8))
    assert valid_from < test_from
    for part, (start, stop) in {
        "train": (0, valid_from), "valid": (valid_from, test_from), "test": (test_from, 10**9)
    }.items():  # fmt: skip
        assert Counter(rows(examples, part)) == Counter(row(s) for s in EVERY if start <= s.time < stop), part


def test_the_last_share_of_each_user_is_held_out(scan_impressions: Scan) -> None:
    """A fifth of each user's ratings, rounded down, tests; another fifth validates."""
    examples = scan_impressions(split=LAST_SHARE)
    held_out = {part: Counter(user for user, *_ in rows(examples, part)) for part in ("valid", "test")}
    for user, history in ratings().items():
        assert held_out["test"][user] == held_out["valid"][user] == len(history) // 5
    parts = {part: set(rows(examples, part)) for part in ("train", "valid", "test")}
    for user in ratings():
        times = {part: [s.time for s in EVERY if s.user == user and row(s) in found] for part, found in parts.items()}
        assert (
            max(times["train"], default=0) <= min(times["valid"], default=10**9) <= max(times["valid"], default=10**9)
        )
        assert max(times["valid"], default=0) <= min(times["test"], default=10**9)


def test_sampled_items_are_held_out_with_their_click(scan_impressions: Scan) -> None:
    """A click and the items drawn for it are one request, of which no part is known in training."""
    examples = scan_impressions(exposures={"name": "sampled", "negatives": 3}, split=LAST_SHARE)
    for asked in filter(None, examples.questions("test")):
        for request in asked.requests.unique():
            labels = asked.labels[asked.requests == request, 0]
            assert sorted(labels.tolist()) == [0, 0, 0, 1]
    sizes = Counter(user for user, *_ in asked_rows(examples, "test"))
    assert sizes == {user: 4 * (len(h) // 5) for user, h in ratings().items() if len(h) >= 5}


@pytest.mark.parametrize("exposures", [{"name": "rated"}, {"name": "sampled", "negatives": 2}])
def test_a_fraction_trains_on_the_first_users_and_tests_all(scan_impressions: Scan, exposures) -> None:
    """Blocks hold three users, so 0.25 and 0.5 of forty cut inside a block."""
    everything = scan_impressions(exposures=exposures)
    order = [user for n in range(len(everything.shards)) for user in everything.shards.block(n).user_ids.to_pylist()]
    whole = training_rows(everything)
    for fraction in (0.025, 0.25, 0.5, 1.0):
        some = scan_impressions(exposures=exposures, fraction=fraction)
        first = set(order[: int(40 * fraction)])
        assert training_rows(some) == [r for r in whole if r[0] in first]
        assert asked_rows(some, "test") == asked_rows(everything, "test")
        assert some.popularity.sum() == sum(some.counts) == len(training_rows(some))


def test_users_with_too_few_interactions_are_left_out_altogether(scan_impressions: Scan) -> None:
    """It counts their interactions, liked or not."""
    histories = ratings()
    for least in (6, 12):
        examples = scan_impressions(min_interactions=least)
        found = Counter(r for part in ("train", "valid", "test") for r in rows(examples, part))
        assert found == Counter(row(s) for s in EVERY if len(histories[s.user]) >= least)


def test_popularity_counts_training_impressions(scan_impressions: Scan) -> None:
    examples = scan_impressions()
    assert (
        examples.popularity.tolist()
        == np.bincount([r[1] for r in training_rows(examples)], minlength=N_ITEMS + 1).tolist()
    )


def test_impressions_without_a_label_train_and_test_nothing(scan_impressions: Scan, monkeypatch) -> None:
    read = RatedConfig.read

    def partly(self: RatedConfig, *arguments):
        shown = read(self, *arguments)
        shown.labels[shown.items % 3 == 0] = np.nan
        return shown

    monkeypatch.setattr(RatedConfig, "read", partly)
    examples = scan_impressions()
    found = Counter(r for part in ("train", "valid", "test") for r in rows(examples, part))
    assert found == Counter(row(s) for s in EVERY if s.item % 3)


# Questions


def dealt(examples: ImpressionExamples, part: str, ranks: int) -> Iterator[Asked]:
    """The questions of all ranks, put together as an evaluation does: a turn of each rank after the other."""
    turns = zip(*(examples.questions(part, rank, ranks) for rank in range(ranks)), strict=True)
    return (asked for turn in turns for asked in turn if asked is not None)


@SPLITS
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_questions_are_in_the_order_of_question_users_on_any_ranks(scan_impressions: Scan, split, ranks: int) -> None:
    examples = scan_impressions(split=split)
    order = [user for n in range(len(examples.shards)) for user in examples.shards.block(n).user_ids.to_pylist()]
    numbers = torch.cat([asked.users for asked in dealt(examples, "test", ranks)]).tolist()
    assert [order[number] for number in numbers] == users_asked(examples, "test")


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_out_the_same_questions(scan_impressions: Scan, ranks: int) -> None:
    examples = scan_impressions()
    whole, parts = list(dealt(examples, "test", 1)), list(dealt(examples, "test", ranks))
    for name in ("users", "requests", "items", "labels"):
        assert torch.equal(*(torch.cat([getattr(a, name) for a in every]) for every in (whole, parts)))
    assert [r for a in whole for r in shown_rows(a.shown)] == [r for a in parts for r in shown_rows(a.shown)]


def test_a_request_has_a_number_of_its_own_and_is_of_one_user_and_moment(scan_impressions: Scan) -> None:
    examples = scan_impressions(split=TEMPORAL)
    every = list(dealt(examples, "test", 1))
    requests = torch.cat([a.requests for a in every]).tolist()
    users = users_asked(examples, "test")
    times = [
        s.time
        for u, i in zip(users, torch.cat([a.items for a in every]).tolist(), strict=True)
        for s in EVERY
        if (s.user, s.item) == (u, i)
    ]
    moments = list(zip(users, times, strict=True))
    assert len(set(zip(requests, moments, strict=True))) == len(set(requests)) == len(set(moments))


def test_a_rank_without_questions_has_one_about_nobody(scan_impressions: Scan) -> None:
    nobody = scan_impressions().nobody
    assert len(nobody.shown) == len(nobody.users) == len(nobody.labels) == 1
    assert shown_rows(nobody.shown) == [(1, ())]


# What is said about the data


def test_training_size_counts_what_training_sees(scan_impressions: Scan) -> None:
    examples = scan_impressions(split=TEMPORAL)
    train = training_rows(examples)
    assert examples.training_size() == {
        "users": len({user for user, *_ in train}),
        "impressions": len(train),
        "clicks": sum(clicked for *_, clicked in train),
        "windows": len(train),
    }


def test_remarks_count_known_users_and_items(build_shards, scan_impressions: Scan) -> None:
    """The last two of four moments test: of six impressions, two have a user and three an item of before."""
    histories = {
        "before": [(1, 10, 5), (2, 20, 5)],
        "both": [(3, 10, 5), (3, 40, 1), (4, 40, 1)],
        "after": [(1, 30, 5), (4, 40, 5), (5, 40, 1), (2, 40, 2)],
    }
    path = build_shards(histories, 5)
    examples = scan_impressions(path=path, split={"name": "temporal", "valid_from": 0.375, "test_from": 0.5})
    assert examples._moments == (30, 40)
    assert examples.remarks("test") == [
        "In this test, 40% of the impressions are of a user and 40% of an item seen in training."
    ]


def known_users(examples: ImpressionExamples) -> dict[str, set[bool]]:
    """Whether each tested user is known, as each of the impressions has it."""
    known = [known for asked in examples.questions("test") if asked is not None for known in asked.known.tolist()]
    found: dict[str, set[bool]] = {}
    for user, of_user in zip(users_asked(examples, "test"), known, strict=True):
        found.setdefault(user, set()).add(of_user)
    return found


def test_a_user_is_known_by_the_impressions_that_are_trained_on(scan_impressions: Scan) -> None:
    """Not by those left out by `fraction`, nor by negatives that `keep_negatives` leaves out."""
    for examples in (scan_impressions(fraction=0.5), scan_impressions(keep_negatives=0.1)):
        trained = {row[0] for row in training_rows(examples)}
        found = known_users(examples)
        assert found == {user: {user in trained} for user in found}
        assert {True} in found.values()
        assert {False} in found.values()
        impressions = [user in trained for user in users_asked(examples, "test")]
        share = f"{np.mean(impressions):.0%} of the impressions are of a user"
        assert share in examples.remarks("test")[0]


def test_sampled_items_are_remarked(scan_impressions: Scan) -> None:
    remarks = scan_impressions(exposures={"name": "sampled"}).remarks("test")
    assert "were drawn at random" in remarks[1]


def test_a_part_without_impressions_is_no_cause_for_remarks(build_shards, scan_impressions: Scan) -> None:
    """Two ratings a user: a tenth of them is none."""
    examples = scan_impressions(path=build_shards({"a": [(1, 1, 5), (2, 2, 1)]}, 2))
    assert examples.remarks("test") == []
    assert list(examples.questions("test")) == [None]
    assert users_asked(examples, "test") == []


# Other processes, and errors


def test_examples_in_another_process_are_the_same(scan_impressions: Scan) -> None:
    examples = scan_impressions()
    sent = pickle.loads(pickle.dumps(examples))
    for part in ("train", "valid", "test"):
        assert rows(sent, part) == rows(examples, part)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"split": {"name": "leave_one_out"}}, r"`data\.split`.*temporal.*last_share"),
        ({"min_interactions": 99}, r"left to train on: check data\.min_interactions, data\.split and data\.examples"),
        ({"path": None, "split": TEMPORAL}, r"left to train on"),
        ({"exposures": {"name": "shown"}}, r"`data\.examples\.heads`: .* no impressions.*exposures\.name=rated"),
    ],
)
def test_data_that_cannot_be_used_is_a_readable_error(scan_impressions: Scan, build_shards, data, message: str) -> None:
    """A path of None: interactions without a single rating."""
    if "path" in data:
        data = data | {"path": build_shards({"a": [1, 2, 3]}, 3)}
    with pytest.raises(ConfigError, match=message):
        scan_impressions(**data).check_training()


def test_ratings_have_one_head(rated_shards: Path, tmp_path: Path) -> None:
    values = {"name": "impressions", "exposures": {"name": "rated"}, "heads": ["click", "buy"]}
    config = module.HistoriesConfig(path=rated_shards, cache=tmp_path, split=LAST_SHARE)
    settings = module.ImpressionsConfig(**values)
    with pytest.raises(ConfigError, match=r"`data\.examples\.heads`: .*rated.*click"):
        settings.scan(config, MAX_LENGTH, Alone())


# Recorded impressions


SHOWN = """user_id\titem_id\ttimestamp\tlabel_click\tlabel_buy\trequest_id\tposition
a\ti1\t100\t1\t0\tr1\t1
a\ti2\t100\t0\t\tr1\t2
a\ti3\t200\t0\t0\tr2\t1
a\ti1\t300\t\t1\tr3\t3
b\ti2\t150\t1\t1\tr4\t1
b\ti3\t350\t1\t0\tr5\t2
"""


@pytest.fixture
def shown_shards(tmp_path: Path) -> Path:
    """Two users who clicked i1, i2 and i3 at times 50, 100 and 200, and what they were shown."""
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "items.tsv").write_text("item_id\ttitle\ni1\tOne\ni2\tTwo\ni3\tThree\n")
    rows = "".join(f"{user}\ti{n}\t{time}\n" for user in "ab" for n, time in ((1, 50), (2, 100), (3, 200)))
    (raw / "interactions.tsv").write_text(f"user_id\titem_id\ttimestamp\n{rows}")
    (raw / "impressions.tsv").write_text(SHOWN)
    build(TablesSource(raw), "tables", tmp_path / "shown")
    return tmp_path / "shown"


def test_recorded_impressions_train_and_test_with_all_heads_and_their_context(
    shown_shards: Path, scan_impressions: Scan
) -> None:
    """A head that was not observed trains nothing; an impression tests if its first head was observed."""
    split = {"name": "temporal", "valid_from": 0.65, "test_from": 0.85}  # from 200 and from 300 on
    position = {"position": ContextFeature(column="position")}
    examples = scan_impressions(
        path=shown_shards, exposures={"name": "shown"}, split=split, heads=["buy", "click"], features=position
    )
    assert examples._moments == (200, 300)
    collate = examples.collation(ItemStore(examples.folder, {}, Path()), Sampling(), seed=1)
    batch = collate(0, 0, [examples.example(0, within) for within in range(examples.counts[0])])
    rows = zip(batch.user_ids, shown_rows(batch.shown), strict=True)
    assert sorted(rows) == [("a", (1, (1,))), ("a", (2, (1,))), ("b", (2, (1, 2)))]
    by_user = dict(zip(batch.user_ids, zip(batch.labels.tolist(), batch.observed.tolist(), strict=True), strict=True))
    assert by_user["b"] == ([1, 1], [True, True])
    assert by_user["a"] == ([0, 0], [False, True]), "the second impression of a: buy was not observed"
    assert batch.counts == {"buy": 2, "click": 3}
    assert [v.values for v in examples.features.vocabularies.values()] == [["1", "2"]]
    [asked] = examples.questions("test")
    positions = asked.shown.features["position"].tolist()
    rows = zip(users_asked(examples, "test"), shown_rows(asked.shown), positions, strict=True)
    assert sorted(rows) == [("a", (1, (1, 2, 3)), [0]), ("b", (3, (1, 2, 3)), [2])]
    assert asked.labels.nan_to_num(nan=7).tolist() in ([[1, 7], [0, 1]], [[0, 1], [1, 7]])
    clicks = scan_impressions(path=shown_shards, exposures={"name": "shown"}, split=split, heads=["click", "buy"])
    assert users_asked(clicks, "test") == ["b"], "whether a clicked the last one is not known"


def test_negatives_are_thinned_for_training_alone(scan_impressions: Scan) -> None:
    """The same ones in every epoch; what is counted and evaluated is what was shown."""
    whole, thinned = scan_impressions(), scan_impressions(keep_negatives=0.4)
    rows, kept = training_rows(whole), training_rows(thinned)
    assert set(kept) < set(rows)
    assert {row for row in kept if row[3]} == {row for row in rows if row[3]}
    negatives = [sum(not row[3] for row in found) for found in (kept, rows)]
    assert 0.2 < negatives[0] / negatives[1] < 0.6
    assert training_rows(scan_impressions(keep_negatives=0.4)) == kept
    assert thinned.training_size() == whole.training_size() | {"windows": len(kept)}
    assert (thinned.popularity == whole.popularity).all()
    assert asked_rows(thinned, "test") == asked_rows(whole, "test")


def test_recorded_impressions_are_named_where_there_are_no_ratings(shown_shards: Path, scan_impressions: Scan) -> None:
    examples = scan_impressions(path=shown_shards, exposures={"name": "rated"}, split=TEMPORAL)
    with pytest.raises(
        ConfigError, match=r"recorded impressions: use them with `data\.examples\.exposures=\{name: shown"
    ):
        examples.check_training()


def test_who_only_was_shown_something_takes_part(tmp_path: Path, scan_impressions: Scan, shown_shards: Path) -> None:
    """Those who never clicked are not left out for it."""
    raw = tmp_path / "raw"
    (raw / "impressions.tsv").write_text(SHOWN + "new\ti1\t120\t0\t0\tr9\t1\nnew\ti2\t120\t0\t0\tr9\t2\n")
    build(TablesSource(raw), "tables", tmp_path / "more")
    examples = scan_impressions(path=tmp_path / "more", exposures={"name": "shown"}, split=TEMPORAL)
    assert ("new", 1, (), False) in training_rows(examples)


# Unreadable blocks


def test_an_unreadable_block_leaves_users_and_items_to_the_others(
    rated_shards: Path, tmp_path: Path, scan_impressions: Scan
) -> None:
    """Questions number the users as training does, by which the regression on ids knows them."""
    copy = Path(shutil.copytree(rated_shards, tmp_path / "copy"))
    place = pq.read_table(copy / "user_blocks.parquet").slice(1, 1).to_pylist()[0]
    shard = bytearray((copy / place["shard"]).read_bytes())
    shard[place["offset"] + place["bytes"] // 2] ^= 4
    (copy / place["shard"]).write_bytes(shard)
    features = {"age": UserColumnFeature(column="age", bands=[30]), "hour": TimeFeature(part="hour")}
    examples = scan_impressions(path=copy, on_bad_sample="skip", most_bad_share=0.2, features=features)
    assert list(examples.skipped) == [1]
    whole = scan_impressions()
    gone = set(whole.shards.block(1).user_ids.to_pylist())
    assert asked_rows(examples, "test") == [r for r in asked_rows(whole, "test") if r[0] not in gone]
    trained = [user for users, _ in examples.training() for user in users.user_ids.to_pylist()]
    numbers = torch.cat([asked.users for asked in examples.questions("test") if asked is not None]).tolist()
    assert [trained[number] for number in numbers] == users_asked(examples, "test")
