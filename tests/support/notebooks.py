"""The notebooks in docs/notebooks."""

from commands import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
assert len(NOTEBOOKS) == 3
