"""The machine: what its processor is called, and what tells it from another one."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")
_TELLING = ("cpu family", "model", "stepping")
"""Fields of Linux that tell processors of the same name apart."""


@cache
def host_name(device: str = "cpu") -> str:
    """The name of the processor, or of the GPU where ``device`` is one."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    fields = _cpu_fields()
    return fields.get("model name") or platform.processor() or platform.machine()


@cache
def host_profile(device: str = "cpu") -> str:
    """The same, with all else that forwards depend on: instruction set, number of cores."""
    name = host_name(device)
    if device != "cpu":
        return name
    fields = _cpu_fields()
    telling = [f"{field} {fields[field]}" for field in _TELLING if field in fields]
    level = torch.backends.cpu.get_cpu_capability()
    return ", ".join([name, *telling, level, f"{os.cpu_count()} cores"])


def _cpu_fields() -> dict[str, str]:
    """The first processor's, on Linux; empty elsewhere."""
    if not _CPU_INFO.is_file():
        return {}
    first = _CPU_INFO.read_text(encoding="utf-8").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
