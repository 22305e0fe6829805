"""Every command of README and the pages that is no illustration, with two steps of training."""

import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree

import pytest
from commands import ENVIRONMENT, REPOSITORY, ForkedCommands
from pages import EXTENDING, PAGES, README, Block, blocks, change, command_of, recorded, run_shell, write_program

from data_tools.__main__ import main as data

pytestmark = pytest.mark.slow

FEW = [
    "train.steps=2",
    "train.batch_size=16",
    "train.evaluate_every=never",
    "train.checkpoint_every=never",
    "train.precision=fp32",
    "data.cache=cache",
]
RUN = {"sh", "python"}


@dataclass(frozen=True)
class World:
    """A folder in which the commands of the pages find what they name.

    Bash does what it does with a block; the programs that it starts are then run in turn, on one rank.
    """

    folder: Path
    commands: ForkedCommands

    def run(self, block: Block) -> None:
        if block.language == "python":
            self._execute(block.text)
            return
        for program, *arguments in recorded(block.text, self.folder):
            self._run(*command_of(program, arguments))

    def _run(self, name: str, arguments: Sequence[str]) -> None:
        if name == "-c":
            self._execute(arguments[0])
            return
        if name == "data":
            if "--output" in arguments:  # pages build the same sets
                rmtree(self.folder / arguments[arguments.index("--output") + 1], ignore_errors=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.folder)
                assert data(arguments) == 0
            return
        few = FEW if name == "train" else []
        running = self.commands.start(name, *arguments, *few, before=partial(os.chdir, self.folder))
        finished = running.wait(600)
        assert finished.code == 0, f"{name} {arguments}\n{finished.stdout[-2000:]}\n{finished.stderr[-4000:]}"

    def _execute(self, code: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            exec(compile(code, "page", "exec"), {"__name__": "page"})


def to_run(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.language in RUN and block.illustration is None]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, commands: ForkedCommands) -> World:
    """Four sets of shards, tables to build a fifth, and the runs that README makes of them."""
    folder = tmp_path_factory.mktemp("pages")
    made = World(folder, commands)
    (folder / "data_tools").symlink_to(REPOSITORY / "data_tools")
    (folder / "sent").mkdir()
    write_tables(folder / "my_data", seed=0)
    for seed, name in enumerate(("source", "a", "b", "other"), start=1):
        tables, shards = folder / "tables" / name, folder / "shards" / name
        write_tables(tables, seed)
        assert data(["build", "--source", "tables", "--input", str(tables), "--output", str(shards)]) == 0
    (folder / "users.jsonl").write_text('{"user": "ann", "history": ["i3", "i17"]}\n')
    for block in to_run(README):
        if block.language == "sh":  # test_installed_package.py runs the Python
            made.run(block)
    return made


def write_tables(folder: Path, seed: int, users: int = 120, items: int = 60) -> None:
    """Items i1, i2, …, users u1, u2, … with a gender, and histories of 5 to 12 items."""
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    colours, things = ("red", "green", "blue", "white"), ("cup", "chair", "lamp", "book", "bowl")
    item_rows = [f"i{i}\tItem {i}\tA {rng.choice(colours)} {rng.choice(things)}" for i in range(1, items + 1)]
    user_rows = [f"u{u}\t{rng.choice('fm')}" for u in range(1, users + 1)]
    rows = [
        f"u{u}\ti{rng.randint(1, items)}\t{1_700_000_000 + 100 * place}\t{rng.randint(1, 5)}"
        for u in range(1, users + 1)
        for place in range(rng.randint(5, 12))
    ]
    table(folder / "items.tsv", "item_id\ttitle\ttext", item_rows)
    table(folder / "users.tsv", "user_id\tgender", user_rows)
    table(folder / "interactions.tsv", "user_id\titem_id\ttimestamp\trating", rows)


def table(file: Path, header: str, rows: Sequence[str]) -> None:
    file.write_text("\n".join([header, *rows, ""]), encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page) and page not in {README, EXTENDING}])
def test_the_commands_of_a_page_run(world: World, page: str) -> None:
    for block in to_run(page):
        world.run(block)


def test_the_recipes_work(world: World, tmp_path: Path) -> None:
    """In a copy of the project, one after another."""
    copy, programs = tmp_path / "project", tmp_path / "programs"
    for name in ("launch", "configs", "data_tools", "transrec", "tests", "docs"):
        copy_tree(REPOSITORY / name, copy / name)
    (copy / "pyproject.toml").write_bytes((REPOSITORY / "pyproject.toml").read_bytes())
    (copy / "shards").mkdir()
    (copy / "shards" / "my_data").symlink_to(world.folder / "shards" / "my_data")
    programs.mkdir()
    few = f'few=(); for given; do if [ "$given" = launch/train.py ]; then few=({" ".join(FEW)}); fi; done'
    write_program(programs, "python", f'{few}\nexec {sys.executable} "$@" "${{few[@]}}"')
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(copy)}
    for block in blocks(EXTENDING):
        if block.title is not None and block.language == "diff":
            change(copy / block.title, block.text)
        elif block.title is not None:
            (copy / block.title).write_text(block.text, encoding="utf-8")
        else:
            run_shell(block.text, copy, programs, environment)
    assert (copy / "runs" / "mean_rank" / "summary.json").exists()


def copy_tree(source: Path, target: Path) -> None:
    for file in source.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(source)).write_bytes(file.read_bytes())
