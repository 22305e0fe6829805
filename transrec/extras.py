"""Libraries that are installed with an extra, such as `pip install 'transrec[serve]'`."""

import importlib
from typing import Any

from transrec.errors import TransRecError


class ExtraError(TransRecError, ImportError):
    """A library is not installed; the message names the command that installs it."""


def needed(extra: str, purpose: str, *modules: str) -> list[Any]:
    """The imported modules of an extra.

    Args:
        purpose: the start of the message, such as `an index`.

    Raises:
        ExtraError: one of them is not installed.
    """
    found = []
    for module in modules:
        try:
            found.append(importlib.import_module(module))
        except ModuleNotFoundError:
            raise ExtraError(f"{purpose} needs {module}: run pip install 'transrec[{extra}]'") from None
    return found
