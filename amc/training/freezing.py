"""Layers that are not trained, and when they are after all."""

from __future__ import annotations

import fnmatch

from torch import nn

from amc.config import FinetuneConfig
from amc.errors import ConfigError


class Freezing:
    """Keeps the layers of ``config.freeze`` as they are: their parameters and their statistics.

    After ``config.unfreeze_epoch`` epochs the last group of them is trained too, after the next
    epoch the last but one, and so on; a group is what shares the first part of its name
    (``layer1``). Howard and Ruder, Universal Language Model Fine-tuning, 2018, section 3.3.

    Raises :class:`ConfigError` for a pattern that no layer has.
    """

    def __init__(self, model: nn.Module, config: FinetuneConfig) -> None:
        self._after = config.unfreeze_epoch
        names = [name for name, _ in model.named_modules() if name]
        chosen: set[str] = set()
        for pattern in config.freeze:
            found = fnmatch.filter(names, pattern)
            if not found:
                raise ConfigError(
                    f"freeze {pattern!r}: no layer has such a name; the first are "
                    f"{', '.join(names[:4])}"
                )
            chosen.update(found)
        self._groups: dict[str, list[nn.Module]] = {}
        for name, module in model.named_modules():
            if any(name == one or name.startswith(f"{one}.") for one in chosen):
                self._groups.setdefault(name.partition(".")[0], []).append(module)
        self._parameters = {
            name: [p for m in modules for p in m.parameters(recurse=False) if p.requires_grad]
            for name, modules in self._groups.items()
        }

    def begin(self, epoch: int) -> None:
        """Freeze what is frozen in that epoch (from 1); the model is in train mode."""
        names = list(self._groups)
        free = 0 if self._after is None else min(max(epoch - self._after, 0), len(names))
        frozen = names[: len(names) - free]
        for name in names:
            self._set(name, trained=name not in frozen)

    def end(self) -> None:
        """Let everything be trained again."""
        for name in self._groups:
            self._set(name, trained=True)

    def _set(self, name: str, *, trained: bool) -> None:
        for parameter in self._parameters[name]:
            parameter.requires_grad_(trained)
            if not trained:
                parameter.grad = None
        if not trained:
            for module in self._groups[name]:
                module.eval()
