"""Random crops and mirror images in training, each a function of (seed, step, item).

A resumed run therefore draws the same numbers, on any number of ranks and whatever else is in the batch.

Designs considered. Numbers from the generator of the device would depend on rank and pass. Cropping in the loader would
not save the transfer of the pixels, and the device resamples faster. Chosen: the loader draws six numbers, and the
device resamples.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from transrec.data.batch import ModalityContent

AREA, RATIO = (0.5, 1.0), (3 / 4, 4 / 3)  # share of the picture that is kept; width over height of the crop
_AUGMENTATION = 4  # seed component that separates these random numbers from those of order and negatives


def augmented(content: ModalityContent, items: NDArray[np.int64], seed: int, step: int) -> ModalityContent:
    """`content` of the pool `items` with a random `view` (n, 2, 3) added to every chunk; see the function `view`."""
    views = [torch.from_numpy(view(seed, step, int(item))) for item in items[content.rows.numpy()]]
    chunks, first = [], 0
    for chunk in content.chunks:
        last = first + len(chunk["pixel_values"])
        chunks.append(chunk | {"view": torch.stack(views[first:last])})
        first = last
    blank = chunks[0]["view"][:1] if chunks else torch.eye(2, 3).unsqueeze(0)
    return replace(content, chunks=chunks, blank=content.blank | {"view": blank})


def view(seed: int, step: int, item: int) -> NDArray[np.float32]:
    """Affine map (2, 3) from positions in the new picture to positions in the old; both run from -1 to 1."""
    rng = np.random.default_rng((_AUGMENTATION, seed, step, item))
    area, ratio = rng.uniform(*AREA), np.exp(rng.uniform(*np.log(RATIO)))
    sides = np.minimum(1.0, np.sqrt([area * ratio, area / ratio]))  # width, height
    x, y = rng.uniform(sides - 1, 1 - sides)
    mirror = rng.choice([-1, 1])
    return np.array([[mirror * sides[0], 0, x], [0, sides[1], y]], np.float32)
