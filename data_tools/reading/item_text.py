"""The text of an item, put together from the parts that a format has."""

from collections.abc import Iterable
from typing import Any


def compose_text(parts: Iterable[str]) -> str:
    """The parts that say something, a sentence each; what an earlier part says already is left out."""
    sentences: list[str] = []
    for part in parts:
        part = part.strip()
        sentence = part if part.endswith((".", "!", "?", "。")) else f"{part}."
        if part and sentence not in sentences:
            sentences.append(sentence)
    return " ".join(sentences)


def flatten(value: Any) -> list[str]:
    """The texts of a JSON value that may be a text, a list of them, or missing."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
