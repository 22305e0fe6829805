"""The real command on real data: the embedded set, and the development sets where they are present."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_tools", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)


def build(output: Path, *arguments: str | Path) -> None:
    result = run("build", "--output", output, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_embedded_sample(tmp_path: Path) -> None:
    build(tmp_path / "one", "--source", "sample")
    build(tmp_path / "two", "--source", "sample")
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    inspected = run("inspect", tmp_path / "one")
    assert inspected.stdout.startswith("10,561 users, 1,007 items, 150,000 interactions\n")
    verified = run("verify", tmp_path / "one")
    assert (verified.returncode, verified.stderr) == (0, "")


def test_errors_come_without_a_traceback(tmp_path: Path) -> None:
    result = run("build", "--source", "tables", "--input", tmp_path, "--output", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr == f"error: {tmp_path} has no items.tsv or items.parquet\n"


@pytest.mark.parametrize(
    ("source", "name", "headline"),
    [
        ("tables", "ml-100k", "943 users, 1,682 items (1,667 with image), 100,000 interactions"),
        ("recbole", "ml-100k", "943 users, 1,682 items (0 with image), 100,000 interactions"),
        ("tables", "movietweetings-100k", "16,554 users, 10,506 items (5,019 with image), 100,000 interactions"),
        ("tables", "xwines-slim", "10,561 users, 1,007 items (100 with image), 150,000 interactions"),
        ("tables", "amazon-beauty", "22,363 users, 12,101 items (0 with image), 198,502 interactions"),
        ("tables", "amazon-sports", "35,598 users, 18,357 items (0 with image), 296,337 interactions"),
        ("tables", "mind-4k", "3,784 users, 20,271 items (0 with image), 121,344 interactions, 149,984 impressions"),
        ("mind", "mind-4k/raw", "3,784 users, 20,271 items (0 with image), 121,344 interactions, 149,984 impressions"),
    ],
)
def test_development_sets(tmp_path: Path, source: str, name: str, headline: str) -> None:
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: it may not be distributed with the project")
    result = run("build", "--source", source, "--input", folder, "--output", tmp_path / "out")
    assert result.stdout.startswith(headline)
    assert run("verify", tmp_path / "out").returncode == 0


def test_the_embedded_sample_is_the_published_data(tmp_path: Path) -> None:
    folder = SHARED_DATA / "xwines-slim"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    build(tmp_path / "sample", "--source", "sample")
    build(tmp_path / "tables", "--source", "tables", "--input", folder)
    for name in ("users-000000.tar", "user_blocks.parquet"):
        assert (tmp_path / "sample" / name).read_bytes() == (tmp_path / "tables" / name).read_bytes()
