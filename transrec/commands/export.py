"""Write the trained backbones of a run as Hugging Face models: `transrec export --run R --output DIR`.

`AutoModel.from_pretrained(DIR)` then loads the item encoder's backbone as trained, with LoRA merged, and
`AutoTokenizer.from_pretrained(DIR)` its tokenizer. A multimodal run is written to DIR/text and DIR/image. With
`--peft`, `PeftModel.from_pretrained(backbone, DIR)` adds the run's LoRA to the backbone it was trained on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transrec.commands.entry import command
from transrec.runs.tower_export import export_peft, export_towers


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="transrec export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    parser.add_argument("--output", type=Path, required=True, help="output folder; new or empty")
    parser.add_argument("--peft", action="store_true", help="write only the LoRA, in PEFT's format")
    arguments = parser.parse_args(argv)
    export, what = (export_peft, "LoRA") if arguments.peft else (export_towers, "backbone")
    for folder, modality in export(arguments.run, arguments.output).items():
        print(f"{modality} {what}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
