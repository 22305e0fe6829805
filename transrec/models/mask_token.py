"""The mask token, which replaces a hidden item.

Shape letters: B users, L positions, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INIT_STD = 0.02


class MaskToken(nn.Module):
    """Learned vector that replaces hidden items in training and stands for the next, unknown item in evaluation."""

    def __init__(self, width: int):
        super().__init__()
        self.token = nn.Embedding(1, width)
        nn.init.trunc_normal_(self.token.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)

    def forward(self, items: Tensor, masked: Tensor) -> Tensor:
        """Item vectors (B, L, D) with the token at the positions `masked` (B, L)."""
        token_D = self.token(torch.zeros((), dtype=torch.int64, device=items.device))
        return torch.where(masked.unsqueeze(-1), token_D.to(items.dtype), items)

    def ask(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Append the token to left-padded item vectors (B, L, D) and their mask; the oldest position is dropped."""
        items, mask = F.pad(items[:, 1:], (0, 0, 0, 1)), F.pad(mask[:, 1:], (0, 1), value=True)
        last = torch.arange(mask.shape[1], device=mask.device) == mask.shape[1] - 1
        return self(items, last.expand_as(mask)), mask
