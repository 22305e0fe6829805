"""A process group that gives up after seconds, where a user's gives up after ten minutes."""

from datetime import timedelta
from typing import Any

import torch.distributed as dist


def give_up_after(seconds: float) -> None:
    """From now on in this process: collectives, and the meeting of the ranks at the start."""
    init = dist.init_process_group

    def init_for_a_short_time(*arguments: Any, **options: Any) -> None:
        init(*arguments, **options | {"timeout": timedelta(seconds=seconds)})

    dist.init_process_group = init_for_a_short_time
