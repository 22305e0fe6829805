"""A side network over frozen states: no backward pass runs through the tower.

Shape letters: n sequences, S states that are read, H width of the tower.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from transrec.adaptation.attach import Site, Tower, sites
from transrec.adaptation.bottleneck import Bottleneck, BottleneckWidths
from transrec.adaptation.method import AdapterMethod, Rates
from transrec.config import ConfigError
from transrec.hidden import Hidden


class SideNetworkConfig(AdapterMethod):
    """Bottlenecks climb along pooled states of the layers and correct the last; the towers are frozen.

    Paper: Fu et al., "Efficient and Effective Adaptation of Multimodal Foundation Models in Sequential Recommendation"
    (IISAN), SIGIR 2024, its network within one modality, on every second layer as there. Nothing that trains lies under
    it, so the backbone runs without a graph, and only the pooled states (n, S, H) enter. Deviations: the last
    bottleneck is added to the frozen output instead of to its own input, so that the start is near the pretrained
    function; the reference trains projection and user encoder along (`also_train: [head]`). No rate is published; that
    of Houlsby's bottlenecks is taken.
    """

    rates = Rates(text=1.5e-4, image=4e-4)

    name: Literal["side_network"] = "side_network"
    towers: list[Tower] = Field(["item"], min_length=1)
    also_train: list[Literal["head"]] = Field([])  # type: ignore[assignment]  # LayerNorms would need a backward pass
    layers: list[int] | None = Field(None, min_length=1)  # whose input is read, of the item tower; None: every second
    bottleneck: BottleneckWidths = BottleneckWidths()
    init_std: float = Field(0.01, ge=0)

    def attach(self, model: nn.Module) -> None:
        for tower in self.towers:
            width = self.bottleneck.of(tower)
            for site in sites(model, tower, "readout"):
                self.put(site, SideNetwork(site.width, width, self.init_std, self._reads(site)))

    def _reads(self, site: Site) -> list[int]:
        """Indices of the states that are read; the last is always among them.

        Raises:
            ConfigError: a layer that is not there, or of another width.
        """
        widths: tuple[int, ...] = site.module.widths  # type: ignore[assignment]
        last = len(widths) - 1
        alike = [layer for layer in range(last) if widths[layer] == site.width]  # not so where layers merge patches
        chosen = alike[::2] if site.tower == "user" or self.layers is None else self.layers
        odd = [layer for layer in chosen if layer not in alike]
        if odd:
            raise ConfigError(
                f"`layers`: {odd[0]} of the {site.tower} tower is not one of its layers 0..{last - 1} whose input has "
                f"the width of the last states, {site.width}"
            )
        return [*chosen, last]


class SideNetwork(nn.Module):
    """h_0 = B_0(s_0), h_i = B_i(g_i s_i + (1 - g_i) h_{i-1}); y + C(h).

    s are pooled states, y the last of them; B and C are bottlenecks, B with skip, C without; g = σ(gate), ½ at first.
    """

    def __init__(self, width: int, bottleneck: int, init_std: float, reads: list[int]):
        super().__init__()
        self.reads = reads
        self.blocks = nn.ModuleList(Bottleneck(width, bottleneck, init_std) for _ in reads)
        self.correction = Bottleneck(width, bottleneck, init_std)
        self.gates = nn.Parameter(torch.zeros(len(reads) - 1))

    def forward(self, x: Hidden, y: Tensor) -> Tensor:
        first, *others = (x.pooled(x.states[read]) for read in self.reads)
        entry, *blocks = self.blocks
        h = entry(first, first)
        for gate, state, block in zip(self.gates.sigmoid(), others, blocks, strict=True):
            mixed = gate * state + (1 - gate) * h
            h = block(mixed, mixed)
        return y + self.correction.change(h)
