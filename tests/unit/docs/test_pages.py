"""README and the pages: their commands exist, their links lead somewhere, their messages are the code's."""

import ast
import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from commands import REPOSITORY
from pages import EXTENDING, PAGES, README, Block, blocks, command_of, recorded

import data_tools.__main__
from transrec import __version__
from transrec.adaptation import MethodConfig
from transrec.adaptation.method import AdapterMethod
from transrec.commands import completion, evaluate, fill, lineage, plan, recommend, serve, sweep, train
from transrec.config import find, load, validate
from transrec.experiment import Experiment
from transrec.sweeps.config import load_sweep

EVERY = [block for page in PAGES for block in blocks(page)]
COMMANDS = [block for block in EVERY if block.language == "sh" and block.page != EXTENDING]
RUNS = {"train": train.parse, "plan": plan.parse, "fill": fill.parse}  # commands that take the configuration of a run
PARSERS = {
    "completion": completion.argument_parser().parse_args,
    "evaluate": evaluate.parse,
    "lineage": lineage.parse,
    "recommend": recommend.parse,
    "serve": serve.parse,
}
UNPARSED = {"export", "report"}  # run by the slow test of the pages
OTHERS = {"pip", "ray", "scontrol", "kubectl", "curl"}


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / README).read_text("utf-8").splitlines()) <= 250


@pytest.mark.parametrize("block", EVERY, ids=str)
def test_a_block_is_of_a_known_kind(block: Block) -> None:
    assert block.language in {"sh", "python", "yaml", "diff", "text"}
    assert block.illustration is None or block.language == "sh"


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_every_command_can_be_given(block: Block, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()  # the tutorial's
    (tmp_path / "sent").mkdir()
    (tmp_path / "runs" / "a" / "export").mkdir(parents=True)
    given = recorded(block.text, tmp_path)
    assert given
    for arguments in given:
        accept(*arguments)


def accept(program: str, *arguments: str) -> None:
    """Fail unless a command of the project takes the arguments."""
    if program in OTHERS:
        return
    if program == "make":
        assert set(arguments) <= targets(), arguments
        return
    name, rest = command_of(program, list(arguments))
    if name in RUNS:
        parsed = RUNS[name](rest)
        load(Experiment, find(parsed.config), parsed.overrides)
    elif name == "sweep":
        parsed = sweep.parse(rest)
        stages_of(load_sweep(find(parsed.config), parsed.overrides))
    elif name == "data":
        data_tools.__main__._parse(rest)
    elif name == "-c":
        compile(rest[0], "-c", "exec")
    elif name in PARSERS:
        PARSERS[name](rest)
    else:
        assert name in UNPARSED or Path(REPOSITORY / name).is_file(), name


def stages_of(loaded: object) -> None:
    """Fail unless the stages of a sweep have the keys of an experiment."""
    for stage in ("source", "target"):
        values = getattr(loaded, stage)
        if values is not None:
            validate(Experiment, {"data": {}, **values, "run_dir": "run"})


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("arguments", [("train", "--config", "quickstart", "modle.width=3"), ("data", "buld")], ids=str)
def test_a_command_that_does_not_exist_is_found(arguments: tuple[str, ...]) -> None:
    with pytest.raises((ValueError, SystemExit)):
        accept("transrec", *arguments)


@pytest.mark.parametrize("block", [block for block in EVERY if block.language == "yaml"], ids=str)
def test_yaml_is_a_configuration(block: Block, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    if block.title is not None:
        (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        stages_of(load_sweep(tmp_path / block.title))
        return
    file = tmp_path / "configs" / "transrec" / "part.yaml"
    file.write_text("base: text_sasrec.yaml\n" + block.text, encoding="utf-8")
    load(Experiment, file, ["data.path=shards", "run_dir=run"])


OVERRIDE = re.compile(r"`((?:data|model|train|optimizer|zero|prefix_cache|evaluation)\.[a-z_.]+=[^`]*)`")
OVERRIDES = {(page, text) for page in PAGES for text in OVERRIDE.findall((REPOSITORY / page).read_text("utf-8"))}


@pytest.mark.parametrize(("page", "text"), sorted(OVERRIDES))
def test_a_setting_in_the_text_is_one(page: str, text: str) -> None:
    overrides = text.split() if "{" not in text and "[" not in text else [text]
    task = any(each.startswith("data.examples.targets") or each.endswith(("logistic", "bpr")) for each in overrides)
    if "…" not in text and not task:
        config = "image_sasrec" if "image" in text or "augment" in text or "mask_ratio" in text else "text_sasrec"
        load(Experiment, find(f"transrec/{config}"), ["data.path=shards", "run_dir=run", *overrides])


def test_the_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (REPOSITORY / README).read_text("utf-8"))
    assert len(links) > 30
    assert not [link for link in links if "://" not in link and not (REPOSITORY / link).exists()]


@cache
def literals() -> str:
    """The text of every string in the code; `…` stands for what is filled in."""
    files = [path for package in ("transrec", "data_tools") for path in (REPOSITORY / package).rglob("*.py")]
    return "\n".join(text for file in files for text in texts(ast.parse(file.read_text("utf-8"))))


def texts(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


MESSAGES = re.findall(r"\*\*`(.+?)`\*\*", (REPOSITORY / "docs" / "faq.md").read_text("utf-8"))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_explained_is_one(message: str) -> None:
    assert message in literals()


def test_the_version_is_the_same_everywhere() -> None:
    cited = re.search(r"^version: (.+)$", (REPOSITORY / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert cited is not None
    assert cited[1] == __version__
    assert f"\n## {__version__}\n" in (REPOSITORY / "CHANGELOG.md").read_text("utf-8")


def test_pages_speak_of_no_machine() -> None:
    for page in PAGES:
        assert os.path.expanduser("~") + "/" not in (REPOSITORY / page).read_text("utf-8")


def test_the_default_rates_of_adapters_on_the_page_are_those_of_the_methods() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([\de.-]+) \| ([\de.-]+) \|$", (REPOSITORY / "docs" / "adaptation.md").read_text("utf-8"), re.M
    )
    methods = {kind.model_fields["name"].default: kind for kind in get_args(get_args(MethodConfig)[0])}
    rated = {name: kind.rates for name, kind in methods.items() if issubclass(kind, AdapterMethod)}
    assert {name: (float(text), float(image)) for name, text, image in rows} == {
        name: (rates.of("text"), rates.of("image")) for name, rates in rated.items()
    }
