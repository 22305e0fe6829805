"""Commands in environments that are not a developer's: no home, no name, half a launcher, a terminal of ASCII."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from commands import ENVIRONMENT, REPOSITORY


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`train` as a user without a home and a name, as in a container that is started with any number as its user."""
    program = "\n".join(
        [
            "import pwd, sys",
            "def unknown(number): raise KeyError(f'getpwuid(): uid not found: {number}')",
            "pwd.getpwuid = unknown",
            "from transrec.commands.train import main",
            "sys.exit(main(sys.argv[1:]))",
        ]
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        env=environment | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_user_without_a_home_and_a_name_has_a_cache() -> None:
    ended = as_nobody("--config", "quickstart", "--print-config", "run_dir=x")
    assert ended.returncode == 0, ended.stderr
    assert f"cache: {tempfile.gettempdir()}/transrec-{os.getuid()}\n" in ended.stdout


def test_a_home_that_is_not_known_is_one_sentence() -> None:
    ended = as_nobody("--config", "quickstart", "--print-config", "run_dir=~/x")
    assert ended.returncode == 1
    assert "error: `run_dir`: ~/x: the home folder is not known; write the path in full, or set HOME" in ended.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, "RANK is set without WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: unset it to use one"),
        (
            {"RANK": "x", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1234"},
            "RANK=x is not a whole number",
        ),
        (
            {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1234"},
            "RANK=2 must be less than WORLD_SIZE=2",
        ),
    ],
)
def test_half_a_launcher_is_one_sentence(variables: dict[str, str], message: str) -> None:
    ended = run("transrec.commands.evaluate", "--run", "nowhere", **variables)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_terminal_of_ascii_shows_what_it_can(synthetic_shards: Path) -> None:
    ended = run("data_tools", "inspect", str(synthetic_shards), PYTHONIOENCODING="ascii")
    assert ended.returncode == 0, ended.stderr
    assert "60 items" in ended.stdout


@pytest.mark.parametrize("user", ["é", "\ud800"])
def test_json_keeps_characters_that_the_output_lacks(user: str) -> None:
    program = f"from transrec.commands.entry import print_json; print_json({{'user': {user!r}}})"
    for encoding in ("ascii", "utf-8"):
        ended = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | ENVIRONMENT | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert json.loads(ended.stdout.decode(encoding)) == {"user": user}
