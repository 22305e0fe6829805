"""Write the trained backbones of a run as Hugging Face models: `transrec export --run R --output DIR`.

`AutoModel.from_pretrained(DIR)` then loads the item encoder's backbone as trained, with LoRA merged, and
`AutoTokenizer.from_pretrained(DIR)` its tokenizer. A multimodal run is written to DIR/text and DIR/image. With
`--peft`, `PeftModel.from_pretrained(backbone, DIR)` adds the run's LoRA to the backbone it was trained on. With
`--adapter A`, an adapted run or its export folder is exported, and `--run` names its base, which may have moved.

transrec export --run R --output DIR --vectors [--index flat|hnsw] [--tower onnx torch] [--histories users.jsonl]
transrec export [--run SOURCE] --adapter A --output DIR --vectors …
transrec export --run R --output DIR --vectors --new-items --catalogue SHARDS    encodes only the items that are new

With `--vectors`, the vectors of all items are written to DIR as Parquet and safetensors. The other options add an
index, user towers, or vectors of users.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import command
from transrec.runs.histories import users_of
from transrec.runs.portable_tower import SUFFIXES
from transrec.runs.recommender import recommenders
from transrec.runs.tower_export import export_peft, export_towers
from transrec.runs.vector_export import Wanted, export_vectors
from transrec.runs.vector_index import INDEXES


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argument_parser()
    arguments = parser.parse_args(argv)
    if fault := misuse(arguments):
        parser.error(fault)
    if arguments.vectors:
        return write_vectors(arguments)
    export, what = (export_peft, "LoRA") if arguments.peft else (export_towers, "backbone")
    run, base = (arguments.adapter, arguments.run) if arguments.adapter else (arguments.run, None)
    for folder, modality in export(run, arguments.output, base).items():
        print(f"{modality} {what}: {folder}")
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """The parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="transrec export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="run folder; with --adapter, the base run of the adapter")
    parser.add_argument("--output", type=Path, required=True, help="output folder; new or empty")
    parser.add_argument("--adapter", type=Path, help="an adapted run, or its export folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--peft", action="store_true", help="write only the LoRA, in PEFT's format")
    what.add_argument("--vectors", action="store_true", help="write the vectors of the items")
    vectors = parser.add_argument_group("with --vectors")
    vectors.add_argument("--catalogue", metavar="DIR|URL", help="shards whose items to encode (default: the run's)")
    vectors.add_argument("--index", choices=INDEXES, help="also write a FAISS index: exact (flat) or a graph (hnsw)")
    vectors.add_argument("--tower", choices=SUFFIXES, nargs="+", default=[], help="also write user tower and scorer")
    vectors.add_argument(
        "--histories", metavar="FILE", help='also write vectors of users: JSON lines {"user": …, "history": [ids]}'
    )
    vectors.add_argument(
        "--new-items", action="store_true", help="update DIR, encoding only items whose content it does not have yet"
    )
    return parser


def misuse(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the combination of arguments, or None."""
    if not arguments.vectors:
        given = [name for name in ("catalogue", "index", "tower", "histories") if getattr(arguments, name)]
        given += ["new-items"] if arguments.new_items else []
        if given:
            return f"--{given[0]} needs --vectors"
    if arguments.run is None and arguments.adapter is None:
        return "name a run with --run, or an adapter with --adapter"
    return None


def write_vectors(arguments: argparse.Namespace) -> int:
    """Write vectors and print what was written."""
    wanted = Wanted(arguments.index, arguments.tower)
    adapters = [] if arguments.adapter is None else [arguments.adapter]
    (recommender,) = recommenders(arguments.run, adapters, arguments.catalogue)
    users = None if arguments.histories is None else users_of(arguments.histories)
    manifest = export_vectors(recommender, arguments.output, wanted, users, arguments.new_items)
    print(f"{manifest.items:,} items, of which {manifest.encoded_items:,} were encoded: {arguments.output}")
    for name, error in manifest.largest_error.items():
        print(f"{name}: differs from the model by at most {error:.1e}")
    if manifest.users is not None and users is None:
        print(f"{manifest.users.written:,} users, as they were: give --histories to encode them again")
    elif manifest.users is not None:
        print(f"{manifest.users.written:,} users; {manifest.users.left_out:,} have no known item and were left out")
    if users is not None and manifest.users is not None and manifest.users.unknown_ids:
        print(f"left out {manifest.users.unknown_ids:,} unknown item ids", file=sys.stderr)
    if manifest.leaves_out:
        print(
            f"the vectors leave out the model's evidence ({', '.join(manifest.leaves_out)}), which is part of its "
            "scores: use `transrec recommend` or `transrec serve` to rank the candidates found with the vectors",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
