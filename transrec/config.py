"""Typed, strict configuration: a YAML file, an optional `base:` file, dotted overrides, pydantic objects.

A component owns its config class (a subclass of `Config`, beside its `nn.Module`). A choice between components is a
discriminated union on `name`, so a mapping with a new `name` replaces the inherited one instead of merging with it.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from transrec.errors import TransRecError


class Config(BaseModel):
    """Base of all configuration objects: immutable, with unknown keys as errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def _no_url(value: Any) -> Any:
    """Reject URLs, which would otherwise become local folders such as `s3:`."""
    if isinstance(value, str) and "://" in value:
        raise ValueError(
            f"{value} is a URL: mount that storage on every node, and give the path at which it is mounted"
        )
    return value


def _expanded(path: Path) -> Path:
    """Replace a leading `~`."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: the home folder is not known; write the path in full, or set HOME") from None


UserPath = Annotated[Path, BeforeValidator(_no_url), AfterValidator(_expanded)]


@dataclass(frozen=True)
class MayDiffer:
    """Marks a field whose value may change when a run is resumed, as in `Annotated[int, MayDiffer()]`.

    Such a field affects how the work is done, not what is learnt.

    Args:
        keys: for a mapping field, the keys that may change; empty: the whole field.
    """

    keys: tuple[str, ...] = ()


def may_differ(config: "Config", prefix: str = "") -> set[str]:
    """Dotted keys of the fields marked with `MayDiffer`, in `config` and the configurations nested in it."""
    found: set[str] = set()
    for name, field in type(config).model_fields.items():
        key, value = f"{prefix}{name}", getattr(config, name)
        for marker in field.metadata:
            if isinstance(marker, MayDiffer):
                found |= {f"{key}.{inner}" for inner in marker.keys} or {key}
        if isinstance(value, Config):
            found |= may_differ(value, f"{key}.")
    return found


class ConfigError(TransRecError, ValueError):
    """A configuration that cannot be used; the message names the key and the correction."""


C = TypeVar("C", bound=Config)

_PACKAGE = Path(__file__).parent
SHIPPED = _PACKAGE / "configs"  # if installed; in a checkout, `configs` is beside the package
if not SHIPPED.is_dir():
    SHIPPED = _PACKAGE.parent / "configs"

_MOST_BYTES, _DEEPEST = 2**20, 32  # limits on the size and nesting of a file
_DISCRIMINATORS = ("name", "of")  # of unions of components, and of features
_FAULTS = (yaml.YAMLError, ValueError)  # ValueError: a malformed number or date


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-5 is a number (YAML 1.1 requires 1.0e-5) and a duplicate key is an error.

    Numbers that YAML 1.1 reads in base 8 or 60 (`010`, `1:30`) are errors, because that is never intended; dates are
    text. Aliases are rejected, because a few lines of them can expand to gigabytes, and so is excessive nesting.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not supported: repeat the value", mark)
        if self._depth == _DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {_DEEPEST} levels", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key in keys:
            if keys[key] > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """The value of a scalar that YAML reads as a number."""
    if _UNLIKELY.match(node.value):
        problem = f"{node.value} is not a plain number: write it without leading zeros, or in quotes if it is text"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    construct = loader.construct_yaml_int if node.tag == f"{_TAG}int" else loader.construct_yaml_float
    return construct(node)


class _Dumper(yaml.SafeDumper):
    """Quotes strings that `_Loader` would parse as numbers, and escapes characters that YAML reads as line ends."""


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    found: yaml.ScalarNode = dumper.represent_scalar(f"{_TAG}str", value, '"' if _LINE_ENDS & {*value} else None)
    return found


_LINE_ENDS = {"\x85", "\u2028", "\u2029"}
_Dumper.add_representer(str, _text)

_TAG = "tag:yaml.org,2002:"
_UNLIKELY = re.compile(r"[-+]?(0[0-9_]|.*:)")  # base 8 and base 60
for _kind in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _number)
_Loader.add_constructor(f"{_TAG}timestamp", lambda _, node: node.value)  # a date stays text
_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$")
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+0123456789"))


def load(schema: type[C], path: Path | str, overrides: Sequence[str] = ()) -> C:
    """Read `path`, merge it over its `base:`, apply `a.b=value` overrides and validate as `schema`.

    Raises:
        ConfigError: unreadable file, malformed override, unknown key (with the nearest valid one) or bad value.
    """
    return validate(schema, merge(read_yaml(Path(path)), parse_overrides(overrides, schema)))


def find(config: Path | str) -> Path:
    """Path of a configuration file, given as a path or as the name of a shipped one, such as `transrec/text_sasrec`.

    Raises:
        ConfigError: neither exists; the message lists the shipped configurations with similar names, or all of them.
    """
    if Path(config).is_file():
        return Path(config)
    name = str(config).removeprefix("configs/").removesuffix(".yaml")
    known = shipped()
    if name in known:
        return known[name]
    last = {each.rpartition("/")[2]: each for each in known}
    near = [last[word] for word in difflib.get_close_matches(name.rpartition("/")[2], last)]
    which = "Shipped with similar names" if near else "Shipped"
    raise ConfigError(
        f"configuration {config} not found: it is neither a file nor the name of a shipped configuration. "
        f"{which}: {', '.join(near or known)}"
    )


def shipped() -> dict[str, Path]:
    """The configurations of the project by name, such as `transrec/text_sasrec`."""
    return {path.relative_to(SHIPPED).with_suffix("").as_posix(): path for path in sorted(SHIPPED.rglob("*.yaml"))}


def validate(schema: type[C], values: Mapping[str, Any]) -> C:
    """Create a `schema` object from `values`.

    Raises:
        ConfigError: unknown keys or invalid values; the message has one line for each.
    """
    try:
        made = schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_joined(_explain(schema, dict(e)) for e in error.errors())) from None
    if faults := list(_faults(values, made)):
        raise ConfigError("\n".join(faults))
    return made


def _faults(given: Any, made: Any, where: str = "") -> Iterator[str]:
    """A sentence for each value that pydantic accepts but that is invalid here.

    Invalid are booleans for numbers, anything else for booleans, integers of more than 64 bits, and text with the null
    character, which no path can contain.
    """
    if isinstance(given, Mapping) and isinstance(made, Config):
        for key in given.keys() & type(made).model_fields.keys():
            yield from _faults(given[key], getattr(made, key), f"{where}.{key}" if where else key)
    elif isinstance(given, list) and isinstance(made, list):
        for number, pair in enumerate(zip(given, made, strict=False)):
            yield from _faults(*pair, f"{where}.{number}")
    elif isinstance(made, bool) and not isinstance(given, bool):
        yield f"`{where}`: expected true or false, found {given!r}"
    elif isinstance(given, bool) and type(made) in (int, float):
        yield f"`{where}`: expected a number, found {str(given).lower()}"
    elif type(made) is int and abs(made) >= 2**63:
        yield f"`{where}`: {str(made)[:20]}… is too large: give a number of at most 64 bits"
    elif isinstance(made, str | Path) and "\0" in str(made):
        yield f"`{where}`: text cannot contain the null character"


def read_yaml(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """Read a YAML mapping and merge it over its `base:` file, whose path is relative to `path`."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
        values = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (OSError, *_FAULTS) as error:
        raise ConfigError(f"cannot read configuration {path}: {_one_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(values).__name__}")
    return with_base(path, values, above)


def with_base(path: Path, values: dict[str, Any], above: Sequence[Path] = ()) -> dict[str, Any]:
    """Merge `values`, read from the file `path`, over their `base:` file."""
    values = dict(values)
    base = values.pop("base", None)
    if base is None:
        return values
    return merge(_read_base(path, base, (*above, path.resolve())), values)


def _read_base(path: Path, base: Any, above: Sequence[Path]) -> dict[str, Any]:
    if not isinstance(base, str):
        raise ConfigError(f"{path}: `base:` must be the path of one YAML file or a shipped name, found {base!r}")
    target = (path.parent / base).resolve()
    if not target.exists() and target.suffix != ".yaml":
        target = find(base)
    if target in above:
        found = "the file itself" if len(above) == 1 else f"{target}, which is based on this file"
        raise ConfigError(f"{path}: `base:` names {found}; choose another base")
    return read_yaml(target, above)


def parse_overrides(
    overrides: Sequence[str], schema: type[Config] | None = None, **inner: type[Config]
) -> dict[str, Any]:
    """`["a.b=1", "a.c=[x]"]` -> `{"a": {"b": 1, "c": ["x"]}}`; values are YAML scalars, lists or mappings.

    A text field, such as a path, takes its value as it was typed, because YAML would cut `exp #4` at the `#`.

    Args:
        schema: the configuration that the keys belong to.
        inner: by field name, the schemas of fields that are declared as plain mappings.

    Raises:
        ConfigError: an override is malformed.
    """
    nested: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"override {override!r}: write it as key.subkey=value")
        node = nested
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"override {override!r}: `{parent}` already has a value from another one; remove one of them"
                )
        annotations = () if schema is None else tuple(_annotations(schema, [*parents, leaf], inner))
        node[leaf] = _parsed(override, text, annotations)
    return nested


def _parsed(override: str, text: str, annotations: Sequence[Any]) -> Any:
    """The value of an override, which belongs to a field that has one of the `annotations`."""
    is_text = bool(annotations) and all(map(_holds_text, annotations))
    may_be_null = any(type(None) in _members(annotation) for annotation in annotations)
    if not is_text or not text or (may_be_null and text in _NULL):
        try:
            return _Loader(text).get_single_data()
        except _FAULTS as error:
            raise ConfigError(f"override {override!r}: {_one_line(error)}") from None
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        raise ConfigError(f"override {override!r}: leave out the inner quotes, because text is taken as typed")
    if "\0" in text:
        raise ConfigError(f"override {override!r}: text cannot contain the null character")
    return text


_NULL = ("null", "~", "Null", "NULL")


def _annotations(schema: type[Config], keys: Sequence[str], inner: Mapping[str, type[Config]]) -> Iterator[Any]:
    """The annotation of a dotted key, in each component that may be chosen; none if there is no such key."""
    key, *rest = keys
    if key in inner:
        yield from _annotations(inner[key], rest, {}) if rest else ()
    elif (field := schema.model_fields.get(key)) is not None:
        if rest:
            for component in config_classes(field.annotation):
                yield from _annotations(component, rest, {})
        else:
            yield field.annotation


def _holds_text(annotation: Any) -> bool:
    """Whether a field takes only text or a path, or null."""
    kinds = _members(annotation) - {type(None)}
    return bool(kinds) and all(isinstance(kind, str) or kind in (str, Path) for kind in kinds)


def _members(annotation: Any) -> set[Any]:
    """The classes and literal values in an annotation, in all parts of a union; anything else as it is."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return {member for part in get_args(annotation) for member in _members(part)}
    return set(get_args(annotation)) if get_origin(annotation) is Literal else {annotation}


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


def dump(config: Config) -> str:
    """The resolved configuration as YAML, from which `load` restores an equal object."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `over` into `base` recursively; a mapping with a different `name` replaces the inherited one."""
    merged = dict(base)
    for key, value in over.items():
        inherited = merged.get(key)
        same_choice = (
            isinstance(value, Mapping)
            and isinstance(inherited, Mapping)
            and value.get("name", inherited.get("name")) == inherited.get("name")
        )
        merged[key] = merge(inherited, value) if same_choice else value  # type: ignore[arg-type]
    return merged


def _joined(lines: Iterable[str]) -> str:
    """One line for each key; the errors of a key that takes several kinds of values are joined."""
    faults: dict[str, str] = {}
    for line in lines:
        key, _, fault = line.partition(": ")
        faults[key] = f"{faults[key]}, or {fault[:1].lower()}{fault[1:]}" if key in faults else fault
    return "\n".join(f"{key}: {fault}" for key, fault in faults.items())


def _explain(schema: type[Config], error: dict[str, Any]) -> str:
    loc = error["loc"]
    visible, owner = _walk(schema, loc)
    where = ".".join(visible)
    if error["type"] == "extra_forbidden" and owner is not None:
        valid = list(owner.model_fields)
        near = difflib.get_close_matches(str(loc[-1]), valid, n=1)
        hint = f"did you mean `{'.'.join([*visible[:-1], *near])}`?" if near else f"valid keys here: {', '.join(valid)}"
        return f"unknown key `{where}`: {hint}"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        discriminator = error["ctx"]["discriminator"].strip("'")
        key = f"{where}.{discriminator}"
        if error["type"] == "union_tag_not_found":
            return f"`{where}`: set `{key}` to choose a component{_run_together(error['input'])}"
        given, allowed = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        near = difflib.get_close_matches(str(given), re.findall("'(.*?)'", allowed), n=1)
        return f"`{key}`: {given!r} is not one of {allowed}" + "".join(f"; did you mean {name!r}?" for name in near)
    if error["type"] in ("model_attributes_type", "model_type") and owner is not None:
        choices = (
            config_classes(owner.model_fields[visible[-1]].annotation) if visible[-1] in owner.model_fields else ()
        )
        named = any(isinstance(error["input"], str) and error["input"] in _tags(choice) for choice in choices)
        hint = f": did you mean `{where}.name={error['input']}`?" if named else ""
        return f"`{where}`: expected keys and values, found {error['input']!r}{hint}"
    return f"`{where or schema.__name__}`: {error['msg'].removeprefix('Value error, ')}"


def _run_together(given: Any) -> str:
    """A hint if a mapping was written without the space after a colon: YAML then reads `{name:x}` as one key."""
    if not isinstance(given, Mapping):
        return ""
    keys = [str(key) for key, value in given.items() if value is None and ":" in str(key)]
    return "".join(
        f"; {key!r} is one key: write a space after the colon, {key.replace(':', ': ', 1)!r}" for key in keys
    )


def _walk(schema: type[Config], loc: Sequence[int | str]) -> tuple[list[str], type[Config] | None]:
    """The location as the user wrote it, without union tags, and the config class that holds its last key."""
    visible: list[str] = []
    owner: type[Config] | None = schema
    candidates: list[type[Config]] = []
    keyed = False  # whether the part is a key of a mapping, which may look like a tag
    for i, part in enumerate(loc):
        tagged = [] if keyed else [c for c in candidates if part in _tags(c)]
        if tagged and part not in (owner.model_fields if owner else ()):
            owner, candidates = tagged[0], []
            continue
        visible.append(str(part))
        if i == len(loc) - 1:
            break
        field = owner.model_fields.get(str(part)) if owner else None
        keyed = field is not None and get_origin(field.annotation) is dict
        if field is not None:
            candidates = list(config_classes(field.annotation))
            if not candidates and not keyed and isinstance(loc[i + 1], str):  # names a kind of value, not a key
                break
            owner = candidates[0] if len(candidates) == 1 else None
    return visible, owner


def config_classes(annotation: Any) -> Iterator[type[Config]]:
    """All config classes in a type annotation, including those inside unions, lists and `Annotated`."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for argument in get_args(annotation):
        yield from config_classes(argument)


def dotted_keys(schema: type[Config]) -> list[str]:
    """All keys that a configuration may set, with those of every component that can be chosen: `model.width`."""
    return list(dict.fromkeys(_dotted_keys(schema, ())))


def _dotted_keys(schema: type[Config], around: tuple[type[Config], ...]) -> Iterator[str]:
    for key, field in schema.model_fields.items():
        if field.exclude:
            continue  # set by the run
        yield key
        for inner in config_classes(field.annotation):
            if inner not in around and get_origin(field.annotation) not in (list, dict):
                yield from (f"{key}.{rest}" for rest in _dotted_keys(inner, (*around, schema)))


def _tags(cls: type[Config]) -> set[Any]:
    """The values by which a union chooses the class."""
    fields = (cls.model_fields.get(key) for key in _DISCRIMINATORS)
    return {tag for field in fields if field is not None for tag in get_args(field.annotation)}
