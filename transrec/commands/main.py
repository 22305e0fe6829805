"""The command line `transrec COMMAND …`; each command is also `python -m transrec.commands.COMMAND …`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from transrec import __version__
from transrec.commands.entry import command

# Module and help text by command name. The module is imported only to run its `main`, because some import PyTorch.
COMMANDS = {
    "init": ("transrec.commands.init", "create a small starter project"),
    "doctor": ("transrec.commands.doctor", "check what works on this machine, and how to fix what does not"),
    "train": ("transrec.commands.train", "train a run, or resume it"),
    "plan": ("transrec.commands.plan", "estimate time, memory and disk of a full-size run from small runs"),
    "fill": ("transrec.commands.fill", "fill the cache of a node for a run ahead of time"),
    "evaluate": ("transrec.commands.evaluate", "evaluate runs on held-out items"),
    "recommend": ("transrec.commands.recommend", "recommend items for users, given their histories"),
    "serve": ("transrec.commands.serve", "serve recommendations over HTTP"),
    "export": ("transrec.commands.export", "write backbones, vectors and user towers for other programs"),
    "sweep": ("transrec.commands.sweep", "train a grid of runs on Ray"),
    "report": ("transrec.commands.report", "compare the runs of a sweep, or any finished runs"),
    "lineage": ("transrec.commands.lineage", "show which users and items a step of a run used"),
    "completion": ("transrec.commands.completion", "print a completion script for a shell"),
    "data": ("data_tools.__main__", "build, inspect or verify a set of shards"),
}


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] not in COMMANDS:
        parser().parse_args(arguments or ["--help"])
    name, *rest = arguments
    module, _ = COMMANDS[name]
    number: int = importlib.import_module(module).main(rest)
    return number


def parser() -> argparse.ArgumentParser:
    """The parser for the arguments before those of a command."""
    found = argparse.ArgumentParser(
        prog="transrec",
        usage="transrec [-h] [--version] COMMAND …",
        description="Distributed training of transferable, modality-based recommenders.\n\ncommands:\n"
        + "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()),
        epilog="`transrec COMMAND --help` explains a command. To train with several processes, use\n"
        "`deepspeed --module transrec.commands.train …` instead of `transrec train …`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--version", action="version", version=f"transrec {__version__}")
    found.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    return found


if __name__ == "__main__":
    sys.exit(main())
