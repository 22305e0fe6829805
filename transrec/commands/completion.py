"""Print a completion script for a shell: commands, options, names of configurations, and keys such as `train.steps=`.

transrec completion bash > ~/.local/share/bash-completion/completions/transrec
transrec completion zsh > DIR/_transrec        DIR is a folder of $fpath
transrec completion fish > ~/.config/fish/completions/transrec.fish

The script holds all words, so that completion does not wait for Python. Write it again after an update.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transrec import __version__
from transrec.commands.entry import command
from transrec.commands.main import COMMANDS
from transrec.config import dotted_keys, shipped
from transrec.experiment import Experiment
from transrec.extras import needed
from transrec.sweeps.config import STAGES, Sweep

SHELLS = ("bash", "zsh", "fish")
# For each shell, a function that offers words, and one that offers files as well.
_WORDS = {
    "bash": '_transrec_{name}() {{ compgen -W "{words}" -- "$1"; }}',
    "zsh": "_transrec_{name}() {{ compadd -S '' -- {words} }}",
    "fish": "function _transrec_{name}; string split ' ' -- '{words}'; end",
}
_WORDS_OR_FILES = {
    "bash": '_transrec_{name}() {{ compgen -W "{words}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "_transrec_{name}() {{ compadd -- {words}; _files }}",
    "fish": "function _transrec_{name}; string split ' ' -- '{words}'; __fish_complete_path (commandline -ct); end",
}
# The other two shells add no space after `=`.
_NO_SPACE = """
_transrec_without_space() {
  _shtab_transrec
  if [[ "${COMPREPLY[*]-}" == *= ]]; then compopt -o nospace; fi
}
complete -o bashdefault -F _transrec_without_space transrec
"""


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    print(script(argument_parser().parse_args(argv).shell), end="")
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec completion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    return parser


def script(shell: str) -> str:
    """The script for a shell.

    Raises:
        ExtraError: shtab is not installed.
    """
    (shtab,) = needed("completion", "transrec completion", "shtab")
    parser = every_command()
    for name, action in actions(parser):
        if action.dest == "config":
            action.complete = _calls("config_file")
        elif action.dest == "overrides":
            action.complete = _calls("sweep_key" if name == "sweep" else "run_key")
        elif "DIR" in str(action.metavar):
            action.complete = shtab.DIRECTORY
        elif action.type is Path or "FILE" in str(action.metavar):
            action.complete = shtab.FILE
    text: str = shtab.complete(parser, shell, preamble=functions(shell))
    return text.rstrip() + "\n" + (_NO_SPACE if shell == "bash" else "")


def every_command() -> argparse.ArgumentParser:
    """A parser in which every command is a subcommand with all its options."""
    parser = argparse.ArgumentParser(prog="transrec")
    parser.add_argument("--version", action="version", version=__version__, help="show the version")
    commands = parser.add_subparsers()
    for name, (module, text) in COMMANDS.items():
        own = importlib.import_module(module).argument_parser()
        commands.add_parser(name, help=text, parents=[own], add_help=False)
    return parser


def actions(parser: argparse.ArgumentParser, command: str = "") -> Iterator[tuple[str, Any]]:
    """The arguments of a parser and of its subcommands, each with the name of its command."""
    for action in parser._actions:
        yield command, action
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from actions(inner, name)


def functions(shell: str) -> str:
    """The functions of the script that offer names of configurations and keys."""
    runs, sweeps = dotted_keys(Experiment), dotted_keys(Sweep)
    sweeps += [f"{stage}.{key}" for stage in STAGES for key in runs]
    config = _WORDS_OR_FILES[shell].format(name="config_file", words=" ".join(shipped()))
    keys = {"run_key": runs, "sweep_key": sweeps}
    return "\n".join([config, *(_offer(shell, name, [f"{key}=" for key in words]) for name, words in keys.items())])


def _offer(shell: str, name: str, words: Sequence[str]) -> str:
    return _WORDS[shell].format(name=name, words=" ".join(words))


def _calls(name: str) -> dict[str, str]:
    """A call of a function of the script, in the syntax of each shell."""
    return {"bash": f"_transrec_{name}", "zsh": f"_transrec_{name}", "fish": f"(_transrec_{name})"}


if __name__ == "__main__":
    sys.exit(main())
