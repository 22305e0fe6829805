"""Scores as inner products, rounded independently of an item's position in the catalogue.

Shape letters: B users of a call, N items (indices 1..N; 0 pads), D width, n items of a chunk.
"""

from torch import Tensor

from transrec.protocols import Score


def dot_product_scores(user: Tensor, items: Tensor) -> Score:
    """Inner products of user vectors (B, D) with rows of the item matrix (N + 1, D), as float32.

    A call takes 12 bytes per score (B, n) and 8 bytes per entry of its item rows (n, D).
    """
    wide = user.double()

    def score(a: int, b: int) -> Tensor:
        return (wide @ items[a:b].double().T).float()

    return score
