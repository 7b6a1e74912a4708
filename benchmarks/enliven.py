"""A network as it was initialised hides mistakes; this one does not. Shared with the tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def enliven_(model: nn.Module, inputs: Any, generator: torch.Generator) -> None:
    """Give biases, scales and shifts values of their own, and BatchNorm the ``inputs``' statistics.

    An untrained network whose statistics do not fit drowns its signal in the shifts: the output
    hardly depends on the early layers, and a mistake there goes unseen. So it does where a layer
    scale starts at 1e-6; and norms whose weights are all 1 do not show channels in the wrong order.
    So every parameter that starts as one number is drawn anew: around 0 where that number is 0,
    around 1 otherwise. Matrices that start at a fixed small size, as transformers' do at .02, are
    drawn larger: with them attention hardly chooses, and a mistake in a query would not show.
    ``inputs`` is a tensor or a tuple of positional arguments.
    """
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.affine]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            first = float(parameter.flatten()[0])
            if name.endswith("bias") or (first == 0 and not parameter.any()):
                parameter.uniform_(-0.5, 0.5, generator=generator)
            elif bool((parameter == first).all()):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.dim() in (2, 3) and parameter.std() < 0.03:
                parameter.normal_(0, 1.5 * parameter.shape[-1] ** -0.5, generator=generator)
        for norm in norms:
            norm.train()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
