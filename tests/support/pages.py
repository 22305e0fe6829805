"""README and the pages in docs/: their fenced blocks, and how tests run them.

A block of commands is run by a test unless a comment `<!-- illustration: why not -->` is above it.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from commands import REPOSITORY

README = "README.md"
EXTENDING = "docs/extending.md"
PAGES = [README, *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^(?:<!-- illustration: (?P<why>.+?) -->\n)?"
    r"```(?P<language>\w*)(?: title=\"(?P<title>.+?)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    title: str | None  # the file that it is, or changes
    text: str
    illustration: str | None  # why it is not run

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = (REPOSITORY / page).read_text("utf-8")
    return [
        Block(page, text[: m.start()].count("\n") + 1, m["language"], m["title"], m["text"], m["why"])
        for m in _BLOCK.finditer(text)
    ]


def write_program(folder: Path, name: str, script: str) -> None:
    """An executable bash script."""
    (folder / name).write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


_LAUNCHERS = ("deepspeed", "torchrun", "srun", "mpirun")
# Recorded instead of run.
PROGRAMS = ("python", *_LAUNCHERS, "transrec", "make", "pip", "ray", "scontrol", "kubectl", "curl")


def recorded(text: str, folder: Path) -> list[list[str]]:
    """The arguments of each of `PROGRAMS` that bash starts in `folder`, after its own work: quotes, loops, files."""
    with TemporaryDirectory() as temporary:
        programs, record = Path(temporary), Path(temporary) / "record"
        for name in PROGRAMS:
            write_program(programs, name, rf"printf '%s\x1f' {name} " + rf'"$@" >> {record}; printf "\x1e" >> {record}')
        run_shell(text, folder, programs, {})
        commands = record.read_text("utf-8").split("\x1e") if record.exists() else []
    return [command.split("\x1f")[:-1] for command in commands if command]


def command_of(program: str, arguments: list[str]) -> tuple[str, list[str]]:
    """The command of the project that a line calls, or the script, or `-c`; and its arguments."""
    if program == "transrec" or arguments[0] == "-c":
        return arguments[0], arguments[1:]
    if arguments[:2] == ["-m", "data_tools"]:
        return "data", arguments[2:]
    at = next(i for i, argument in enumerate(arguments) if argument.endswith(".py"))
    script = arguments[at]
    return (Path(script).stem if script.startswith("launch/") else script), arguments[at + 1 :]


def run_shell(text: str, folder: Path, programs: Path, environment: Mapping[str, str]) -> str:
    """What bash commands print that run in `folder` and find `programs` before those of the system."""
    path = os.pathsep.join([str(programs), "/usr/bin", "/bin"])
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        command, cwd=folder, env={**environment, "PATH": path}, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def change(file: Path, diff: str) -> None:
    """Apply a diff without line numbers: each part between `@@` names lines that occur once."""
    text = file.read_text("utf-8")
    for part in re.split(r"^@@.*\n", diff, flags=re.MULTILINE):
        lines = part.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in kinds) for kinds in (" -", " +"))
        assert text.count(old) == 1, f"{file} has {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")
