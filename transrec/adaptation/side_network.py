"""Side networks that read frozen states, so that no backward pass runs through the towers.

Shape letters: n sequences, S states that are read, H width of the tower, U distinct items of a batch, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from transrec.adaptation.attach import Site, fusion, sites
from transrec.adaptation.bottleneck import Bottleneck, BottleneckWidths
from transrec.adaptation.method import AdapterMethod, Placed, RateByModality
from transrec.config import ConfigError
from transrec.nn.readout import Hidden, Modalities, softmax_over
from transrec.protocols import Adapter, Model


class SideNetworkConfig(AdapterMethod):
    """Bottlenecks read the pooled states of the frozen layers, one after another, and correct the last.

    Paper: Fu et al., "IISAN: Efficiently Adapting Multimodal Representation for Sequential Recommendation with
    Decoupled PEFT", SIGIR 2024, also on every second layer: its networks within each modality and, with `inter_modal`,
    the one between text and image. Nothing below the networks is trained, so the backbones run without gradients, and
    the networks read only the pooled states (n, S, H). Deviations: the networks' output is added to the frozen output
    instead of replacing it, so that training starts near the pretrained function; a missing modality is masked; if the
    towers differ in depth, the deeper one is read at evenly spaced layers; the reference also trains projection, fusion
    and user encoder (`also_train: [head]`). No learning rate is published; that of Houlsby's bottlenecks is used.
    """

    rates = RateByModality(text=1.5e-4, image=4e-4)

    name: Literal["side_network"] = Field("side_network", description="bottlenecks along the frozen layers' states")
    towers: list[str] = Field(["item"], min_length=1, description="towers that get a network: item, text, image, user")
    also_train: list[Literal["head"]] = Field(  # type: ignore[assignment]  # LayerNorms would need a backward pass
        [], description="parameter groups trained in addition to the networks"
    )
    layers: list[int] | None = Field(
        None, min_length=1, description="layers of the item towers whose input is read; null: every second"
    )
    bottleneck: BottleneckWidths = Field(BottleneckWidths(), description="width of the networks' hidden layers")
    init_std: float = Field(0.01, ge=0, description="standard deviation of the networks' initial weights")
    inter_modal: bool = Field(False, description="add a network over the states of text and image together")

    @model_validator(mode="after")
    def _reads_both(self) -> Self:
        if self.inter_modal and "item" not in self.towers:
            raise ValueError(
                "`inter_modal` reads the same states as the networks of both item towers: add item to `towers`"
            )
        return self

    def adapters(self, model: Model) -> Iterator[Placed]:
        if self.inter_modal:
            yield self._between(model)
        for tower in self.towers:
            for site in sites(model, tower, "readout"):
                width = self.bottleneck.of(site.group)
                yield Placed(site, SideNetwork(site.width, width, self.init_std, self._reads(site)))

    def _between(self, model: Model) -> Placed:
        site = fusion(model)
        towers = sites(model, "item", "readout")
        widths = {tower.modality: tower.width for tower in towers}
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{modality} {width}" for modality, width in widths.items())
            raise ConfigError(f"`inter_modal` needs backbones of the same width, but their widths are {listed}")
        reads = paired({tower.modality: self._reads(tower) for tower in towers})
        return Placed(site, InterModalNetwork(towers[0].width, site.width, self.bottleneck.item, self.init_std, reads))

    def _reads(self, site: Site) -> list[int]:
        """Indices of the states that are read; the last is always among them.

        Raises:
            ConfigError: a layer does not exist, or has another width.
        """
        widths: tuple[int, ...] = site.module.widths  # type: ignore[assignment]
        last = len(widths) - 1
        alike = [layer for layer in range(last) if widths[layer] == site.width]  # patch merging changes the width
        chosen = alike[::2] if site.group == "user" or self.layers is None else self.layers
        odd = [layer for layer in chosen if layer not in alike]
        if odd:
            raise ConfigError(
                f"`layers`: the {site.tower} tower cannot be read at layer {odd[0]}: choose layers 0..{last - 1} whose "
                f"input has the width of the last states, {site.width}"
            )
        return [*chosen, last]


TEMPERATURE = 0.1  # τ of the gates, as in the reference; a gate moves ten times as far as its learning rate implies


class SideNetwork(Adapter):
    """h_0 = B_0(s_0), h_i = B_i(g_i s_i + (1 - g_i) h_{i-1}); y + C(h).

    s are pooled states, y the last of them; B and C are bottlenecks, B with skip, C without; g = σ(gate / τ), ½ at
    the start.
    """

    reads_pooled = True

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
        for gate, state, block in zip((self.gates / TEMPERATURE).sigmoid(), others, blocks, strict=True):
            mixed = gate * state + (1 - gate) * h
            h = block(mixed, mixed)
        return y + self.correction.change(h)


class InterModalNetwork(Adapter):
    """m_0 = B_0(mix_0), m_i = B_i(mix_i + m_{i-1}), mix_i = g_i t_i + (1 - g_i) v_i; e + C(m).

    t and v are pooled states of text and image, e is the fusion of the towers' vectors; B, C and g are as in
    `SideNetwork`. For an item that lacks a modality, mix is the state of the other; an item that lacks both keeps its
    vector of zeros.
    """

    def __init__(self, width: int, out: int, bottleneck: int, init_std: float, reads: Mapping[str, Sequence[int]]):
        super().__init__()
        self.reads = reads
        steps = len(next(iter(reads.values())))
        self.blocks = nn.ModuleList(Bottleneck(width, bottleneck, init_std) for _ in range(steps))
        self.correction = Bottleneck(width, bottleneck, init_std, out=out)
        self.gates = nn.Parameter(torch.zeros(steps))

    def forward(self, x: Modalities, y: Tensor) -> Tensor:
        present_U2 = torch.stack([x.has(name) for name in self.reads], dim=1)
        m_UH = torch.zeros_like(next(iter(self._states(x, 0))))
        for step, (gate, block) in enumerate(zip(self.gates / TEMPERATURE, self.blocks, strict=True)):
            scores_U2 = torch.stack([gate, torch.zeros_like(gate)]).expand(len(present_U2), -1)
            states_U2H = torch.stack(self._states(x, step), dim=1)
            mix_UH = (softmax_over(present_U2, scores_U2).unsqueeze(-1) * states_U2H).sum(1)
            m_UH = block(mix_UH + m_UH, mix_UH + m_UH)
        return y + self.correction.change(m_UH) * present_U2.any(1, keepdim=True)

    def _states(self, x: Modalities, step: int) -> list[Tensor]:
        return [x.pooled[name][read[step]] for name, read in self.reads.items()]


def paired(reads: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Shorten each list to the length of the shortest, keeping evenly spaced entries and the last one."""
    steps = min(map(len, reads.values())) - 1
    back = [step / max(1, steps) for step in range(steps, -1, -1)]
    return {name: [read[-1 - round(share * (len(read) - 1))] for share in back] for name, read in reads.items()}
