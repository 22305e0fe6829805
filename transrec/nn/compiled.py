"""torch.compile, for functions that training runs over and over."""

from collections.abc import Callable
from typing import Any

import torch

from transrec.errors import TransRecError


class CompilerError(TransRecError, RuntimeError):
    """PyTorch's compiler does not work on this machine."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` at its first call, once for all sizes of its tensors.

    The compiled function is kept as a plain attribute of its module, not as a module around it, so that parameters keep
    their names.

    Raises:
        CompilerError: (when the result is called) there is no working compiler.
    """
    from torch._dynamo.exc import BackendCompilerFailed  # a second of imports that other runs need not wait for

    run = torch.compile(function, dynamic=True)

    def call(*arguments: Any) -> Any:
        try:
            return run(*arguments)
        except BackendCompilerFailed as error:
            problem = " ".join(str(error.inner_exception).split("\n\n")[0].split())[:300]
            raise CompilerError(
                f"`train.compile=true`: PyTorch could not compile a pass ({problem}): install a C++ compiler such as "
                "g++ and the headers of Python, or set train.compile=false"
            ) from error

    return call
