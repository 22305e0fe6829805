"""The users that an evaluation asks about."""

from typing import Any


def users_asked(examples: Any, part: str, sample: Any = None) -> list[str]:
    """The user id of each question, in the order of the data."""
    return [user for block in examples.question_users(part, sample) for user in block.to_pylist()]
