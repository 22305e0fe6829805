"""The wheel, installed where there is no checkout: what somebody has who typed `pip install transrec`.

The dependencies are those of the environment that the tests run in; of TransRec only the installed files are seen.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from commands import REPOSITORY, free_port

import transrec

NOT_BUILT = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout stays clean and nothing of an earlier build is in it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("transrec", "data_tools", "configs"):
        shutil.copytree(REPOSITORY / name, folder / "source" / name, ignore=NOT_BUILT)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "source")
    pip("wheel", folder / "source", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    (built,) = folder.glob("transrec-*.whl")
    return built


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """An environment with the wheel, in which the dependencies are those of this one."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    pip("--python", environment / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    return environment / "bin" / "python"


def pip(*arguments: str | Path) -> None:
    ran = subprocess.run([sys.executable, "-m", "pip", "-q", *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def ran(program: Path, *arguments: str | Path, cwd: Path) -> str:
    """The standard output of a program that succeeded."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment = kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_all_that_the_commands_need(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    configurations = {path.relative_to(REPOSITORY / "configs") for path in (REPOSITORY / "configs").rglob("*.yaml")}
    assert {f"transrec/configs/{path}" for path in configurations} == {n for n in names if n.endswith(".yaml")}
    modules = {
        str(path.relative_to(REPOSITORY))
        for name in ("transrec", "data_tools")
        for path in REPOSITORY.glob(f"{name}/**/*.py")
    }
    assert modules == {name for name in names if name.endswith(".py")}
    sample = {f"data_tools/sample/{path.name}" for path in (REPOSITORY / "data_tools" / "sample").iterdir()}
    assert {"transrec/py.typed", "data_tools/py.typed", "transrec/__init__.pyi", *sample} <= names
    (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert Parser().parsestr(metadata)["Version"] == transrec.__version__
    (scripts,) = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert scripts.split("\n")[:2] == ["[console_scripts]", "transrec = transrec.commands.main:main"]


def test_it_works_where_there_is_no_checkout(python: Path, tmp_path: Path) -> None:
    files = ran(
        python, "-c", "import transrec, data_tools; print(transrec.__file__, data_tools.__file__)", cwd=tmp_path
    )
    assert [Path(file).is_relative_to(python.parents[1]) for file in files.split()] == [True, True]
    command = python.with_name("transrec")
    assert ran(command, "--version", cwd=tmp_path) == f"transrec {transrec.__version__}\n"
    assert ran(python, "-m", "transrec", "--help", cwd=tmp_path) == ran(command, "--help", cwd=tmp_path)
    assert "run_dir: runs/quickstart" in ran(command, "train", "--config", "quickstart", "--print-config", cwd=tmp_path)
    printed = ran(command, "sweep", "--config", "sweeps/rq2_methods", "--print-config", cwd=tmp_path)
    assert any(line.startswith("name: rq2") for line in printed.splitlines())


@pytest.mark.slow
def test_the_quickstart_and_the_readmes_python(python: Path, tmp_path: Path) -> None:
    command = python.with_name("transrec")
    ran(command, "data", "build", "--source", "sample", "--output", "s", cwd=tmp_path)
    few = ["data.path=s", "data.fraction=0.02", "train.steps=2", "train.evaluate_every=never", "train.precision=fp32"]
    ran(command, "train", "--config", "quickstart", "run_dir=r", *few, cwd=tmp_path)
    measured = json.loads(ran(command, "evaluate", "--run", "r", cwd=tmp_path).splitlines()[-1])
    assert "HR@10" in measured["test"]
    assert "100001" not in ran(
        command, "recommend", "--run", "r", "--history", "100001,100002", "--top", "3", cwd=tmp_path
    )
    (snippet,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(snippet.splitlines()) <= 15
    snippet = snippet.replace("runs/quickstart", "r").replace("shards/other", "s")
    ran(python, "-c", snippet, cwd=tmp_path)
    two_ranks = ["-m", "deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port", str(free_port())]
    module = ["--module", "transrec.commands.train", "--config", "quickstart", "run_dir=two"]
    ran(python, *two_ranks, *module, *few, cwd=tmp_path)
    starts = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [line["ranks"] for line in starts if line["kind"] == "start"] == [2]
