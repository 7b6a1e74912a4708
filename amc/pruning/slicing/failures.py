"""What goes wrong in a sliced network, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from amc.errors import AMCError, VerificationError
from amc.tracing.inputs import Inputs, tensors_of
from amc.tracing.trace import eval_mode


@contextmanager
def explained(small: nn.Module, example_inputs: Any) -> Iterator[None]:
    """Around what uses a sliced network before it is proven: a search scores many.

    Raises :class:`VerificationError` where that fails and the network also fails on
    ``example_inputs``; any other error is somebody else's and goes on.
    """
    try:
        yield
    except (AMCError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        found = failure(small, example_inputs)
        if found is None:
            raise
        raise VerificationError(
            f"a sliced network fails, at widths that were not proven: {found}; leave the unit "
            "from which that comes alone (exclude)"
        ) from error


def failure(small: nn.Module, example_inputs: Any) -> str | None:
    """Why the network fails on ``example_inputs``; None where it runs, and gives no NaN."""
    try:
        with torch.inference_mode(), eval_mode(small):
            outputs = tensors_of(Inputs.of(example_inputs, small).call(small))
    except Exception as error:
        return first_line(error)
    return "its outputs are NaN" if any(bool(x.isnan().any()) for x in outputs) else None


def first_line(error: BaseException) -> str:
    """What failed and, where it can be told, at which line of the model's own code."""
    not_theirs = (torch.__path__[0], __file__.rpartition("/")[0])
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(not_theirs):
            place = f" (at {file.rpartition('/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{str(error).splitlines()[0] if str(error) else type(error).__name__}{place}"
