"""Every command of README and the pages that is no illustration, run as it is written, with two steps of training."""

import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import ENVIRONMENT, REPOSITORY, free_port
from pages import EXTENDING, PAGES, README, Block, blocks, change, run_shell, write_program

from data_tools.__main__ import main as data

pytestmark = pytest.mark.slow

FEW = (
    "train.steps=2 train.batch_size=16 train.evaluate_every=never train.checkpoint_every=never train.precision=fp32"
    " data.cache=cache"
)
RUN = {"sh", "python"}


@dataclass(frozen=True)
class World:
    """A folder in which the commands of the pages find what they name."""

    folder: Path
    programs: Path

    def run(self, block: Block, code: Path = REPOSITORY) -> None:
        text = block.text if block.language == "sh" else f"python - <<'END_OF_PYTHON'\n{block.text}END_OF_PYTHON\n"
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(code)}
        run_shell(text, self.folder, self.programs, environment)


def to_run(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUN and block.illustration is None]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Five sets of shards, tables to build one, and the runs that README makes of them."""
    folder = tmp_path_factory.mktemp("pages")
    made = World(folder, few_steps(folder / "programs"))
    for name in ("launch", "configs", "data_tools"):
        (folder / name).symlink_to(REPOSITORY / name)
    write_tables(folder / "my_data", seed=0)
    for seed, name in enumerate(("source", "a", "b", "other"), start=1):
        write_tables(folder / "tables" / name, seed)
        assert (
            data(
                [
                    "build",
                    "--source",
                    "tables",
                    "--input",
                    f"{folder}/tables/{name}",
                    "--output",
                    f"{folder}/shards/{name}",
                ]
            )
            == 0
        )
    (folder / "users.jsonl").write_text('{"user": "ann", "history": ["i3", "i17"]}\n')
    for block in to_run(README):
        if block.language == "sh":  # test_installed_package.py runs the Python
            made.run(block)
    return made


def few_steps(programs: Path) -> Path:
    """`python` and `deepspeed` that train for two steps, whatever a command says."""
    programs.mkdir()
    few = f'few=(); for given; do if [ "$given" = launch/train.py ]; then few=({FEW}); fi; done'
    deepspeed = Path(sys.executable).with_name("deepspeed")
    write_program(programs, "python", f'{few}\nexec {sys.executable} "$@" "${{few[@]}}"')
    write_program(programs, "deepspeed", f'{few}\nexec {deepspeed} --master_port {free_port()} "$@" "${{few[@]}}"')
    return programs


def write_tables(folder: Path, seed: int, users: int = 120, items: int = 60) -> None:
    """Items i1, i2, …, users u1, u2, … with a gender, and histories of 5 to 12 items."""
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    colours, things = ("red", "green", "blue", "white"), ("cup", "chair", "lamp", "book", "bowl")
    item_rows = [f"i{i}\tItem {i}\tA {rng.choice(colours)} {rng.choice(things)}" for i in range(1, items + 1)]
    user_rows = [f"u{u}\t{rng.choice('fm')}" for u in range(1, users + 1)]
    rows = [
        f"u{u}\ti{rng.randint(1, items)}\t{1_700_000_000 + 100 * place}"
        for u in range(1, users + 1)
        for place in range(rng.randint(5, 12))
    ]
    table(folder / "items.tsv", "item_id\ttitle\ttext", item_rows)
    table(folder / "users.tsv", "user_id\tgender", user_rows)
    table(folder / "interactions.tsv", "user_id\titem_id\ttimestamp", rows)


def table(file: Path, header: str, rows: Sequence[str]) -> None:
    file.write_text("\n".join([header, *rows, ""]), encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page) and page not in {README, EXTENDING}])
def test_the_commands_of_a_page_run(world: World, page: str) -> None:
    for block in to_run(page):
        world.run(block)


def test_the_recipes_work(world: World, tmp_path: Path) -> None:
    """Each in a copy of the project, which has the changes of those before it."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("launch", "configs", "data_tools", "transrec", "tests", "docs"):
        copy_tree(REPOSITORY / name, copy / name)
    (copy / "pyproject.toml").write_bytes((REPOSITORY / "pyproject.toml").read_bytes())
    (copy / "shards").symlink_to(world.folder / "shards")
    there = World(copy, world.programs)
    for block in blocks(EXTENDING):
        if block.title is not None and block.language == "diff":
            change(copy / block.title, block.text)
        elif block.title is not None:
            (copy / block.title).write_text(block.text, encoding="utf-8")
        else:
            there.run(block, code=copy)
    assert (copy / "runs" / "mean_rank" / "summary.json").exists()


def copy_tree(source: Path, target: Path) -> None:
    for file in source.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(source)).write_bytes(file.read_bytes())
