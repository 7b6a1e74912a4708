"""Which convolutions are sound in channels_last on this machine, by trial.

Kernels are chosen for a layer's shape and the processor, and one of them can be faulty: on
processors with AVX2 alone, oneDNN 3.13 (PyTorch 2.15) writes past its scratch memory in the
gradient of the weight of a strided 1x1 convolution of fewer than 8 input channels. Pruned networks
have such widths. So every convolution is run before it is relied on, in a process of its own
(:mod:`amc.compute.kernel_trial`), once a machine: the verdicts are kept on disk.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from amc.compute import kernel_trial
from amc.compute.convolutions import Convolution
from amc.utils.atomic_files import replacing
from amc.utils.user_cache import cache_folder

_START_S = 120.0
"""For importing PyTorch on a busy machine."""
_known: dict[str, dict[str, bool]] = {}
"""Verdicts that this process has read or reached, by file."""


def unsound(convolutions: Iterable[Convolution]) -> set[Convolution]:
    """Those that must not run in channels_last: wrong, deadly or endless in a trial here.

    Where no trial can be made, all that are not known.
    """
    wanted = {json.dumps(asdict(each)): each for each in convolutions}
    file = _file()
    verdicts = _known.setdefault(str(file), {})
    if not wanted.keys() <= verdicts.keys():
        verdicts |= _read(file)
    new = [each for key, each in wanted.items() if key not in verdicts]
    if new:
        found = try_out([each.samples() for each in new])
        pairs = zip(new, found, strict=True)
        verdicts |= {json.dumps(asdict(each)): ok for each, ok in pairs if ok is not None}
        _write(file, verdicts)
    return {each for key, each in wanted.items() if not verdicts.get(key)}


def try_out(groups: Sequence[Sequence[Convolution]]) -> list[bool | None]:
    """Whether each group is sound; None where no process can be started.

    Takes one process, and one more for each group that is not.

    What a process found sound counts only if the process ended well: memory that one convolution
    corrupts may kill another one. Then the latter is condemned, and the rest is tried again.
    """
    left = list(range(len(groups)))
    while left:
        tried, ended_well = _trial([groups[number] for number in left])
        if ended_well:
            break
        if tried is None:  # the process did not even begin
            return [None if number in left else False for number in range(len(groups))]
        del left[tried]
    return [number in left for number in range(len(groups))]


def _trial(groups: Sequence[Sequence[Convolution]]) -> tuple[int | None, bool]:
    """The last group that was begun, and whether the process ended well."""
    convolutions = [[asdict(each) for each in group] for group in groups]
    # The program has a limit for each run; this one is for what it cannot end itself.
    limit_s = _START_S + 20 * kernel_trial.TIME_LIMIT_S * sum(map(len, groups))
    # -P: the program's folder is no place to import from.
    command = [sys.executable, "-P", str(Path(kernel_trial.__file__))]
    try:
        ended = subprocess.run(
            command,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},  # no spinning where cores are shared
            input=json.dumps(convolutions),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, False
    begun = [int(line.split()[1]) for line in ended.stdout.splitlines() if line.startswith("try")]
    return (begun[-1] if begun else None), ended.returncode == 0


def machine() -> dict[str, Any]:
    """What verdicts depend on besides the convolution and its threads."""
    return {
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "limits": [os.environ.get(name) for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")],
    }


def _processor() -> str:
    """Its name; platform.processor() knows none on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _file() -> Path:
    name = sha256(json.dumps(machine()).encode()).hexdigest()[:16]
    return cache_folder() / f"kernels-{name}.json"


def _read(file: Path) -> dict[str, bool]:
    """What is kept; nothing, where there is no sound file."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        verdicts = kept["verdicts"]
        if kept["machine"] != machine() or not isinstance(verdicts, dict):
            return {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}
    return {key: ok for key, ok in verdicts.items() if isinstance(ok, bool)}


def _write(file: Path, verdicts: dict[str, bool]) -> None:
    """Keep them, with what another process has kept meanwhile; where that is possible."""
    kept = {"machine": machine(), "verdicts": _read(file) | verdicts}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as draft:
            draft.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    except OSError:
        return
