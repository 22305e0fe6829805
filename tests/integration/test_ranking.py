"""A ranking model with all its parts in real runs: on several ranks, after an interruption, in every command."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from commands import Finished, ForkedCommands, json_lines, refused
from run_folder import exported, hashes, losses, records
from sklearn.metrics import roc_auc_score
from tiny_world import Tiny, build_shards

import transrec

Train = Callable[..., Path]
TEXT = {"name": "text", "max_tokens": 16, "chunk_tokens": 200, "dropout": 0.0, "projection": "linear"}


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """Ids, DIN, content interest, similarity and the contrast of content and ids; nothing is random."""
    folder = tmp_path_factory.mktemp("ranking")
    values = {
        "data": {
            "path": str(tiny.shards),
            "workers": 0,
            "cache": str(folder / "cache"),
            "fraction": 0.5,
            "min_interactions": 1,
            "examples": {"name": "impressions", "exposures": {"name": "rated"}},
            "split": {"name": "last_share", "valid": 0.25, "test": 0.25},
        },
        "model": {
            "name": "ranking_model",
            "width": 8,
            "max_length": 6,
            "item_encoder": TEXT | {"backbone": str(tiny.backbone)},
            "features": {"user": {"of": "user_id", "width": 4}, "item": {"of": "item_id", "width": 4}},
            "id_interest": {"name": "din"},
            "content_interest": {"name": "content_interest"},
            "similarity": True,
            "dnn": {"widths": [16], "dropout": 0.0},
            "objective": {"content_id_contrast": {"weight": 0.1}},
        },
        "train": {
            "steps": 8,
            "batch_size": 32,
            "log_every": 1,
            "evaluate_every": 4,
            "checkpoint_every": "never",
            "monitor": "AUC",
            "clipping": 1.0,
        },
        "optimizer": {"lr": {"backbone": 2e-4, "head": 1e-3, "embedding": 2e-3}, "weight_decay": 0.01},
        "evaluation": {"metrics": ["AUC", "GAUC", "UAUC", "AUC_by_request", "log_loss", "ECE"]},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory, config: Path, commands: ForkedCommands) -> Train:
    """Train, unless the session did so before; gives the run folder."""
    done: dict[tuple[object, ...], Path] = {}

    def train(*overrides: str, ranks: int = 1) -> Path:
        key = (overrides, ranks)
        if key not in done:
            run_dir = tmp_path_factory.mktemp("ranked") / "run"
            finished = commands.run("train", "--config", config, f"run_dir={run_dir}", *overrides, ranks=ranks)
            assert finished.code == 0, finished.stderr
            done[key] = run_dir
        return done[key]

    return train


def result_of(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    found: dict[str, Any] = summary["test"]
    return found


def test_every_part_learns_and_is_exported(train: Train) -> None:
    run = train("train.steps=40", "train.evaluate_every=40", "evaluation.baselines=[]")
    weights = exported(run)
    parts = {name.split(".")[0] for name in weights}
    assert parts >= {"features", "item_encoder", "id_interest", "content_interest", "content_id_contrast", "dnn"}
    assert set(records(run, "step")[0]["losses"]) == {"click", "content_id_contrast"}
    assert sum(losses(run)[-10:]) < sum(losses(run)[:10])
    assert json.loads((run / "export" / "features.json").read_text())["vocabularies"].keys() == {"user", "item"}


def test_baselines_lie_beside_it(train: Train) -> None:
    baselines = json.loads((train() / "summary.json").read_text())["baselines"]
    assert baselines.keys() == {"most_popular", "item_rate", "logistic_regression", "text_similarity"}


def groups_of(run_dir: Path) -> dict[str, dict[str, Any]]:
    summary = json.loads((run_dir / "summary.json").read_text())
    return {grouping: summary[grouping] for grouping in ("by_popularity", "by_user")}


def test_known_and_new_users_are_measured_apart(train: Train) -> None:
    """Half of the users train, and all test."""
    run = train()
    columns = pq.read_table(run / "test_users.parquet", columns=["known", "label", "score"])
    known, label, score = (column.to_numpy() for column in columns.columns)
    assert set(known) == {True, False}
    for models in groups_of(run).values():
        assert models.keys() == {"most_popular", "item_rate", "logistic_regression", "text_similarity", "this run"}
        for groups in models.values():
            assert sum(group["questions"] for group in groups.values()) == len(known)
    found = groups_of(run)["by_user"]["this run"]
    for name, mask in (("known", known), ("new", ~known)):
        assert found[name]["questions"] == mask.sum()
        assert found[name]["AUC"] == pytest.approx(roc_auc_score(label[mask], score[mask]), abs=1e-4)


def test_groups_are_the_same_on_two_ranks(train: Train) -> None:
    one, two = (groups_of(train(ranks=ranks)) for ranks in (1, 2))
    assert two.keys() == one.keys()
    for grouping, models in one.items():
        for model, groups in models.items():
            assert two[grouping][model].keys() == groups.keys()
            for name, group in groups.items():
                other = two[grouping][model][name]
                assert other["questions"] == group["questions"]
                if model == "this run":  # which is trained in another order of additions
                    assert other["AUC"] == pytest.approx(group["AUC"], abs=2e-3)
                else:
                    assert other == group


def test_the_bins_of_the_calibration_error_are_kept(train: Train) -> None:
    one, two = (json.loads((train(ranks=ranks) / "summary.json").read_text()) for ranks in (1, 2))
    for summary in (one, two):
        bins = summary["calibration"]["click"]
        total = sum(each["impressions"] for each in bins)
        assert total == sum(group["questions"] for group in summary["by_user"]["this run"].values())
        gap = sum(each["impressions"] * abs(each["predicted"] - each["observed"]) for each in bins) / total
        assert gap == pytest.approx(summary["test"]["ECE"], abs=1e-12)
    for alone, together in zip(*(summary["calibration"]["click"] for summary in (one, two)), strict=True):
        assert together["impressions"] == alone["impressions"]
        assert together["predicted"] == pytest.approx(alone["predicted"], abs=1e-4)


def test_a_report_shows_the_groups_and_the_calibration(train: Train, commands: ForkedCommands) -> None:
    finished = commands.run("report", train())
    assert finished.code == 0, finished.stderr
    page = train() / "report" / "index.html"
    assert str(page) in finished.stdout
    assert (train() / "report" / "calibration.png").exists()
    text = (train() / "report" / "report.md").read_text()
    assert f"click: ECE {result_of(train())['ECE']:.4f}" in page.read_text()
    found = groups_of(train())["by_user"]["this run"]
    assert f"| AUC | known ({found['known']['questions']}) | new ({found['new']['questions']}) |" in text
    assert f"| this run | {found['known']['AUC']:.4f} [" in text


def test_there_are_no_bins_without_the_calibration_error(train: Train, commands: ForkedCommands) -> None:
    run = train("evaluation.metrics=[AUC]", "evaluation.baselines=[]", "train.steps=2")
    assert "calibration" not in json.loads((run / "summary.json").read_text())
    assert commands.run("report", run).code == 0
    assert not (run / "report" / "calibration.png").exists()
    assert "Calibration" not in (run / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("ranks", "overrides"),
    [
        (2, []),
        (2, ["zero.stage=2"]),
        (2, ["zero.stage=3"]),
        (1, ["train.accumulation=4"]),
        (2, ["train.accumulation=2", "data.workers=1"]),
    ],
)
def test_how_a_step_is_cut_changes_nothing(train: Train, ranks: int, overrides: list[str]) -> None:
    one, cut = train(), train(*overrides, ranks=ranks)
    assert hashes(cut) == hashes(one)
    assert losses(cut) == pytest.approx(losses(one), rel=2e-5)
    for name, value in result_of(one).items():
        assert result_of(cut)[name] == pytest.approx(value, abs=2e-3, nan_ok=True), name


def test_a_resumed_run_is_the_uninterrupted_one(
    train: Train, config: Path, commands: ForkedCommands, run_dir: Path
) -> None:
    arguments = ["--config", config, f"run_dir={run_dir}", "train.steps=60"]
    running = commands.start("train", *arguments)
    running.wait_until(lambda: len(records(run_dir, "step")) >= 10)
    running.signal(signal.SIGTERM)
    assert running.wait().code == 143
    finished = commands.run("train", *arguments)
    assert "resuming after step" in finished.stderr
    whole = train("train.steps=60")
    assert losses(run_dir) == losses(whole)
    assert all(tensor.equal(exported(whole)[name]) for name, tensor in exported(run_dir).items())


def test_evaluation_repeats_the_test(train: Train, commands: ForkedCommands) -> None:
    found = transrec.load_run(train()).evaluate("test")
    assert found["AUC"].value == result_of(train())["AUC"]
    printed = commands.run("evaluate", "--run", train())
    assert printed.code == 0, printed.stderr
    assert f"{result_of(train())['AUC']:.4f}" in printed.stdout
    for grouping, of in (("by_popularity", "AUC by target"), ("by_user", "AUC by user")):
        expected = groups_of(train())[grouping]
        rows = printed.stdout.partition(of)[2].splitlines()
        for model, name in (("item_rate", "item_rate"), ("this run", train().name)):
            row = next(line for line in rows if name in line)
            values = [group["AUC"] for group in expected[model].values()]
            assert all(("undefined" if value is None else f"{value:.4f}") in row for value in values)
        assert json.loads(printed.stdout.splitlines()[-1])[grouping] == expected["this run"]


def test_other_data_has_no_groups(train: Train, commands: ForkedCommands, tmp_path: Path) -> None:
    """The model was not trained on it; a copy of the own data is the own data."""
    components = ("model.features={}", "train.steps=2", "evaluation.baselines=[]")
    copy = shutil.copytree(yaml.safe_load((train() / "config.yaml").read_text())["data"]["path"], tmp_path / "copy")
    other = build_shards(tmp_path / "other", users=60, items=40, interactions=900, seed=5)
    for place, there in ((other, False), (copy, True)):
        printed = commands.run("evaluate", "--run", train(*components), "--data", place)
        assert printed.code == 0, printed.stderr
        assert ("AUC by user" in printed.stdout) == there
        assert ("by_user" in json.loads(printed.stdout.splitlines()[-1])) == there


def test_candidates_are_ranked_by_the_probability_of_a_click(train: Train) -> None:
    run = transrec.load_run(train())
    ids = run.catalogue.item_ids
    best = run.recommend(ids[:5], top=4)
    assert not {found["item_id"] for found in best} & set(ids[:5]), "items of the history are left out"
    assert all(0 < found["probability"] < 1 for found in best)
    chosen = run.recommend(ids[:5], candidates=ids[3:9])
    assert {found["item_id"] for found in chosen} == set(ids[3:9]), "candidates are ranked, also those of the history"
    assert run.recommend(ids[:5], candidates=[]) == []
    assert sorted(chosen, key=lambda found: -found["probability"]) == chosen
    assert run.recommend([], top=1), "a user without a history"


def test_frozen_encoders_are_read_from_the_cache(train: Train) -> None:
    frozen = "adaptation.name=frozen_backbone"
    live, kept = train(frozen, "prefix_cache.mode=off"), train(frozen)
    assert losses(kept) == pytest.approx(losses(live), rel=1e-6)
    assert not any(name.startswith("item_encoder.backbone") for name in exported(kept))
    assert transrec.load_run(kept).evaluate("test")["AUC"].value == pytest.approx(result_of(kept)["AUC"], abs=1e-6)


def test_a_second_stage_starts_as_the_first_ended(
    train: Train, config: Path, commands: ForkedCommands, tmp_path: Path
) -> None:
    lora = "adaptation={name: lora, towers: [interest], sites: [interest_key], rank: {item: 2, user: 2, interest: 2}}"
    first, second = train(), tmp_path / "second"
    arguments = [f"init_from={first}", lora, "model.max_length=12", "train.steps=3"]
    finished = commands.run("train", "--config", config, f"run_dir={second}", *arguments)
    assert finished.code == 0, finished.stderr
    assert all("content_interest.key" in name for name in exported(second)), "only the low-rank matrices train"


def test_another_catalogue_needs_ids_of_its_own(
    train: Train, config: Path, commands: ForkedCommands, tmp_path: Path
) -> None:
    other = build_shards(tmp_path / "other", users=60, items=40, interactions=900, seed=5)
    place = [f"data.path={other}", f"init_from={train()}", "train.steps=2"]
    fresh = "init_except=[features.user, features.item]"
    finished = commands.run("train", "--config", config, f"run_dir={tmp_path / 'moved'}", *place, fresh)
    assert finished.code == 0, finished.stderr


def test_components_of_features_are_kept_by_a_run_and_by_those_that_start_from_it(
    train: Train, config: Path, commands: ForkedCommands, tmp_path: Path
) -> None:
    components = ("model.principal_components=true", "adaptation.name=frozen_backbone")
    first, other = train(*components), build_shards(tmp_path / "other", users=60, items=40, interactions=900, seed=5)
    assert transrec.load_run(first).evaluate("test")["AUC"].value == pytest.approx(result_of(first)["AUC"], abs=1e-6)
    place = [f"data.path={other}", f"init_from={first}", "train.steps=2"]
    fresh = "init_except=[features.user, features.item]"
    finished = commands.run("train", "--config", config, f"run_dir={tmp_path / 'moved'}", *components, *place, fresh)
    assert finished.code == 0, finished.stderr
    here, there = (json.loads((run / "export" / "features.json").read_text()) for run in (first, tmp_path / "moved"))
    assert here["axes"]["text"]
    assert here["axes"] == there["axes"]
    assert here["centres"] != there["centres"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.split={name: leave_one_out}", "impressions need the split temporal"),
        ("data.split={name: temporal, valid_from: 2100-01-01, test_from: 2101-01-01}", "no user has a valid target"),
        ("data.examples.exposures={name: shown}", "records no impressions"),
        ("data.examples={name: next_item}", "learns from impressions"),
        ("model.features.age={of: user, column: age}", "no column age"),
        ("model.features.genre={of: item, column: genre}", "no column genre"),
        ("model.item_encoder=null", "needs an item_encoder"),
        ("model.objective.heads=[buy]", "set both to the same list"),
    ],
)
def test_what_does_not_fit_is_refused(
    config: Path, commands: ForkedCommands, run_dir: Path, override: str, message: str
) -> None:
    finished: Finished = commands.run("train", "--config", config, f"run_dir={run_dir}", override)
    assert message in refused(finished)
    assert not run_dir.exists()


def test_a_line_of_histories_may_name_candidates(train: Train, commands: ForkedCommands, tmp_path: Path) -> None:
    run = transrec.load_run(train())
    ids = run.catalogue.item_ids
    users = tmp_path / "users.jsonl"
    lines = [
        {"user": "ann", "history": ids[:3], "candidates": ids[5:8], "time": 1_573_000_000, "context": {"position": 1}},
        {"user": "bob", "history": []},
    ]
    users.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    ann, bob = json_lines(commands.run("recommend", "--run", train(), "--histories", users, "--top", "4"))
    assert ann["recommendations"] == run.recommend(ids[:3], candidates=ids[5:8])
    assert len(bob["recommendations"]) == 4
    users.write_text(json.dumps(lines[0] | {"candidates": "5"}) + "\n", encoding="utf-8")
    assert "must be a list" in refused(commands.run("recommend", "--run", train(), "--histories", users))
