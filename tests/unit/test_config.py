from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from transrec.config import (
    Config,
    ConfigError,
    config_classes,
    dotted_keys,
    dump,
    load,
    parse_overrides,
    read_yaml,
    validate,
)


class Square(Config):
    name: Literal["square"] = "square"
    side: float = 1.0


class Circle(Config):
    name: Literal["circle"] = "circle"
    radius: float = 1.0
    points: list[int] = Field([1, 2])


class Pen(Config):
    colour: str = "black"
    width: int | None = Field(None, ge=1)
    thick: bool = False
    tip: Literal["round", "off", "010"] = "round"
    ink: str | None = None


class Drawing(Config):
    shape: Annotated[Square | Circle, Field(discriminator="name")] = Square()
    shapes: list[Annotated[Square | Circle, Field(discriminator="name")]] = Field([])
    pen: Pen = Pen()
    folder: Path = Path("somewhere")
    further: dict[str, Any] = Field({})
    corners: tuple[float, float] = (0.0, 1.0)


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("penn: {}", "unknown key `penn`: did you mean `pen`?"),
        ("pen: {color: red}", "unknown key `pen.color`: did you mean `pen.colour`?"),
        ("shape: {name: circle, radios: 2}", "unknown key `shape.radios`: did you mean `shape.radius`?"),
        ("shape: {name: circle, side: 2}", "unknown key `shape.side`: valid keys here: name, radius, points"),
        (
            "shapes: [{name: square}, {name: square, sid: 2}]",
            "unknown key `shapes.1.sid`: did you mean `shapes.1.side`?",
        ),
        ("zzz: 1", "unknown key `zzz`: valid keys here: shape, shapes, pen, folder, further, corners"),
    ],
)
def test_unknown_key_is_an_error_that_names_the_nearest(write, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(Drawing, write(text))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shape: {name: hexagon}", "`shape.name`: 'hexagon' is not one of 'square', 'circle'"),
        ("shape: {side: 2}", "`shape`: set `shape.name` to choose a component"),
        (
            "shape: {name:square}",
            "to choose a component; 'name:square' is one key: write a space after the colon, 'name: square'",
        ),
        ("shape: {name: squire}", "`shape.name`: 'squire' is not one of 'square', 'circle'; did you mean 'square'?"),
        ("shapes: [{name: hexagon}]", "`shapes.0.name`: 'hexagon' is not one of 'square', 'circle'"),
        ("shape: {name: circle, radius: wide}", "`shape.radius`: Input should be a valid number"),
        ("pen: {width: 0}", "`pen.width`: Input should be greater than or equal to 1"),
        ("pen: 3", "`pen`: expected keys and values, found 3"),
        ("shape: circle", "`shape`: expected keys and values, found 'circle': did you mean `shape.name=circle`?"),
    ],
)
def test_a_bad_value_is_an_error_that_says_where_and_why(write, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(Drawing, write(text))
    assert message in str(raised.value)
    assert "pydantic" not in str(raised.value), "no link to the library's documentation"


def test_a_key_of_several_kinds_of_values_has_one_line() -> None:
    class Page(Config):
        rules: Annotated[int, Field(ge=1)] | Literal["none"]

    with pytest.raises(ConfigError) as raised:
        validate(Page, {"rules": 0})
    assert str(raised.value) == ("`rules`: Input should be greater than or equal to 1, or input should be 'none'")


def test_every_mistake_is_reported_at_once(write) -> None:
    with pytest.raises(ConfigError) as raised:
        load(Drawing, write("pen: {color: red, width: 0}\nfoldr: x"))
    assert len(str(raised.value).splitlines()) == 3


def test_base_is_merged_under_the_file(write) -> None:
    write("pen: {colour: red, width: 3}\nfolder: below", "shared/base.yaml")
    path = write("base: ../shared/base.yaml\npen: {width: 4}", "runs/config.yaml")
    drawing = load(Drawing, path)
    assert drawing.pen == Pen(colour="red", width=4)
    assert drawing.folder == Path("below")


def test_bases_chain(write) -> None:
    write("pen: {colour: red, width: 3}\nfolder: a", "a.yaml")
    write("base: a.yaml\npen: {colour: blue}\nfolder: b", "b.yaml")
    assert read_yaml(write("base: b.yaml\nfolder: c", "c.yaml")) == {
        "pen": {"colour": "blue", "width": 3},
        "folder": "c",
    }


def test_lists_are_replaced_not_joined(write) -> None:
    write("shape: {name: circle, points: [7, 8, 9]}", "base.yaml")
    drawing = load(Drawing, write("base: base.yaml\nshape: {points: [5]}"))
    assert drawing.shape == Circle(points=[5])


@pytest.mark.parametrize("how", ["file", "override"])
def test_another_name_replaces_what_was_inherited(write, how: str) -> None:
    write("shape: {name: circle, radius: 5}", "base.yaml")
    path = write("base: base.yaml\n" + ("shape: {name: square}" if how == "file" else ""))
    drawing = load(Drawing, path, ["shape.name=square"] if how == "override" else [])
    assert drawing.shape == Square()


@pytest.mark.parametrize("overrides", [["shape.radius=2"], ["shape.name=circle", "shape.radius=2"]])
def test_the_same_name_keeps_what_was_inherited(write, overrides: list[str]) -> None:
    drawing = load(Drawing, write("shape: {name: circle, points: [4]}"), overrides)
    assert drawing.shape == Circle(radius=2, points=[4])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("a=1", 1),
        ("a=1.5", 1.5),
        ("a=true", True),
        ("a=null", None),
        ("a=", None),
        ("a=word", "word"),
        ("a='1'", "1"),
        ("a=[1, x]", [1, "x"]),
        ("a={b: 2}", {"b": 2}),
        ("a=x=y", "x=y"),
    ],
)
def test_override_values_are_yaml(override: str, value: object) -> None:
    assert parse_overrides([override]) == {"a": value}


@pytest.mark.parametrize(
    "text",
    [
        "runs/exp #4",
        "2024",
        "2024-01-01",
        "010",
        "1:30",
        "yes",
        "null",
        "a: b",
        "[x",
        "{",
        "~user",
        " x ",
        "&a",
        "*a",
        "- x",
    ],
)
def test_a_field_of_text_takes_what_was_typed(write, text: str) -> None:
    """YAML would cut it at the `#`, or make a number, a date, a boolean or nothing of it."""
    drawing = load(Drawing, write("{}"), [f"folder={text}", f"pen.colour={text}"])
    assert (drawing.folder, drawing.pen.colour) == (Path(text), text)
    assert load(Drawing, write(dump(drawing))) == drawing


def test_a_choice_of_words_takes_what_was_typed(write) -> None:
    for word in ("off", "010"):
        assert load(Drawing, write("{}"), [f"pen.tip={word}"]).pen.tip == word


def test_text_that_may_be_missing_can_be_removed(write) -> None:
    path = write("pen: {ink: blue}")
    assert load(Drawing, path, ["pen.ink=null"]).pen.ink is None
    assert load(Drawing, path, ["pen.ink="]).pen.ink is None
    assert load(Drawing, path, ["pen.ink=nil"]).pen.ink == "nil"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("folder='runs/x'", "leave out the inner quotes"),
        ("folder=", "`folder`: Input is not a valid path"),
        ("pen.width=010", "010 is not a plain number"),
        ("pen.width=yes", "`pen.width`: expected a number, found true"),
        ("pen.thick=1", "`pen.thick`: expected true or false, found 1"),
        ("pen.width=2024-01-01", "`pen.width`: Input should be a valid integer"),
    ],
)
def test_an_override_is_not_guessed(write, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Drawing, write("{}"), [override])


def test_the_keys_of_a_mapping_may_have_a_schema_of_their_own() -> None:
    assert parse_overrides(["further.colour=010", "further=1"], Drawing, further=Pen) == {"further": 1}
    assert parse_overrides(["further.colour=010"], Drawing, further=Pen) == {"further": {"colour": "010"}}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_typed_is_what_is_shown_or_an_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    empty, again = (tmp_path_factory.getbasetemp() / name for name in ("empty.yaml", "again.yaml"))
    empty.write_text("{}")
    try:
        drawing = load(Drawing, empty, [f"pen.colour={text}"])
    except ConfigError:
        return
    assert drawing.pen.colour == text
    again.write_text(dump(drawing), encoding="utf-8")
    assert load(Drawing, again).pen.colour == text


def test_overrides_nest_and_the_last_one_wins() -> None:
    assert parse_overrides(["a.b=1", "a.c.d=2", "e=3", "a.b=4"]) == {"a": {"b": 4, "c": {"d": 2}}, "e": 3}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pen.width"], "write it as key.subkey=value"),
        (["=3"], "write it as key.subkey=value"),
        (["pen=3", "pen.width=3"], "`pen` already has a value"),
        (["pen=[1"], "override 'pen=\\[1'"),
        (["pen=!!python/object/apply:os.system [true]"], "could not determine a constructor"),
        (["pen=[&a 1, *a]"], "aliases are not supported"),
        (["pen=" + "[" * 10_000], "nested deeper than 32"),
    ],
)
def test_a_malformed_override_is_an_error_that_shows_it(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_overrides(overrides)


def test_overrides_win_over_file_and_base(write) -> None:
    write("pen: {colour: red, width: 1}", "base.yaml")
    path = write("base: base.yaml\npen: {colour: blue}")
    assert load(Drawing, path, ["pen.colour=green"]).pen == Pen(colour="green", width=1)


@pytest.mark.parametrize("value", ["5e-5", "5.0e-5", "0.00005"])
def test_floats_with_an_exponent_are_floats(write, value: str) -> None:
    """YAML 1.1 reads 5e-5 as text."""
    assert load(Drawing, write(f"shape: {{name: square, side: {value}}}")).shape == Square(side=5e-5)
    assert load(Drawing, write("{}"), ["shape.name=square", f"shape.side={value}"]).shape == Square(side=5e-5)


def test_floats_with_an_exponent_are_floats_where_any_value_goes(write) -> None:
    assert load(Drawing, write("further: {eps: 1e-8}")).further == {"eps": 1e-8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("folder: !!python/object/apply:os.system ['touch executed']", "could not determine a constructor"),
        ("pen: [1", "cannot read configuration"),
        ("- 1", "expected a mapping of keys to values, found list"),
        ("", "expected a mapping of keys to values, found NoneType"),
        ("base: [a.yaml]", "`base:` must be the path of one YAML file"),
        ("base: nowhere.yaml", "cannot read configuration .*nowhere.yaml"),
        ("base: transrec/recomended", "configuration transrec/recomended not found: .* transrec/recommended"),
        ("base: config.yaml", "`base:` names the file itself"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]", "line 2: aliases are not supported"),
        ("a: &a {b: *a}", "aliases are not supported"),
        ("<<: *a", "aliases are not supported"),
        ("further: " + "[" * 10_000, "nested deeper than 32"),
        ("further: " + "{a: " * 40 + "1" + "}" * 40, "nested deeper than 32"),
        ("pen: {width: " + "9" * 5000 + "}", "cannot read configuration"),
        ("pen: {width: 010}", "line 1: 010 is not a plain number: write it without leading zeros"),
        ("pen: {width: 1:30}", "line 1: 1:30 is not a plain number"),
        ("pen: {width: true}", "`pen.width`: expected a number, found true"),
        ("pen: {thick: 1}", "`pen.thick`: expected true or false, found 1"),
        ("pen: {thick: 'yes'}", "`pen.thick`: expected true or false, found 'yes'"),
        ("pen: {width: 9223372036854775808}", "`pen.width`: 9223372036854775808… is too large"),
        ("pen: {width: " + "9" * 4000 + "}", "`pen.width`: 99999999999999999999… is too large"),
        ("shape: {name: circle, radius: .inf}", "`shape.radius`: Input should be a finite number"),
        ("shape: {name: circle, radius: .nan}", "`shape.radius`: Input should be"),
        ("corners: [0, 1e400]", "`corners.1`: Input should be a finite number"),
        (r'folder: "a\0b"', "`folder`: text cannot contain the null character"),
        (r'pen: {ink: "a\0b"}', "`pen.ink`: text cannot contain the null character"),
        ("folder: " + "x" * 2**20, "larger than 1048576 bytes"),
        ("\n".join(f"? [{i}]\n: 1" for i in range(3)), "unhashable"),
        ("\0", "cannot read configuration"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_readable_error(
    write, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as raised:
        load(Drawing, write(text))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("what", ["missing", "folder", "latin-1"])
def test_an_unreadable_file_is_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "config.yaml"
    if what == "folder":
        path.mkdir()
    elif what == "latin-1":
        path.write_bytes("folder: Größe".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"cannot read configuration .*config\.yaml"):
        load(Drawing, path)


def test_a_circle_of_bases_is_a_readable_error(write) -> None:
    write("base: b.yaml", "a.yaml")
    path = write("base: a.yaml", "b.yaml")
    with pytest.raises(ConfigError, match="base"):
        load(Drawing, path)


def test_a_key_given_twice_is_an_error(write) -> None:
    with pytest.raises(ConfigError, match=r"twice|duplicate"):
        load(Drawing, write("pen: {width: 1}\npen: {colour: red}"))


FINITE, WHOLE = st.floats(allow_nan=False, allow_infinity=False), st.integers(1 - 2**63, 2**63 - 1)
drawings = st.builds(
    Drawing,
    shape=st.one_of(st.builds(Square, side=FINITE), st.builds(Circle, radius=FINITE, points=st.lists(WHOLE))),
    shapes=st.lists(st.builds(Square, side=st.floats(0, 1e-3)), max_size=2),
    pen=st.builds(
        Pen,
        colour=st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])),
        width=st.none() | st.integers(1, 2**63 - 1),
    ),
    folder=st.sampled_from([Path("a/b"), Path("/c"), Path("~/x"), Path("é ü: #")]),
    further=st.dictionaries(st.text("abc", min_size=1), st.booleans() | st.integers() | st.text("01e-.ny~")),
    corners=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)


@given(drawings)
def test_what_is_dumped_loads_back_equal(tmp_path_factory: pytest.TempPathFactory, drawing: Drawing) -> None:
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump(drawing), encoding="utf-8")
    assert load(Drawing, path) == drawing


def test_configurations_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Drawing().pen = Pen()


def test_values_can_be_validated_without_a_file() -> None:
    assert validate(Drawing, {"pen": {"width": 2}}).pen.width == 2
    with pytest.raises(ConfigError, match=r"did you mean `pen\.width`"):
        validate(Drawing, {"pen": {"widht": 2}})


def test_config_classes_are_found_inside_annotations() -> None:
    assert set(config_classes(Drawing.model_fields["shapes"].annotation)) == {Square, Circle}
    assert list(config_classes(dict[str, Pen] | None)) == [Pen]
    assert not list(config_classes(int))


def test_keys_are_those_of_every_component_that_may_be_chosen() -> None:
    class Near(Config):
        name: Literal["near"]
        width: int = 1

    class Far(Config):
        name: Literal["far"]
        near: Near | None = None

    class Run(Config):
        part: Near | Far
        parts: list[Far]
        by_name: dict[str, Near]
        made: int = Field(0, exclude=True)

    assert dotted_keys(Run) == [
        "part",
        "part.name",
        "part.width",
        "part.near",
        "part.near.name",
        "part.near.width",
        "parts",
        "by_name",
    ]
