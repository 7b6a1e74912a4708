"""Measured times on disk: a file for each host, runtime, version, number of threads and precision.

Each line is one layer at one size, appended when it was measured, so that an interrupted
measurement goes on where it stopped, and another network takes over what it shares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from amc.errors import RunError
from amc.latency.backends import Backend
from amc.latency.measurement import quickest
from amc.latency.predictor.layers import LayerShape
from amc.utils.settings import Settings, explain
from amc.utils.user_cache import cache_folder

_CHUNK = 32
"""Networks that are in memory at once."""


class _Header(Settings):
    format: Literal["amc.layer-times/1"] = "amc.layer-times/1"
    identity: dict[str, str]


class _Entry(Settings):
    layer: str
    inputs: int
    outputs: int
    us: float


class LayerTimes:
    """Times of one-layer networks on one runtime, measured where they are not known yet."""

    def __init__(
        self,
        runtime: Backend,
        folder: Path | None = None,
        on_entry: Callable[[int], None] = lambda _: None,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """``on_entry`` hears how many more were measured, ``on_note`` of what is not used.

        Raises :class:`RunError` where the file, which nobody but this class writes, is damaged.
        """
        self._runtime, self._on_entry = runtime, on_entry
        self._identity = runtime.identity()
        key = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()
        folder = folder or cache_folder()
        self.path = folder / f"{runtime.name}-{key[:12]}.jsonl"
        self._times: dict[tuple[str, int, int], float] = {}
        if self.path.exists():
            self._read()
        elif any(folder.glob(f"{runtime.name}-*.jsonl")):
            on_note(
                f"the layer times in {folder} are of another version, host or number of threads "
                f"than {runtime.description}: they are measured anew"
            )

    def times(self, shape: LayerShape, sizes: Sequence[tuple[int, int]]) -> list[float]:
        """Microseconds of that layer at each pair of input and output channels.

        Raises :class:`amc.errors.ModelError` where the runtime cannot run the layer.
        """
        name = str(shape)
        new = [pair for pair in dict.fromkeys(sizes) if (name, *pair) not in self._times]
        for start in range(0, len(new), _CHUNK):
            self._measure(shape, new[start : start + _CHUNK])
        return [self._times[name, *pair] for pair in sizes]

    def _measure(self, shape: LayerShape, sizes: Sequence[tuple[int, int]]) -> None:
        forwards = []
        for inputs, outputs in sizes:
            network, x = shape.network(inputs, outputs)
            forwards.append(self._runtime.load(network, (x,)))
        times = [1e6 * seconds for seconds in quickest(forwards, self._runtime.time)]
        name = str(shape)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            if not file.tell():
                file.write(_Header(identity=self._identity).model_dump_json() + "\n")
            for (inputs, outputs), us in zip(sizes, times, strict=True):
                self._times[name, inputs, outputs] = us
                entry = _Entry(layer=name, inputs=inputs, outputs=outputs, us=us)
                file.write(entry.model_dump_json() + "\n")
        self._on_entry(len(sizes))

    def _read(self) -> None:
        lines = self.path.read_bytes().splitlines()
        try:
            header = _Header.model_validate_json(lines[0] if lines else b"")
            if header.identity != self._identity:
                raise RunError(f"{self.path} is of {header.identity}; remove the file")
        except ValidationError as error:
            raise RunError(
                f"{self.path}: no layer times: {explain(error)}; remove the file"
            ) from None
        for number, line in enumerate(lines[1:], start=2):
            try:
                entry = _Entry.model_validate_json(line)
            except ValidationError as error:
                if number == len(lines):  # cut off by a crash
                    self._mend(lines[:-1])
                    break
                raise RunError(
                    f"{self.path}, line {number}: {explain(error)}; remove the file"
                ) from None
            self._times[entry.layer, entry.inputs, entry.outputs] = entry.us

    def _mend(self, lines: Sequence[bytes]) -> None:
        self.path.write_bytes(b"".join(line + b"\n" for line in lines))
