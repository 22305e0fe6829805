#!/usr/bin/env python3
"""Run the steps of the Dockerfile without Docker, in a new virtual environment and folder: `.devcontainer/steps.py`.

The steps are read from the Dockerfile, so that the two cannot drift apart. FROM becomes a virtual environment of the
same Python, WORKDIR a folder below a temporary one, and the build context the files that git knows. Packages of apt are
looked up with `apt-cache` instead of installed, because installing needs root. A package index that cannot be reached
is replaced by the one that pip is configured with. At the end, the installed command must start.

With --check, nothing is installed. The program checks that it knows every step, that the files, packages and extras
named exist, and that the shell accepts the commands.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from string import Template

REPOSITORY = Path(__file__).resolve().parents[1]
DOCKERFILE = REPOSITORY / ".devcontainer" / "Dockerfile"
STARTS = "transrec --version && python -m pip check"  # what must work in the finished container
_KEPT = re.compile(
    r"(PIP_|SSL_|REQUESTS_|HOME$|LANG$)|_proxy$", re.IGNORECASE
)  # settings by which this machine reaches an index


class StepError(Exception):
    """A step cannot be run."""


@dataclass(frozen=True)
class Step:
    """An instruction of a Dockerfile: `RUN`, `pip install …`, and the line on which it begins."""

    name: str
    value: str
    line: int

    def __str__(self) -> str:
        return f"{self.name} {' '.join(self.value.split())}"


def parse(text: str) -> list[Step]:
    """The instructions of a Dockerfile, with continued lines joined and comments left out."""
    steps, begun, first = [], "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or not (begun or line.strip()):
            continue
        first = first if begun else number
        begun += line.removesuffix("\\") + " "
        if not line.endswith("\\"):
            name, _, value = begun.strip().partition(" ")
            steps.append(Step(name.upper(), value.strip(), first))
            begun = ""
    return steps


@dataclass
class Container:
    """The folder that stands for the root of the container.

    Args:
        runs: whether commands are run, or only checked.
    """

    root: Path
    runs: bool
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()

    def do(self, step: Step) -> str:
        """Do a step; returns a remark about any difference from Docker.

        Raises:
            StepError: the step failed, or this program does not know its kind.
        """
        known = {
            "FROM": self._from,
            "ARG": self._set,
            "ENV": self._set,
            "WORKDIR": self._enter,
            "COPY": self._copy,
            "RUN": self._run,
            "CMD": self._start,
        }
        if step.name not in known:
            raise StepError(f"{step.name} is not known to {Path(__file__).name}; add it there")
        return known[step.name](step.value)

    def _from(self, image: str) -> str:
        found = re.match(r"python:(\d+\.\d+)", image)
        if found is None:
            raise StepError("the image is not one of Python; use `python:X.Y`")
        self.environment = {name: value for name, value in os.environ.items() if _KEPT.search(name)}
        self.environment["PATH"] = os.pathsep.join([str(self.root / "venv" / "bin"), "/usr/bin", "/bin"])
        if self.runs:
            python = sys.executable if sys.version.startswith(f"{found[1]}.") else shutil.which(f"python{found[1]}")
            if python is None:
                raise StepError(f"there is no python{found[1]} on this machine; install it")
            subprocess.run([python, "-m", "venv", self.root / "venv"], check=True)
        return f"a virtual environment of Python {found[1]}"

    def _set(self, value: str) -> str:
        pairs = [pair.partition("=") for pair in shlex.split(value)]
        if not all(equals for _, equals, _ in pairs):
            raise StepError("a value is missing; write NAME=value")
        self.environment |= {name: text for name, _, text in pairs}
        return ""

    def _enter(self, path: str) -> str:
        self.folder = self.root / path.lstrip("/")
        self.folder.mkdir(parents=True, exist_ok=True)
        return ""

    def _copy(self, value: str) -> str:
        *sources, target = shlex.split(value)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *sources],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        files = [name for name in listed.stdout.split("\0") if (REPOSITORY / name).is_file()]
        if listed.returncode or not files or not all((REPOSITORY / source).exists() for source in sources):
            raise StepError("git knows no such files")
        for name in files:
            to = self.folder / target / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, to)
        return f"{len(files):,} files"

    def _run(self, command: str) -> str:
        if "apt-get" in command:
            return _look_up(apt_packages(command))
        if subprocess.run(["/bin/sh", "-n", "-c", command]).returncode:
            raise StepError("the shell does not understand it; correct its syntax")
        self._check_install(shlex.split(command))
        index = re.search(r"--index-url (\S+) ", command)
        if index is None or not self.runs or reachable(Template(index[1]).substitute(self.environment)):
            return self._shell(command)
        self._shell(command.replace(index[0], ""))
        return f"from the index that pip is configured with, as {index[1]} cannot be reached from here"

    def _check_install(self, words: list[str]) -> None:
        """Fail unless the constraints and the extras of `pip install` exist."""
        for option, value in pairwise(words):
            if option == "--constraint" and not (self.folder / value).is_file():
                raise StepError(f"{value} was not copied; copy it in an earlier step")
            if option == "--editable":
                extras = {name for name in re.findall(r"\[(.*)\]", value) for name in name.split(",")}
                unknown = extras - set(re.findall(r'^ {8}"([\w-]+)": \[', _setup(), re.MULTILINE))
                if unknown:
                    raise StepError(f"setup.py has no extra {', '.join(sorted(unknown))}")

    def _start(self, value: str) -> str:
        program, *_ = json.loads(value)
        if shutil.which(program) is None:
            raise StepError(f"there is no {program}")
        return self._shell(STARTS)

    def _shell(self, command: str) -> str:
        if not self.runs:
            return "not run"
        ended = subprocess.run(["/bin/sh", "-c", command], cwd=self.folder, env=self.environment)
        if ended.returncode:
            raise StepError(f"{command} ended with code {ended.returncode}")
        return ""


def apt_packages(command: str) -> list[str]:
    """The packages that a shell command installs with `apt-get install`."""
    installs = re.findall(r"apt-get\s+install\s+([^&;|]*)", command)
    return [word for words in installs for word in shlex.split(words) if not word.startswith("-")]


def reachable(url: str) -> bool:
    """Whether a server answers."""
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _look_up(packages: list[str]) -> str:
    """Fail unless apt has the packages."""
    if shutil.which("apt-cache") is None:
        return f"skipped, as there is no apt-cache here: {', '.join(packages)}"
    listed = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, text=True, check=True).stdout.split()
    if not listed:
        return f"skipped, as apt has no lists here: {', '.join(packages)}"
    if missing := sorted(set(packages) - set(listed)):
        raise StepError(f"apt has no {', '.join(missing)}")
    return f"not installed, but apt has {', '.join(packages)}"


def _setup() -> str:
    return (REPOSITORY / "setup.py").read_text(encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Do all steps; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="install nothing")
    parser.add_argument("--dockerfile", type=Path, default=DOCKERFILE, help="another Dockerfile")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as root:
        container = Container(Path(root), runs=not arguments.check)
        for step in parse(arguments.dockerfile.read_text(encoding="utf-8")):
            try:
                remark = container.do(step)
            except StepError as error:
                print(f"{arguments.dockerfile}, line {step.line}: {step}: {error}", file=sys.stderr)
                return 1
            print(f"{step}{f'   # {remark}' if remark else ''}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
