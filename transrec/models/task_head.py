"""Head that a task adds to a recommender: a task token, and a vector for each target.

Shape letters: B users, L positions, D width, K targets.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INIT_STD = 0.02


class TaskHead(nn.Module):
    """Scores target k for user u by ⟨h_u, t_k⟩; h_u is the state at the task token.

    Paper: Yuan et al., "Parameter-Efficient Transfer from Sequential Behaviors for User Modeling and Recommendation"
    (PeterRec), SIGIR 2020. The token, [TCL] in the paper, follows the items, so that a causal user encoder has read
    them all; with a bidirectional encoder, there is a token at both ends, and h_u is the sum of both states. Tokens
    replace the oldest items, so that the number of positions does not change. Weights ~ N(0, 0.02²), truncated at two
    standard deviations. Deviation: the token has its own, trained vector; in the released code it has the vector of the
    padding, which is frozen.
    """

    def __init__(self, width: int, num_targets: int, causal: bool):
        super().__init__()
        self.token = nn.Embedding(1, width)
        self.targets = nn.Embedding(num_targets, width)
        self.causal = causal
        for table in (self.token, self.targets):
            nn.init.trunc_normal_(table.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)

    def ask(self, items: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add the token to left-padded item vectors (B, L, D) with mask (B, L).

        Returns:
            The user encoder's input (B, L, D), its mask (B, L), and the positions of the token (B, L).
        """
        if self.causal:
            items, mask = F.pad(items[:, 1:], (0, 0, 0, 1)), F.pad(mask[:, 1:], (0, 1))
        else:
            items, mask = F.pad(items[:, 2:], (0, 0, 1, 1)), F.pad(mask[:, 2:], (1, 1))
        stands = torch.zeros_like(mask)
        stands[:, -1] = True
        if not self.causal:
            first = mask.shape[1] - 2 - mask.sum(1, keepdim=True)  # directly before the oldest item
            stands.scatter_(1, first, True)
        token_D = self.token(torch.zeros((), dtype=torch.int64, device=items.device))
        return torch.where(stands.unsqueeze(-1), token_D.to(items.dtype), items), mask | stands, stands

    def read(self, states: Tensor, stands: Tensor) -> Tensor:
        """User vectors (B, D) from the states (B, L, D) at the token's positions `stands` (B, L)."""
        return (states * stands.unsqueeze(-1)).sum(1)

    def table(self) -> Tensor:
        """Vectors of all targets (K, D)."""
        tensor: Tensor = self.targets(torch.arange(self.targets.num_embeddings, device=self.targets.weight.device))
        return tensor
