"""Write configuration.md, the table of every configuration key, from the schema: `python docs/write_configuration.py`.

Each configuration class has one section, below the first key that leads to it. Keys in tables are dotted, as they are
written on the command line.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from transrec.config import Config, MayDiffer, config_classes
from transrec.experiment import Experiment
from transrec.sweeps.config import Sweep

PAGE = Path(__file__).with_name("configuration.md")
_NAMED = ".NAME"  # stands for the names that a mapping gives to its values
RESUMED = "↻"  # marks keys that may change when a run is resumed

INTRODUCTION = f"""\
# Configuration reference

<!-- Written by docs/write_configuration.py from the schema. Edit the descriptions there, not here. -->

A run is configured by a YAML file. Any key can be set on the command line, as in `train.batch_size=128`; a mapping or a
list is written in YAML, as in `"adaptation={{name: lora, towers: [item]}}"`. `--print-config` shows the resolved
configuration. Unknown keys are errors.

Where a key takes a choice of components, `name` selects one, and the other keys are those of the chosen component.
{RESUMED} marks keys that may change when a run is resumed; the other keys may not.
"""


class Page:
    """The sections of a page, in the order in which their keys are reached."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.anchors: dict[type[Config], str] = {}

    def add(self, owner: type[Config], title: str, prefix: str, level: int) -> None:
        """Add the section of a class, then those of the classes that its keys lead to."""
        anchor = re.sub(r"[^a-z0-9_]+", "-", title.lower()).strip("-")
        self.anchors[owner] = anchor
        self.parts.append(f"{'#' * level} {title} {{ #{anchor} }}\n\n{_sentence(owner)}")
        where = len(self.parts)
        for key, field in _settable(owner).items():
            path = f"{prefix}{key}{_NAMED if get_origin(field.annotation) is dict else ''}"
            for inner in config_classes(field.annotation):
                if inner not in self.anchors:
                    self.add(inner, _title(path, owner, inner), f"{path}.", min(level + 1, 4))
        self.parts.insert(where, self._table(owner, prefix))

    def _table(self, owner: type[Config], prefix: str) -> str:
        properties = owner.model_json_schema()["properties"]
        lines = ["| key | type | default | description |", "| --- | --- | --- | --- |"]
        for key, field in _settable(owner).items():
            mark = f" {RESUMED}" if any(isinstance(marker, MayDiffer) for marker in field.metadata) else ""
            inner = list(config_classes(field.annotation))
            kind = self._links(inner, properties[key]) if inner else _type(properties[key])
            default = _default(field.get_default(call_default_factory=True))
            lines.append(f"| `{prefix}{key}`{mark} | {kind} | {default} | {_cell(field.description or '')} |")
        return "\n".join(lines)

    def _links(self, inner: list[type[Config]], schema: Mapping[str, Any]) -> str:
        links = ", ".join(f"[{_choice(each) or 'section'}](#{self.anchors[each]})" for each in inner)
        several = {"array": "list of ", "object": "by name, "}.get(schema.get("type", ""), "")
        return f"{several}{links}"


def page() -> str:
    """The text of the page."""
    sections = Page()
    sections.add(Experiment, "A run", "", 2)
    sections.add(Sweep, "A sweep", "", 2)
    return "\n\n".join([INTRODUCTION.strip(), *sections.parts]) + "\n"


def _title(key: str, owner: type[Config], inner: type[Config]) -> str:
    """The heading of a section; a class that no `name` selects belongs to the component that has the key."""
    choice, component = _choice(inner), _choice(owner)
    if choice:
        return f"`{key}`: `{choice}`"
    return f"`{key}` of `{component}`" if component else f"`{key}`"


def _choice(owner: type[Config]) -> str:
    """The `name` (or `of`) that selects a class; empty if it has none."""
    for key in ("name", "of"):
        field = owner.model_fields.get(key)
        if field is not None and get_origin(field.annotation) is Literal:
            return str(get_args(field.annotation)[0])
    return ""


def _settable(owner: type[Config]) -> dict[str, FieldInfo]:
    """The keys that a configuration may set; the others are set by the run."""
    return {key: field for key, field in owner.model_fields.items() if not field.exclude}


def _sentence(owner: type[Config]) -> str:
    """The first paragraph of a class's docstring; for one that only repeats a name, that of its key `name`."""
    text = " ".join((owner.__doc__ or "").split("\n\n")[0].split())
    if text.startswith("Configuration of `") and "name" in owner.model_fields:
        text = owner.model_fields["name"].description or ""
        text = f"{text[:1].upper()}{text[1:]}."
    return text


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option) for option in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        items = schema.get("items", {})
        return f"list of {_type(items)}" if items else f"list of {len(schema.get('prefixItems', ()))} numbers"
    kinds = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "`null`"}
    formats = {"path": "path", "date-time": "date and time"}
    word = formats.get(schema.get("format", "")) or kinds.get(schema.get("type", ""), "mapping")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema]
    return " ".join([word, ", ".join(bounds)]).strip()


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, Config):
        choice = _choice(value.__class__)
        return f"`{choice}`" if choice else "its section's"
    if isinstance(value, list) and any(isinstance(each, Config) for each in value):
        return f"`[{', '.join(_choice(each.__class__) or 'section' for each in value)}]`"
    if isinstance(value, Path):
        value = str(value).replace(str(Path.home()), "~")
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
