"""Post-LN transformer block of the user encoder and of adapters with attention.

Shape letters: B sequences, L positions, h heads, d width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-6


class Block(nn.Module):
    """a = LN(x + Dropout(MHA(x))); LN(a + Dropout(FFN(a)))."""

    def __init__(
        self, width: int, heads: int, ffn_width: int, dropout: float, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.attention_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.ffn = FeedForward(width, ffn_width, activation)
        self.ffn_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attendable: Tensor | None) -> Tensor:
        a = self.attention_norm(x + self.dropout(self.attention(x, attendable)))
        tensor: Tensor = self.ffn_norm(a + self.dropout(self.ffn(a)))
        return tensor


class Attention(nn.Module):
    """Multi-head attention without biases, scale 1/√d, dropout on the probabilities."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, attendable: Tensor | None, context: Tensor | None = None) -> Tensor:
        """States of `x`, which attends to itself or to a `context`."""
        context = x if context is None else context
        q_BhLd, k_BhLd, v_BhLd = (
            projection(read).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, read in ((self.query, x), (self.key, context), (self.value, context))
        )
        dropout = self.dropout if self.training else 0.0
        y_BhLd = F.scaled_dot_product_attention(q_BhLd, k_BhLd, v_BhLd, attendable, dropout)
        tensor: Tensor = self.output(y_BhLd.transpose(1, 2).flatten(2))
        return tensor


class FeedForward(nn.Module):
    """W₂ activation(W₁ x + b₁) + b₂ at each position."""

    def __init__(self, width: int, hidden: int, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.activation = activation()
        self.output = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        tensor: Tensor = self.output(self.activation(self.hidden(x)))
        return tensor


def attendable(mask: Tensor, causal: bool) -> Tensor:
    """Attention mask (B, 1, L, L), True where i may attend to j: j is valid (and ≤ i if causal), or j = i.

    Attending to itself keeps the states of padding finite.

    Args:
        mask: (B, L) False at padding.
    """
    length = mask.shape[1]
    allowed_LL = torch.ones(length, length, dtype=torch.bool, device=mask.device)
    if causal:
        allowed_LL = allowed_LL.tril()
    itself_LL = torch.eye(length, dtype=torch.bool, device=mask.device)
    return (allowed_LL & mask[:, None, None, :]) | itself_LL


def initialise(module: nn.Module) -> None:
    """Set Xavier-normal weights and zero biases, as the reference does; pass it to `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.xavier_normal_(module.weight)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
