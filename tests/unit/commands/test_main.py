"""The console script: it finds the commands, and imports only the one that is called."""

import importlib
import os
import subprocess
import sys

import pytest
from commands import ENVIRONMENT

import transrec
from transrec.commands.main import COMMANDS, main

HEAVY = ("torch", "deepspeed", "transformers", "ray")


def test_the_help_has_a_line_for_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.split()[:1] in [[name] for name in COMMANDS]] == [
        f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()
    ]


def test_its_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"transrec {transrec.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself_under_its_own_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: transrec {name} ")


@pytest.mark.parametrize(("arguments", "code"), [(["trian"], 2), (["--no-such"], 2), ([], 0)])
def test_what_is_no_command(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    output = capsys.readouterr()
    assert "COMMAND" in output.out + output.err


def test_an_exit_code_is_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "/nowhere"]) == 1
    assert "index.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_a_module_to_run(name: str) -> None:
    module = importlib.import_module(COMMANDS[name][0])
    assert callable(module.main)


@pytest.mark.parametrize("program", ["transrec", "transrec.commands.main", "data_tools.__main__"])
def test_nothing_heavy_is_imported_before_it_is_needed(program: str) -> None:
    code = f"import sys, {program}; print([m for m in {HEAVY} if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ | ENVIRONMENT
    )
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_the_package_has_the_names_of_the_api() -> None:
    from transrec.runs import recommender

    assert [getattr(transrec, name) for name in ("Recommender", "load_adapters", "load_run")] == [
        recommender.Recommender,
        recommender.load_adapters,
        recommender.load_run,
    ]
    assert set(transrec.__all__) <= set(dir(transrec))
    with pytest.raises(AttributeError, match="has no attribute 'load_rum'"):
        transrec.load_rum  # noqa: B018
