"""The Dockerfile, step by step without Docker: what .devcontainer/steps.py checks, and that it finds faults."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import REPOSITORY

PROGRAM = REPOSITORY / ".devcontainer" / "steps.py"


def load_steps():  # type: ignore[no-untyped-def]
    """The program as a module; its folder is no package."""
    spec = importlib.util.spec_from_file_location("container_steps", PROGRAM)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


steps = load_steps()


def test_a_dockerfile_is_read_step_by_step() -> None:
    text = "# syntax\nFROM python:3.11\n\nRUN one \\\n    # why\n    && two\nenv A=1\n"
    assert [(step.name, " ".join(step.value.split()), step.line) for step in steps.parse(text)] == [
        ("FROM", "python:3.11", 2),
        ("RUN", "one && two", 4),
        ("ENV", "A=1", 7),
    ]


def test_the_packages_of_apt_are_found() -> None:
    command = "apt-get update && apt-get install --yes --no-install-recommends git 'make' && rm -rf /x"
    assert steps.apt_packages(command) == ["git", "make"]


def test_the_dockerfile_passes_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert steps.main(["--check"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == len(steps.parse(steps.DOCKERFILE.read_text("utf-8"))) >= 9


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("HEALTHCHECK NONE", "HEALTHCHECK is not known"),
        ("RUN apt-get install --yes no-such-package-at-all", "apt has no no-such-package-at-all"),
        ("RUN python -m pip install --constraint constraint.txt torch", "constraint.txt was not copied"),
        ("RUN python -m pip install --editable '.[develop]'", "setup.py has no extra develop"),
        ("RUN if true", "the shell does not understand it"),
        ("COPY requirements.txt ./", "git knows no such files"),
        ('CMD ["no-such-shell"]', "there is no no-such-shell"),
        ("ARG TORCH", "a value is missing"),
        ("FROM debian", "the image is not one of Python"),
    ],
)
def test_a_fault_is_found_with_its_line(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "apt-cache").write_text("#!/bin/sh\necho git make\n")
    (tmp_path / "apt-cache").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / "Dockerfile").write_text(f"FROM python:{version}-slim\nWORKDIR /x\n{line}\n")
    assert steps.main(["--check", "--dockerfile", str(tmp_path / "Dockerfile")]) == 1
    error = capsys.readouterr().err
    assert f"line 3: {line}" in error
    assert message in error


def test_commands_run_in_the_folder_with_the_variables_of_the_steps_before(tmp_path: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = f"FROM python:{version}\nARG A=1\nENV B='2 3'\nWORKDIR /there\nCOPY constraints.txt ./\n"
    container = steps.Container(tmp_path, runs=True)
    for step in steps.parse(text):
        container.do(step)
    command = 'test -f constraints.txt && echo "$A $B" > seen && python -c "import sys; print(sys.prefix)" >> seen'
    container.do(steps.Step("RUN", command, 6))
    assert (tmp_path / "there" / "seen").read_text().splitlines() == ["1 2 3", str(tmp_path / "venv")]
    with pytest.raises(steps.StepError, match="ended with code 3"):
        container.do(steps.Step("RUN", "exit 3", 7))


@pytest.mark.parametrize(("answers", "index"), [(True, "--index-url http://x/cpu torch"), (False, "torch")])
def test_an_index_that_cannot_be_reached_is_left_out(
    answers: bool, index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(steps, "reachable", lambda url: asked.append(url) or answers)
    container = steps.Container(tmp_path, runs=True, environment={"TORCH": "cpu", "PATH": "/usr/bin:/bin"})
    container.folder = tmp_path
    remark = container.do(steps.Step("RUN", "echo install --index-url http://x/${TORCH} torch > seen", 1))
    assert asked == ["http://x/cpu"]
    assert (tmp_path / "seen").read_text() == f"install {index}\n"
    assert ("cannot be reached" in remark) is not answers


def test_an_address_without_a_server_cannot_be_reached() -> None:
    assert not steps.reachable("http://127.0.0.1:9/")


def test_the_container_for_editors_is_that_of_the_dockerfile() -> None:
    folder = PROGRAM.parent
    editor = json.loads((folder / "devcontainer.json").read_text("utf-8"))
    service = yaml.safe_load((folder / editor["dockerComposeFile"]).read_text("utf-8"))["services"][editor["service"]]
    assert REPOSITORY / service["build"]["dockerfile"] == steps.DOCKERFILE
    assert f"WORKDIR {editor['workspaceFolder']}\n" in steps.DOCKERFILE.read_text("utf-8")
    assert f"..:{editor['workspaceFolder']}" in service["volumes"]


@pytest.mark.slow
def test_every_step_of_the_dockerfile_runs() -> None:
    """Installs everything, and starts the installed command."""
    assert subprocess.run([sys.executable, PROGRAM], timeout=3000).returncode == 0
