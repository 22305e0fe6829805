"""Check what works on this machine and in this environment, and how to fix what does not: `transrec doctor`.

Each line is a check: `ok`, `note` (training works, but something else does not), or `FAULT` (training does not work).
The exit code is 1 if there is a fault, otherwise 0.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import add_json, command, print_json
from transrec.doctor import Finding, can_train, examine

_STATES = {"ok": "ok", "note": "note", "fault": "FAULT"}


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parse(argv)
    findings = []
    for finding in examine(arguments.offline, arguments.cache):
        findings.append(finding)
        if not arguments.json:
            show(finding)
    works = can_train(findings)
    if arguments.json:
        print_json({"can_train": works, "checks": [finding.as_json() for finding in findings]})
    else:
        print("Training will work here." if works else "Training will not work here until the faults are fixed.")
    return 0 if works else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of the command."""
    return argument_parser().parse_args(argv)


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--offline", action="store_true", help="do not try to reach the hub of pretrained models")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="the cache, if not the default of data.cache")
    add_json(parser)
    return parser


def show(finding: Finding) -> None:
    """Print a finding, without `rich`, which may be what is missing."""
    print(f"{_STATES[finding.state]:<6} {finding.what:<15} {finding.found}", flush=True)
    if finding.remedy:
        print(f"{'':<22} → {finding.remedy}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
