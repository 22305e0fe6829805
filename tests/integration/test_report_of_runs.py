"""`launch/report.py RUN RUN`: finished runs compared without a sweep."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import ForkedCommands, refused
from sweep_folder import write_run, write_sweep
from tiny_world import ADAPTATIONS, Tiny, build_shards

from transrec.commands.report import main
from transrec.sweeps.side_by_side import compare_runs

USERS = 400


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Full fine-tuning, adapters that are about as good, and a run that is clearly worse."""
    tastes = np.random.default_rng(0).standard_normal(USERS)
    folders = [tmp_path / name for name in ("full", "houlsby", "random")]
    for number, (folder, trained, loss) in enumerate(
        zip(folders, (10_000_000, 500_000, 1_000), (1.5, 1.5, 4.0), strict=True)
    ):
        rng = np.random.default_rng(number + 1)
        noise = 0.4 * tastes + 0.3 * rng.standard_normal(USERS)
        write_run(folder, 10_000, trained, loss + noise, rng)
    return folders


def documented(folders: list[Path], capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    assert main([*map(str, folders), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def error(folders: list[Path], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*map(str, folders)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_values_differences_and_costs_are_printed(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*map(str, runs)]) == 0
    shown = capsys.readouterr().out
    values, differences, costs = re.split(r"\n(?=.*difference with full|.*trained parameters)", shown)
    assert re.search(r"houlsby +│ \d\.\d{4} \[\d\.\d{4}, \d\.\d{4}\] │", values)
    assert re.search(r"random +│ HR@10 +│ -0\.\d{4} \[-0\.\d{4}, -0\.\d{4}\] │ <0\.001 +│ worse", differences)
    assert re.search(r"full +│ 10,000,000 +│ +[\d,.]+ +│ +38\.15 +│ +370", costs)
    assert "Holm" in shown
    assert "one run each" in shown.lower()
    assert not (runs[0] / "report").exists()


def test_the_document_has_the_same_numbers(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = documented(runs, capsys)
    assert [run["run"] for run in found["runs"]] == [str(run) for run in runs]
    summary = json.loads((runs[1] / "summary.json").read_text())
    one = found["runs"][1]
    assert one["test"]["HR@10"] == pytest.approx(summary["test"]["HR@10"])
    low, high = one["test"]["HR@10_interval"]
    assert low < one["test"]["HR@10"] < high
    assert one["costs"] == {
        "trainable_parameters": 500_000,
        "seconds": summary["seconds"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "export_bytes": 2_000_000,
    }
    assert len(found["differences"]) == 2 * 4
    by_name = {(d["run"], d["metric"]): d for d in found["differences"]}
    ours = by_name[str(runs[2]), "NDCG@10"]
    assert ours["difference"] == pytest.approx(
        found["runs"][2]["test"]["NDCG@10"] - found["runs"][0]["test"]["NDCG@10"]
    )
    assert ours["interval"][0] <= ours["difference"] <= ours["interval"][1] < 0
    assert ours["verdict"] == "worse"
    assert ours["p"] <= ours["p_holm"] < 0.001
    assert by_name[str(runs[1]), "NDCG@10"]["p_holm"] > 0.05
    assert by_name[str(runs[2]), "loss"]["verdict"] == "worse"


def test_a_metric_that_cannot_be_compared_is_named(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for folder, more in ((runs[0], ("novelty@10", "sampled_99_HR@10", "HR@5")), (runs[1], ("novelty@10", "ECE@9"))):
        path = folder / "summary.json"
        summary = json.loads(path.read_text())
        for name in more:
            summary["test"] |= {name: 0.5, f"{name}_interval": [0.4, 0.6]}
        path.write_text(json.dumps(summary))
    expected = {
        "novelty@10": "neither direction is better",
        "sampled_99_HR@10": "runs do not store sampled_rank by user",
        "HR@5": "not every run has it",
        "ECE@9": "this version has no such metric",
    }
    assert documented(runs[:2], capsys)["not_compared"] == expected
    assert main([str(folder) for folder in runs[:2]]) == 0
    named = "; ".join(f"{name} ({why})" for name, why in expected.items())
    assert f"\nNot compared: {named}.\n" in capsys.readouterr().out


def test_differences_are_paired_by_user(runs: list[Path]) -> None:
    """Users who are hard for one run are hard for the other, so a difference is surer than the values."""
    found = compare_runs(runs[:2])
    (loss,) = [c for (_, measure), (c, _) in found.differences.items() if measure == "loss"]
    value = found.values["full"]["loss"]
    assert loss.high - loss.low < 0.9 * (value.high - value.low)


def test_the_margin_can_be_chosen(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = documented(runs[:2], capsys, "--margin", "0.9")
    assert {d["verdict"] for d in found["differences"]} == {"equivalent"}


def test_runs_on_different_tests_are_refused(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = runs[1] / "test_users.parquet"
    whole = pq.read_table(path)
    pq.write_table(whole.slice(0, 300), path)
    message = error(runs, capsys)
    assert f"{runs[1]} and {runs[0]} were tested on different users or targets" in message
    pq.write_table(whole, path)
    (runs[2] / "config.yaml").write_text("data: {path: shards/b, candidates: catalogue}\ntrain: {batch_size: 32}\n")
    assert f"{runs[2]} and {runs[0]} rank different items (`data.candidates`)" in error(runs, capsys)


def test_what_is_no_finished_run_is_refused(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    (runs[1] / "test_users.parquet").unlink()
    message = error(runs, capsys)
    assert f"{runs[1]} has no results by user: write them with" in message
    assert f"launch/evaluate.py --run {runs[1]} --save-users" in message
    (runs[2] / "summary.json").unlink()
    assert f"{runs[2]} has no summary.json: name the folder of a finished run" in error([runs[0], runs[2]], capsys)
    assert f"{runs[0]} is named twice" in error([runs[0], runs[0]], capsys)


def test_runs_over_impressions_are_refused(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = runs[1] / "summary.json"
    summary = json.loads(path.read_text())
    summary["data"] = {"users": 10, "impressions": 100, "clicks": 10, "windows": 10}
    summary["test"] = {"AUC": 0.6, "AUC_interval": [0.5, 0.7]}
    path.write_text(json.dumps(summary))
    assert f"{path} is from a test with impressions, which reports cannot compare" in error(runs, capsys)


def test_a_sweep_is_not_compared_with_runs(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "sweep"
    write_sweep(sweep, {"method": ["full", "houlsby"]}, lambda axes: 2.0, users=20)
    assert f"{sweep} is a sweep" in error([runs[0], sweep], capsys)


def test_one_run_has_a_report_of_its_own(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((runs[0] / "summary.json").read_text())
    group = {"questions": 3, "HR@10": 0.25, "HR@10_interval": [0.2, 0.3]}
    summary["samples"] = {"test": {"users": 40, "of": 400}}
    summary["by_popularity"] = {"this run": {"cold": group}, "most_popular": {"cold": group | {"HR@10": math.nan}}}
    (runs[0] / "summary.json").write_text(json.dumps(summary).replace("NaN", "null"))
    assert main([str(runs[0])]) == 0
    assert str(runs[0] / "report/index.html") in capsys.readouterr().out
    text = (runs[0] / "report/report.md").read_text()
    value, (low, high) = summary["test"]["HR@10"], summary["test"]["HR@10_interval"]
    assert f"| this run | {summary['test']['loss']:.4f} [" in text
    assert f"{value:.4f} [{low:.4f}, {high:.4f}]" in text
    assert "| most_popular | – | 0.1000 [0.0500, 0.1500] |" in text
    assert "| HR@10 | cold (3) |" in text
    assert "## Test, of a sample of 40 of 400 users" in text
    assert "| this run | 0.2500 [0.2000, 0.3000] |" in text
    assert "| undefined |" in text
    assert "Calibration" not in text
    assert json.loads((runs[0] / "summary.json").read_text())["test"] == summary["test"]
    assert main([str(runs[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(runs[0] / "report/index.html")}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{", "is missing or unreadable: train the run again"),
        ('{"test": {"AUC": "high"}}', "is damaged (`test.AUC"),
        ('{"test": {"AUC": 0.5}}', "AUC is not a number with an interval): train the run again"),
        (
            '{"test": {}, "by_user": {"this run": {"new": {}}}}',
            "(`by_user.this run.new`: Value error, questions is not",
        ),
        ('{"test": {}, "calibration": {"click": []}}', "is damaged (`calibration.click`"),
    ],
)
def test_a_run_whose_summary_is_damaged_has_no_report(
    runs: list[Path], capsys: pytest.CaptureFixture[str], written: str, message: str
) -> None:
    (runs[0] / "summary.json").write_text(written)
    assert message in error([runs[0]], capsys)


def test_runs_of_one_name_are_told_apart(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "elsewhere/full"
    shutil.copytree(runs[1], other)
    assert main([str(runs[0]), str(other)]) == 0
    assert "elsewhere/full" in capsys.readouterr().out


def test_runs_that_were_trained(tiny: Tiny, commands: ForkedCommands, tmp_path: Path) -> None:
    """Their results by user can be written again by an evaluation, with the same ranks."""
    folders = [tmp_path / method for method in ("full", "houlsby")]
    for folder in folders:
        finished = commands.run(
            "train", "--config", tiny.config, f"run_dir={folder}", ADAPTATIONS[folder.name], "train.steps=4"
        )
        assert finished.code == 0, finished.stderr
    kept = folders[1] / "test_users.parquet"
    before = pq.read_table(kept)
    kept.unlink()
    asked = re.search(r"(evaluate)\.py (.*)`", refused(commands.run("report", *folders)))
    assert asked is not None
    other = build_shards(tmp_path / "other", users=120, items=60, interactions=1500, seed=5)
    message = refused(commands.run(asked[1], *asked[2].split(), "--data", other))
    assert f"{folders[1]} was trained on shards other than {other}, so the run folder" in message
    assert not kept.exists()
    moved = shutil.copytree(tiny.shards, tmp_path / "moved")
    written = commands.run(asked[1], *asked[2].split(), "--data", moved)
    assert written.code == 0, written.stderr
    kept.unlink()
    written = commands.run(asked[1], *asked[2].split())
    assert written.code == 0, written.stderr
    after = pq.read_table(kept)
    assert after.drop(["loss"]).equals(before.drop(["loss"]))
    np.testing.assert_allclose(after["loss"], before["loss"], rtol=1e-4)
    compared = commands.run("report", *folders)
    assert compared.code == 0, compared.stderr
    assert "difference with full" in compared.stdout


def test_results_by_user_are_those_of_the_test_of_the_run(commands: ForkedCommands, tmp_path: Path) -> None:
    for more in (("--split", "valid"), ("--metrics", "HR@5")):
        finished = commands.run("evaluate", "--run", tmp_path, "--save-users", *more)
        assert finished.code == 2
        assert "--save-users" in finished.stderr
