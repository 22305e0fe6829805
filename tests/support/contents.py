"""Content of items for tests that build a batch by hand."""

import torch

from transrec.data.batch import Chunk, ItemContent, ModalityContent


def of_text(items: torch.Tensor, chunks: list[Chunk], passes: int | None = None) -> ItemContent:
    """Items whose texts are the rows of `chunks`, in this order."""
    blank = {name: tensor[:1] for name, tensor in chunks[0].items()}
    text = ModalityContent(torch.arange(len(items)), chunks, blank, passes or len(chunks))
    return ItemContent(items, {"text": text})


def without_content(items: torch.Tensor) -> ItemContent:
    return ItemContent(items, {})
