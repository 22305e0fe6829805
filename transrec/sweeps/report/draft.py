"""A report being written: its measures, the blocks and findings so far, and how it names and orders settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transrec.sweeps.analysis.comparison import MARGIN
from transrec.sweeps.analysis.curves import Measured, label
from transrec.sweeps.analysis.fits import DELTA
from transrec.sweeps.analysis.results import Results, Setting
from transrec.sweeps.report.findings import Findings
from transrec.sweeps.report.page import Block

NONE = "–"


@dataclass
class Draft:
    """A report that sections add to.

    Args:
        margin: difference within which two choices count as equivalent, relative to the baseline.
        delta: threshold of the Huber loss that laws are fitted with.
    """

    results: Results
    margin: float = MARGIN
    delta: float = DELTA
    blocks: list[Block] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    measured: dict[str, Measured] = field(init=False)
    quality: str = field(init=False)  # the measure used in the findings of comparisons

    def __post_init__(self) -> None:
        monitor = self.results.monitor
        names = [name for name in self.results.measures if not name.startswith("MRR") or name == monitor]
        self.measured = {name: Measured(name, self.results.resampled(name), self.delta) for name in names}
        ndcg = next((name for name in names if name.startswith("NDCG")), names[-1])
        self.quality = monitor if monitor in names else ndcg

    def baseline(self, axis: str) -> Any:
        """The label with which the other labels of an axis are compared."""
        labels = self.results.axes[axis]
        return "full" if "full" in labels else labels[0]

    def label(self, setting: Setting) -> str:
        return label(setting, list(self.results.axes))

    def by_size(self, groups: Mapping[Setting, list[int]]) -> list[tuple[Setting, list[int]]]:
        """Settings in order of their sizes, the largest last."""
        return sorted(groups.items(), key=lambda item: self.sizes_of(item[0]))

    def sizes_of(self, setting: Setting) -> tuple[float, ...]:
        """The sort key of a setting: its sizes; a setting without an axis comes before those with it."""
        return tuple(-np.inf if value is None else value for axis, value in setting if axis in self.results.size_axes)


def file_name(*parts: str) -> str:
    """A file stem that is valid on any file system and in HTML: "law-source_fraction-ndcg10"."""
    kept = ["".join(c for c in part.lower() if c.isascii() and (c.isalnum() or c == "_")) for part in parts]
    return "-".join(filter(None, kept))
