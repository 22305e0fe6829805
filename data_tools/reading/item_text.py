"""Composes the text of an item from the parts that a format provides."""

from collections.abc import Iterable
from typing import Any

from data_tools.markup import clean_text


def compose_text(parts: Iterable[str]) -> str:
    """The parts that are not empty, each as a sentence; repeated sentences are left out.

    A part that ends with a tag, `<p>Soft.</p>`, ends as its text does, which is what the builder keeps of it.
    """
    sentences: list[str] = []
    for part in parts:
        part = part.strip()
        sentence = part if (clean_text(part) or part).endswith((".", "!", "?", "。")) else f"{part}."
        if part and sentence not in sentences:
            sentences.append(sentence)
    return " ".join(sentences)


def flatten(value: Any) -> list[str]:
    """The texts of a JSON value that may be a text, a list of texts, or missing."""
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str)]
