"""How commands end."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import ENVIRONMENT

from transrec.commands.entry import command, print_json, values_joined
from transrec.errors import TransRecError


def ends_with(error: BaseException, *errors: type[Exception]) -> int:
    @command(*errors)
    def main(argv: Sequence[str] | None = None) -> int:
        raise error

    return main([])


def test_an_error_of_ours_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(TransRecError("no such run")) == 1
    assert capsys.readouterr().err == "error: no such run\n"


def test_another_error_is_explained_where_the_command_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError("no room")
    error.add_note("until then: 3 rows")
    assert ends_with(error, OSError) == 1
    assert capsys.readouterr().err == "error: no room\nuntil then: 3 rows\n"
    with pytest.raises(OSError, match="no room"):
        ends_with(error)


def test_a_rank_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "3")
    assert ends_with(TransRecError("no such run")) == 1
    assert capsys.readouterr().err == "error on rank 3: no such run\n"


def test_ctrl_c_is_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_broken_pipe_that_is_not_the_outputs_is_not_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    with capfd.disabled(), pytest.raises(BrokenPipeError):
        ends_with(BrokenPipeError("a worker's"))


def test_a_reader_that_goes_away_does_not_hide_an_error() -> None:
    program = "\n".join(
        [
            "import sys",
            "from transrec.commands.entry import command",
            "from transrec.errors import TransRecError",
            "@command()",
            "def main(argv=None):",
            "    print('x')",
            "    raise TransRecError('no such item')",
            "sys.exit(main())",
        ]
    )
    ended = ended_by_a_closed_pipe([sys.executable, "-c", program], PYTHONUNBUFFERED="")
    assert ended == (1, "error: no such item\n")


@pytest.mark.parametrize(
    ("arguments", "joined"),
    [
        (["--item", "-x"], ["--item=-x"]),
        (["--item=-x", "--top", "3"], ["--item=-x", "--top", "3"]),
        (["--item", "--top", "3"], ["--item", "--top", "3"]),
        (["--item"], ["--item"]),
    ],
)
def test_a_value_that_begins_with_a_dash_is_joined_to_its_option(arguments: list[str], joined: list[str]) -> None:
    assert values_joined(arguments, "--item", "--user") == joined


WRITERS = {
    "a little, at the exit": "print('x')",
    "much, at a print": "print('x' * 10**6)",
    "a table of rich": "from rich.console import Console; Console().print('x')",
    "a help": "import argparse; argparse.ArgumentParser(description='x').parse_args(['--help'])",
}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("output", WRITERS)
def test_a_reader_that_goes_away_ends_it_quietly(output: str, unbuffered: str) -> None:
    """The reader is gone before anything is written."""
    program = "\n".join(
        [
            "import sys",
            "from transrec.commands.entry import command",
            "@command()",
            "def main(argv=None):",
            f"    {WRITERS[output]}",
            "    return 0",
            "sys.exit(main())",
        ]
    )
    code, told = ended_by_a_closed_pipe([sys.executable, "-c", program], PYTHONUNBUFFERED=unbuffered)
    assert told == ""
    assert code == (0 if (output, unbuffered) == ("a help", "1") else 141)  # argparse itself passes over such an error


@pytest.mark.parametrize("question", ["inspect", "verify"])
def test_so_does_the_shard_builder(question: str, synthetic_shards: Path) -> None:
    command = [sys.executable, "-m", "transrec", "data", question, str(synthetic_shards)]
    assert ended_by_a_closed_pipe(command) == (141, "")


def ended_by_a_closed_pipe(command: Sequence[str], **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a command nobody reads the output of."""
    reader, writer = os.pipe()
    environment = {**os.environ, **ENVIRONMENT, **environment}
    os.close(reader)
    try:
        ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, env=environment)
    finally:
        os.close(writer)
    return ended.returncode, ended.stderr


def test_json_has_null_where_a_number_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"GAUC": float("nan"), "interval": [0.5, float("inf")]})
    assert capsys.readouterr().out == '{"GAUC": null, "interval": [0.5, null]}\n'
