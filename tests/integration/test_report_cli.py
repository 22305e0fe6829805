"""`launch/report.py` on sweeps of small invented runs."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import ForkedCommands
from PIL import Image
from sweep_folder import write_sweep
from tiny_world import ADAPTATIONS, Tiny

from transrec.commands.report import main
from transrec.sweeps.records import Record, read, write

FRACTIONS = [0.01, 0.03, 0.1, 0.3, 1.0]
AXES = {"source_fraction": FRACTIONS, "method": ["full", "houlsby"], "seed": [0, 1, 2]}


def loss(axes: Any) -> float:
    """Houlsby is ahead up to a source of 100,000 interactions."""
    size = axes["source_fraction"] * 1e6
    return 1.5 + 30 * size**-0.3 + (0.6 if axes["method"] == "houlsby" else 0.6 * (size / 1e5) ** -0.25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of 30 trials failed."""
    folder = tmp_path_factory.mktemp("sweeps") / "invented"
    records = write_sweep(folder, AXES, loss)
    records[7] = Record(**(vars(records[7]) | {"status": "failed", "error": "out of memory at <step> 3"}))
    write(folder, records)
    return folder


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *words, sep=" ", file=None: lines.append(sep.join(map(str, words))))
        assert main([str(folder)]) == 0
    return "\n".join(lines)


def test_the_first_lines_say_what_was_found_and_what_not(folder: Path, printed: str) -> None:
    text = (folder / "report/report.md").read_text()
    found, unsaid = re.split(r"\n## Open questions\n", text.split("\n## Findings\n")[1])[:2]
    assert re.search(r"full: loss falls with interactions of pretraining as E \+ A·D\^-α with α = 0\.\d\d \[", found)
    assert "houlsby against full, NDCG@10" in found + unsaid
    assert re.search(r"at the largest sizes [^;]*, p \(Holm\) (<?0\.\d{3}|1\.000)\.", found + unsaid)
    assert re.search(r"- HR@10 agrees with NDCG@10 in (all|\d of) 5 comparisons of method", found)
    assert "MRR" not in found + unsaid
    assert "Of 30 trials, 1 failed: these are left out of all numbers here." in unsaid
    assert "Found\n  " in printed
    assert f"{folder}/report/index.html" in printed


def test_failed_trials_are_listed(folder: Path, printed: str) -> None:
    text = (folder / "report/report.md").read_text()
    assert r"| 00007-0007 | source_fraction 0.03, full, seed 1 | failed | out of memory at \<step> 3 |" in text
    assert "out of memory at &lt;step&gt; 3" in (folder / "report/index.html").read_text()


def test_every_trial_has_a_row(folder: Path, printed: str) -> None:
    rows = list(csv.DictReader((folder / "report/results.csv").open()))
    assert [row["trial"] for row in rows] == [record.trial for record in read(folder)]
    assert rows[7]["status"] == "failed"
    assert rows[7]["loss"] == ""
    assert float(rows[0]["loss"]) > 0
    assert rows[0]["source_interactions"] == "10000.0"
    assert rows[0]["method"] == "full"


def section(folder: Path, title: str) -> list[list[str]]:
    """The cells of a table of report.md, by row, the header first."""
    text = (folder / "report/report.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def test_every_setting_has_its_costs(folder: Path, printed: str) -> None:
    """With the largest source, adapters train and save less than full fine-tuning."""
    header, *rows = section(folder, "Costs")
    names = ["trained parameters", "seconds of training", "MiB of weights saved", "peak memory in MiB", "seeds"]
    assert header == ["source_fraction", "method", *names]
    assert rows[0][:3] == ["0.01", "full", "20,000,000"]
    assert rows[-2] == ["1.0", "full", "20,000,000", "621.5", "76.29", "485", "3"]
    assert rows[-1] == ["1.0", "houlsby", "600,000", "217.1", "2.29", "263", "3"]
    assert "wall-clock" in (folder / "report/report.md").read_text().split("\n## Costs\n")[1].split("|")[0]
    rows_of_csv = list(csv.DictReader((folder / "report/results.csv").open()))
    assert rows_of_csv[0]["export_bytes"] == "80000000.0"


def test_costs_that_a_run_did_not_record_are_left_open(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    write_sweep(folder, {"method": ["full", "houlsby"], "seed": [0, 1]}, lambda axes: 2.0)
    for path in folder.glob("runs/*/summary.json"):
        summary = json.loads(path.read_text())
        del summary["export_bytes"]
        path.write_text(json.dumps(summary))
    assert main([str(folder)]) == 0
    assert [row[-3] for row in section(folder, "Costs")] == ["MiB of weights saved", "–", "–"]


def test_figures_can_be_printed(folder: Path, printed: str) -> None:
    figures = sorted(path.name for path in (folder / "report").glob("*.png"))
    assert figures == [
        "cost-method.png",
        "curve-source_fraction-ndcg10.png",
        *(f"law-source_fraction-{m}.png" for m in ("hr10", "loss", "ndcg10")),
    ]
    text = (folder / "report/report.md").read_text()
    for name in figures:
        assert f"]({name})" in text
        with Image.open(folder / "report" / name) as image:
            assert image.width >= 1000
            assert image.convert("L").getextrema()[0] < 60


def test_the_page_needs_no_network(folder: Path, printed: str) -> None:
    page = (folder / "report/index.html").read_text()
    assert "http" not in page
    assert page.count("<svg") == 5
    assert re.search(r"<title>houlsby: loss \d\.\d{4} \[\d\.\d{4}, \d\.\d{4}\] at 1M</title>", page)


def test_the_same_sweep_gives_the_same_report(tmp_path: Path) -> None:
    write_sweep(
        tmp_path / "sweep", {"source_fraction": FRACTIONS, "seed": [0]}, lambda axes: loss({"method": "", **axes})
    )
    reports = []
    for _ in range(2):
        assert main([str(tmp_path / "sweep")]) == 0
        reports.append({path.name: path.read_bytes() for path in (tmp_path / "sweep/report").iterdir()})
    assert reports[0] == reports[1]


def test_two_sizes_draw_no_law_and_say_so(tmp_path: Path) -> None:
    write_sweep(tmp_path / "few", AXES | {"source_fraction": [0.1, 1.0], "seed": [0]}, loss)
    assert main([str(tmp_path / "few")]) == 0
    text = (tmp_path / "few/report/report.md").read_text()
    assert "needs 4 sizes, but there are 2" in text
    assert "Every setting has only one seed" in text
    assert "not enough sizes for a fit" in (tmp_path / "few/report/index.html").read_text()


def test_methods_alone(tmp_path: Path) -> None:
    write_sweep(tmp_path / "methods", {"method": ["houlsby", "lora"], "seed": [0, 1]}, lambda axes: 2.0)
    assert main([str(tmp_path / "methods"), "--margin", "0.2"]) == 0
    text = (tmp_path / "methods/report/report.md").read_text()
    assert "## method: compared with houlsby" in text
    header, *_ = section(tmp_path / "methods", "method: compared with houlsby")
    assert header[header.index("difference") + 1] == "p (Holm)"
    assert "the margin: 20% of the baseline's mean" in text


def test_runs_that_are_monitored_by_their_loss_are_compared_by_it(tmp_path: Path) -> None:
    """The smaller one is better, and no figure shows it twice."""
    axes = {"source_fraction": [0.1, 1.0], "method": ["full", "houlsby"], "seed": [0, 1, 2]}
    folder = tmp_path / "by_loss"
    write_sweep(folder, axes, lambda axes: 2.0 if axes["method"] == "houlsby" else 3.0)
    for config in folder.glob("runs/*/config.yaml"):
        config.write_text(config.read_text().replace("train: {", "train: {monitor: loss, "))
    assert main([str(folder)]) == 0
    text = (folder / "report/report.md").read_text()
    assert re.search(r"houlsby against full, loss: better at 2 of 2 settings; at the largest sizes -1\.", text)
    assert "(lower is better) of each method" in text
    assert "behind in loss" in text
    assert not list((folder / "report").glob("curve-*"))


def test_every_task_is_a_question_of_its_own(tmp_path: Path) -> None:
    axes = {"task": ["gender", "age"], "method": ["patch", "full"], "seed": [0, 1, 2]}
    write_sweep(tmp_path / "tasks", axes, lambda axes: 0.2 if axes["method"] == "patch" else 0.6)
    assert main([str(tmp_path / "tasks")]) == 0
    text = (tmp_path / "tasks/report/report.md").read_text()
    assert re.search(r"- gender: patch against full, accuracy: better \+0\.\d{4} \[", text)
    assert re.search(r"- age: patch against full, accuracy: better \+0\.\d{4} \[", text)
    assert "- macro_F1 agrees with accuracy in all 2 comparisons of method." in text
    assert "loss agrees" not in text
    assert "task: compared" not in text
    means = text.split("\n## Means\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in means.strip().splitlines()]
    assert rows[0] == ["task", "method", "loss", "accuracy", "macro_F1", "seeds", "behind in accuracy"]
    assert [row[:2] for row in rows[2:]] == [
        ["gender", "patch"], ["gender", "full"], ["gender", "most_frequent"],
        ["age", "patch"], ["age", "full"], ["age", "most_frequent"],
    ]  # fmt: skip
    assert [row[-1] for row in rows[2:5]] == ["–", "most_frequent", "–"]
    assert [row[-2] for row in rows[2:5]] == ["3", "3", "–"]
    assert (tmp_path / "tasks/report/cost-method-gender.png").exists()


def test_runs_that_were_trained(tiny: Tiny, commands: ForkedCommands, tmp_path: Path) -> None:
    """What `launch/train.py` leaves behind is what a report reads."""
    records = []
    for number, method in enumerate(("full", "houlsby")):
        run = tmp_path / "runs" / method
        adaptation = ADAPTATIONS[method]
        finished = commands.run("train", "--config", tiny.config, f"run_dir={run}", adaptation)
        assert finished.code == 0, finished.stderr
        told = re.findall(r"^learning rates: (.*)$", finished.stderr, re.MULTILINE)
        assert len(told) == 1
        assert re.fullmatch(
            rf"(\w+ \S+, )*{'houlsby' if method == 'houlsby' else 'head'} [\de.-]+(, \w+ \S+)*", told[0]
        )
        records.append(Record(f"{number:05d}", {"method": method}, f"runs/{method}", None, "done"))
    write(tmp_path, records)
    assert main([str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "report/results.csv").open()))
    assert [row["method"] for row in rows] == ["full", "houlsby"]
    assert float(rows[0]["flops"]) > float(rows[1]["trainable_parameters"]) > 0
    assert "houlsby" in (tmp_path / "report/report.md").read_text()


def test_the_findings_can_be_one_document(folder: Path, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"found", "not_established", "report"}
    for line in (*document["found"], *document["not_established"]):
        assert line in printed
    assert Path(document["report"]).exists()


def test_what_is_no_sweep_is_an_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path} is not the folder of a sweep")
    assert message.count("\n") == 1
