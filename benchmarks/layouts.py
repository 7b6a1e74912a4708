"""What the check of the layouts costs, the first time and later, and what channels_last gains.

A training step is timed contiguous and in ``fast_layout``, in turns, because a shared machine
drifts; the ratio is the median of the pairs.

    python benchmarks/layouts.py --spec amc:resnet20 --side 32
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from amc.compute import kernel_check
from amc.compute.layout import fast_layout, unsound_layers
from amc.compute.precision import to_channels_last
from amc.config import ModelConfig
from amc.models.factory import build_model


def main() -> None:
    """Print the seconds of each check and of both steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", default="amc:resnet20")
    parser.add_argument("--arguments", type=json.loads, default={}, help="JSON")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = build_model(ModelConfig(spec=arguments.spec, arguments=arguments.arguments)).train()
    images = torch.randn(arguments.batch, 3, arguments.side, arguments.side)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AMC_CACHE"] = folder
        result: dict[str, Any] = {
            name: _check_s(model, images, backward)
            for name, backward in (("forward", False), ("backward", True))
        }
        steps = [_pair(model, images) for _ in range(arguments.pairs)]
    result["step_s"] = {"contiguous": min(a for a, _ in steps), "fast": min(b for _, b in steps)}
    result["ratio"] = statistics.median(fast / plain for plain, fast in steps)
    print(json.dumps(vars(arguments) | result, indent=2))


def _check_s(model: nn.Module, images: Tensor, backward: bool) -> dict[str, Any]:
    """Seconds of a check that must try, one that reads the file, and one that remembers."""
    seconds = []
    for forget in (False, True, False):
        if forget:
            kernel_check._known.clear()
        start = time.perf_counter()
        names = unsound_layers(model, images, backward=backward)
        seconds.append(time.perf_counter() - start)
    return dict(zip(("first_s", "later_s", "again_s"), seconds, strict=True)) | {"unsound": names}


def _pair(model: nn.Module, images: Tensor) -> tuple[float, float]:
    """Seconds of a step contiguous, and in the fast layout."""
    found = []
    for fast in (False, True):
        model.zero_grad()
        context = fast_layout(model, images, backward=True) if fast else nullcontext()
        batch = to_channels_last(images) if fast else images
        with context:
            start = time.perf_counter()
            model(batch).square().mean().backward()
            found.append(time.perf_counter() - start)
    return found[0], found[1]


if __name__ == "__main__":
    main()
