"""Who may import whom, and what must not be in the code at all."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("transrec", "data_tools", "launch")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FAMILIES = {"item_encoders", "user_encoders", "interests", "objectives", "evidence", "adaptation"}
LOOP = {"models", "experiment", "runs", "training", "data"}  # what a component must not know
LONGEST_FUNCTION = 60
# Decode pickles, or YAML that names Python objects.
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "eval", "exec", "os.system"}


def name_of(path: Path) -> str:
    """`transrec/data/order.py` -> `transrec.data.order`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported, anywhere in a file: `from a.b import c` gives `a.b.c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
IMPORTS = {module: sorted(set(imports(tree))) for module, tree in TREES.items()}
EVERY_MODULE = pytest.mark.parametrize("module", sorted(TREES))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imported(module: str, *packages: str) -> set[str]:
    return {name for name in IMPORTS[module] if within(name, *packages)}


def of_package(package: str) -> list[str]:
    found = [module for module in TREES if within(module, package)]
    assert found, f"nothing lies in {package}: the rule guards an empty room"
    return found


def test_the_walk_finds_the_code() -> None:
    assert {
        "transrec.training.trainer",
        "transrec.item_encoders.text",
        "data_tools.build",
        "transrec.commands.train",
    } <= TREES.keys()
    assert "transrec.data.batch.ItemContent" in IMPORTS["transrec.item_encoders.backbone_encoder"]


def module_of(name: str) -> str | None:
    """The module of ours in which an imported name lies: `transrec.files.writing` -> `transrec.files`."""
    while name and name not in TREES:
        name = name.rpartition(".")[0]
    return name or None


def circle(graph: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Some circle of a graph, or ()."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return tuple(error.args[1])
    return ()


def test_no_import_goes_round_in_a_circle() -> None:
    """Not inside functions either; that a package is imported before what lies in it is left out."""
    modules = {module: {module_of(name) for name in IMPORTS[module]} - {None, module} for module in TREES}
    assert not circle({module: [str(name) for name in names] for module, names in modules.items()})


def test_a_circle_is_found() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": ["a"]})
    assert not circle({"a": ["b", "c"], "b": ["c"]})


@EVERY_MODULE
def test_nothing_is_imported_for_type_checkers_alone(module: str) -> None:
    """It would hide a circle."""
    assert not imported(module, "typing.TYPE_CHECKING")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_imports_no_other_family_and_nothing_of_the_loop(family: str) -> None:
    others = [f"transrec.{name}" for name in FAMILIES - {family} | LOOP]
    for module in of_package(f"transrec.{family}"):
        assert not {name for name in imported(module, *others) if not within(name, "transrec.data.batch")}, module


@pytest.mark.parametrize("family", ["user_encoders", "adaptation"])
def test_what_sees_only_vectors_knows_no_batch(family: str) -> None:
    assert not {name for module in of_package(f"transrec.{family}") for name in imported(module, "transrec.data")}


def test_models_are_put_together_from_families_and_the_batch() -> None:
    families = ("item_encoders", "user_encoders", "interests", "objectives", "evidence", "features")
    allowed = (*families, "models", "nn", "protocols", "config", "files", "data.batch")
    for module in of_package("transrec.models"):
        rest = {n for n in imported(module, "transrec") if not within(n, *(f"transrec.{name}" for name in allowed))}
        assert not rest, module


def test_data_knows_no_model_and_no_loop() -> None:
    for module in of_package("transrec.data"):
        rest = {n for n in imported(module, "transrec") if not within(n, *(f"transrec.{x}" for x in ALLOWED_IN_DATA))}
        assert not rest, module


ALLOWED_IN_DATA = ("data", "features", "protocols", "config", "errors", "files", "locks", "phases", "terminal", "work")


def test_evaluation_knows_data_and_metrics_only() -> None:
    for module in of_package("transrec.evaluation"):
        rest = imported(module, "transrec") - imported(
            module,
            "transrec.evaluation",
            "transrec.protocols",
            "transrec.config",
            "transrec.errors",
            "transrec.phases",
            "transrec.work",
            "transrec.distributed.world",
            "transrec.data",
        )
        assert not rest, module
        if module != "transrec.evaluation.evaluator":
            assert not imported(module, "transrec.data"), f"{module}: metrics are functions of ranks and scores"


def test_the_trainer_does_not_know_which_model_it_trains() -> None:
    components = [f"transrec.{name}" for name in (*FAMILIES, "models", "evaluation", "experiment", "runs")]
    assert not imported("transrec.training.trainer", *components)


def test_the_foundations_know_nothing_above_them() -> None:
    """Each may import only itself, the errors and what is named here."""
    foundations = {
        "config": (),
        "errors": (),
        "files": (),
        "locks": ("files",),
        "phases": (),
        "terminal": (),
        "distributed": (),
        "training.records": ("files", "terminal", "training.trackers"),
        "training.trackers": ("config", "extras", "files", "terminal"),
        "weights": ("distributed", "files", "protocols"),
        "training.engine": ("config", "distributed.extension_locks"),
        "training.optim": ("nn.parameter_groups", "protocols", "config", "training.engine", "training.row_wise"),
        "training.row_wise": ("config",),
        "training.tables": ("distributed", "training.row_wise"),
        "protocols": ("config", "data.batch"),
        "nn": ("protocols", "data.batch"),
        "training.checkpoint": ("distributed", "training.engine_state", "files", "weights"),
        "training.engine_state": ("distributed", "training.tables"),
    }
    for name, allowed in foundations.items():
        for module in of_package(f"transrec.{name}"):
            rest = imported(module, "transrec") - imported(
                module, "transrec.errors", f"transrec.{name}", *(f"transrec.{other}" for other in allowed)
            )
            assert not rest, module


def test_commands_leave_components_to_the_experiment() -> None:
    components = [
        f"transrec.{name}" for name in (*FAMILIES, "models", "training.optim", "training.engine", "training.checkpoint")
    ]
    for module in of_package("transrec.commands"):
        assert not imported(module, *components), module


@pytest.mark.parametrize("library", ["torch", "numpy", "pyarrow", "ray", "deepspeed"])
def test_commands_compute_nothing(library: str) -> None:
    for module in of_package("transrec.commands"):
        assert not imported(module, library), module


def test_commands_hold_no_classes() -> None:
    """They parse and print: whatever has a state is a room's, where Python can have it too."""
    for module in of_package("transrec.commands"):
        classes = {node.name for node in ast.walk(TREES[module]) if isinstance(node, ast.ClassDef)}
        assert classes <= {"Main"} if module == "transrec.commands.entry" else not classes, module


def test_every_command_ends_in_the_same_way() -> None:
    """Its `main` is decorated, and no handler of its own explains an error."""
    mains = [
        module for module in (*of_package("transrec.commands"), "data_tools.__main__") if "main" in functions(module)
    ]
    assert len(mains) == 15
    for module in mains:
        decorators = [ast.unparse(each) for each in functions(module)["main"].decorator_list]
        assert [each.partition("(")[0] for each in decorators] == ["command"], module
        assert not imported(module, "transrec.errors"), module


def functions(module: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in TREES[module].body if isinstance(node, ast.FunctionDef)}


def test_nothing_imports_a_command() -> None:
    """But for how commands end, which they share, and the script, which `python -m transrec` is too."""
    for module in (*of_package("transrec"), *of_package("data_tools")):
        assert not imported(module, "launch"), module
        rest = imported(module, "transrec.commands") - imported(module, "transrec.commands.entry")
        assert within(module, "transrec.commands", "transrec.__main__") or not rest, module
        assert within(module, "transrec.commands", "data_tools.__main__") or not imported(
            module, "transrec.commands.entry"
        ), module


@pytest.mark.parametrize(
    "module", ["transrec", "transrec.commands.main", "transrec.commands.entry", "transrec.__main__"]
)
def test_what_every_program_imports_is_light(module: str) -> None:
    assert imported(module, "transrec") <= imported(
        module,
        "transrec.__version__",
        "transrec.errors",
        "transrec.files",  # the standard library alone
        "transrec.commands.entry",
        "transrec.commands.main",
    )


SHARED = (
    "transrec.data.shards.schema",
    "transrec.data.shards.shard_folder",
    "transrec.data.shards.remote",
    "transrec.errors",
    "transrec.commands.entry",
    "transrec.files",
    "transrec.locks",
    "transrec.terminal",
)


def test_the_shard_builder_shares_only_the_schema_and_the_place_of_shards_with_training() -> None:
    for module in of_package("data_tools"):
        assert imported(module, "transrec") == imported(module, *SHARED), module
    for module in of_package("transrec"):
        assert not imported(module, "data_tools"), module


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        (
            "deepspeed",
            (
                "transrec.training.engine",
                "transrec.distributed.world",
                "transrec.training.engine_state",
                "transrec.training.trainer",
            ),
        ),
        ("transformers", ("transrec.item_encoders",)),
        ("tokenizers", ("transrec.item_encoders",)),
        ("webdataset", ("transrec.data", "data_tools")),
        ("ray", ("transrec.sweeps.ray_executor", "data_tools.executor")),
        ("argparse", ("transrec.commands", "data_tools")),
        ("tensorboard", ("transrec.training.trackers.tensorboard_log",)),
        ("wandb", ()),  # imported by name when a run asks for it, as is mlflow
        ("mlflow", ()),
        ("fastapi", ("transrec.serving",)),
        ("uvicorn", ("transrec.serving",)),
        ("prometheus_client", ("transrec.serving",)),
        ("filelock", ("transrec.locks", "transrec.data.shards.shard_cache", "transrec.sweeps")),
        ("matplotlib", ("transrec.sweeps.report.figures", "transrec.sweeps.report.page")),
        ("sklearn", ("transrec.evaluation.logistic_regression", "transrec.evaluation.ranking_baselines")),
        ("torch.utils.tensorboard", ("transrec.training.trackers.tensorboard_log",)),
        ("torch.distributed", ("transrec.distributed",)),
    ],
)
def test_a_library_stays_in_its_place(library: str, homes: tuple[str, ...]) -> None:
    assert {module for module in TREES if imported(module, library) and not within(module, *homes)} == set()


@pytest.mark.parametrize("library", ["torch", "deepspeed", "transformers"])
def test_the_shard_builder_needs_no(library: str) -> None:
    """Directly; nor must what it imports of transrec."""
    shared = (
        *SHARED,
        "transrec",
        "transrec.data",
        "transrec.commands",
        "transrec.data.shards",
        "transrec.data.shards.shard_cache",
        "transrec.files",
    )
    for module in (*of_package("data_tools"), *shared):
        assert not imported(module, library), module


@EVERY_MODULE
def test_no_file_is_named_for_nothing(module: str) -> None:
    assert module.split(".")[-1] not in {"utils", "util", "helpers", "helper", "common", "misc"}


@EVERY_MODULE
def test_every_console_shows_text_as_it_is(module: str) -> None:
    """`rich` takes `[/part 1]` in a title for markup, unless its console is told otherwise."""
    made = [n for n in ast.walk(TREES[module]) if isinstance(n, ast.Call) and ast.unparse(n.func).endswith("Console")]
    assert not made or module == "transrec.terminal"
    assert "from_markup" not in ast.unparse(TREES[module])


@EVERY_MODULE
def test_functions_fit_a_screen(module: str) -> None:
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    }
    assert not long


@EVERY_MODULE
def test_nothing_decodes_what_can_run_code(module: str) -> None:
    assert not imported(module, *UNSAFE_MODULES)
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert called not in UNSAFE_CALLS
            assert called != "torch.load" or keywords.get("weights_only") == "True"
            assert keywords.get("allow_pickle", "False") == "False"
            assert keywords.get("shell", "False") == "False"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "yaml.load(text, Loader)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
    ],
)
def test_the_search_for_unsafe_code_finds_it(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ast.parse(code)
    monkeypatch.setitem(TREES, "bad", tree)
    monkeypatch.setitem(IMPORTS, "bad", sorted(imports(tree)))
    with pytest.raises(AssertionError):
        test_nothing_decodes_what_can_run_code("bad")


def test_test_files_have_names_of_their_own() -> None:
    """Without packages, pytest tells them apart by name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
    assert not list((ROOT / "tests").rglob("__init__.py"))
