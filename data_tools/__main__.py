"""The command line: `python -m data_tools build | inspect | verify`, also installed as `transrec data …`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from data_tools.build import DEFAULT_SHARD_BYTES, build
from data_tools.errors import DataToolsError
from data_tools.executor import open_executor
from data_tools.filters import Filters, positive
from data_tools.inspection import facts, inspect
from data_tools.shard_reader import read_catalogue
from data_tools.sources import SOURCES
from data_tools.upload import upload_after
from data_tools.verify import verify
from transrec.commands.entry import add_json, command, print_json
from transrec.data.shards.remote import public
from transrec.data.shards.schema import REJECTS_FILE, ShardIndex
from transrec.data.shards.shard_folder import ShardFolder
from transrec.terminal import console


@command(DataToolsError, OSError, pa.ArrowException)
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 on success, otherwise 1 with a message on standard error (argparse exits with 2)."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    return int(arguments.run(arguments))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    source = _chosen_source(argv)
    return argument_parser([source] if source in SOURCES else []).parse_args(argv)


def argument_parser(sources: Sequence[str] = tuple(SOURCES)) -> argparse.ArgumentParser:
    """The parser of the command's arguments and the options of these sources; without any, its help lists all."""
    parser = argparse.ArgumentParser(prog="transrec data", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    build_parser = commands.add_parser(
        "build",
        help="turn raw data into shards",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps the lines of the epilog
        conflict_handler="error" if len(sources) < 2 else "resolve",  # sources share options
    )
    build_parser.set_defaults(run=_run_build)
    build_parser.add_argument("--source", choices=list(SOURCES), required=True, help="format of the raw data")
    build_parser.add_argument("--output", required=True, metavar="DIR|URL", help="new folder or URL for the shards")
    build_parser.add_argument("--strict", action="store_true", help="fail on the first unusable row")
    build_parser.add_argument(
        "--shard-bytes", type=positive, default=DEFAULT_SHARD_BYTES, metavar="N", help="maximum bytes per shard"
    )
    build_parser.add_argument(
        "--image-size", type=positive, metavar="S", help="reduce the shorter side of images to at most S pixels"
    )
    build_parser.add_argument(
        "--raw-text", action="store_true", help="keep HTML tags, scripts and character references (&amp;) in item texts"
    )
    build_parser.add_argument(
        "--workers", type=positive, metavar="N", help="number of processes (default: one per core)"
    )
    build_parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on the Ray cluster at this address (`local`: start one for this process); "
        "its nodes must see the input and the output folder under the same paths",
    )
    add_json(build_parser)
    Filters.add_arguments(build_parser)
    for source in sources:
        SOURCES[source].add_arguments(build_parser)
    if not sources:
        build_parser.epilog = _options_of_sources()
    for name, run, text in (
        ("inspect", _run_inspect, "summarise a folder of shards"),
        ("verify", _run_verify, "check every file of a folder of shards"),
    ):
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        command.set_defaults(run=run)
        command.add_argument("place", metavar="DIR|URL")
        add_json(command)
    return parser


def _options_of_sources() -> str:
    usages = []
    for name, source in SOURCES.items():
        parser = argparse.ArgumentParser(prog=f"  --source {name}", add_help=False)
        source.add_arguments(parser)
        usages.append(parser.format_usage().removeprefix("usage: "))
    return "options of each source (--source NAME --help explains them):\n\n" + "".join(usages)


def _chosen_source(argv: Sequence[str]) -> str | None:
    """The value of --source, needed before parsing because each source has its own options."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--source", nargs="?")
    source: str | None = parser.parse_known_args(argv)[0].source
    return source


def _run_build(arguments: argparse.Namespace) -> int:
    source = SOURCES[arguments.source].from_arguments(arguments)
    with upload_after(arguments.output) as output:
        index = build(
            source,
            arguments.source,
            output,
            arguments.shard_bytes,
            arguments.strict,
            image_size=arguments.image_size,
            raw_text=arguments.raw_text,
            filters=Filters.from_arguments(arguments),
            executor=open_executor(arguments.workers, arguments.ray),
        )
        unused = int((read_catalogue(output)["interactions"].to_numpy() == 0).sum())
    if arguments.json:
        print_json({"output": public(arguments.output)} | index.model_dump(mode="json"))
    else:
        _print_summary(index, public(arguments.output), unused)
    return 0


def _print_summary(index: ShardIndex, output: str, unused: int) -> None:
    counts = index.counts
    megabytes = sum(file.bytes for file in index.files) / 1e6
    print(f"{counts.users:,} users, {counts.items:,} items ({counts.images:,} with image), ", end="")
    print(f"{counts.interactions:,} interactions", end="")
    print(f", {counts.impressions:,} impressions" if index.heads else "", end="")
    print(f": {output}, {len(index.files)} files, {megabytes:,.1f} MB")
    if not counts.interactions:
        print("no interactions: this is a catalogue of items, for recommending and exporting, but not for training")
    if left_out := index.build.get("left_out"):
        print(f"columns left out because they hold bytes, not text: {', '.join(left_out)}")
    if unread := index.build.get("not_read"):
        print(f"columns of interactions that are not read: {', '.join(unread)}")
    if counts.cleaned:
        fields = ", ".join(f"{name} {items:,}" for name, items in counts.cleaned.items())
        print(f"items with markup removed, by text field: {fields} (--raw-text keeps it)")
    for name, rows in counts.dropped.items():
        print(f"dropped by {name:<12} {rows:,}")
    if unused and any(counts.dropped.values()):
        print(f"items without interactions, which stay in the catalogue: {unused:,}")
    if counts.rejects:
        print(f"{sum(counts.rejects.values()):,} rejected rows, listed in {output}/{REJECTS_FILE}:")
        for reason, rows in counts.rejects.items():
            print(f"  {reason:<18} {rows:,}")


def _run_inspect(arguments: argparse.Namespace) -> int:
    folder = _local(arguments.place)
    if arguments.json:
        print_json({"place": public(arguments.place)} | facts(folder))
    else:
        inspect(folder, console())
    return 0


def _run_verify(arguments: argparse.Namespace) -> int:
    folder = _local(arguments.place)
    problems = verify(folder)
    counts = ShardIndex.load(folder).counts
    if arguments.json:
        found = {"whole": not problems, "problems": [problem._asdict() for problem in problems]}
        print_json({"place": public(arguments.place), **found, "counts": counts.model_dump(mode="json")})
        return int(bool(problems))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return 1
    print(f"{public(arguments.place)}: no problems found; {counts.users:,} users, {counts.items:,} items")
    return 0


def _local(place: str) -> Path:
    """The folder, or a local copy of everything at the URL."""
    return ShardFolder(place, cache_bytes=sys.maxsize).copy()


if __name__ == "__main__":
    sys.exit(main())
