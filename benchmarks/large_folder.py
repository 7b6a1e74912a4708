"""How long does a search of a large folder take to begin, and how much memory does it take?

Images are JPEGs of coloured noise, 100 classes. Few of them are encoded: every file is one of
those, with a number of its own behind its end, so that no two files are the same bytes. The folder
is kept where ``--images`` says so, and then used again.

A search of five episodes, and 50 steps of finetuning, run as a child process: what is measured is
the time until its first episode is recorded, and the greatest memory of it and all processes below
it, as resident sets (which count shared pages once for each process) and as proportional sets
(which share them out). A line is added to ``results/large-folder.jsonl``.

    python benchmarks/large_folder.py --count 200000
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from common import RESULTS, append_line
from PIL import Image

CLASSES, VARIANTS = 100, 16
POLL_S = 0.25
ROOT = Path(__file__).parent.parent


def main() -> None:
    """Make the images, unless they are there, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200_000, help="images, a tenth of them test")
    parser.add_argument("--side", type=int, default=64, help="of the stored images, in pixels")
    parser.add_argument("--images", type=Path, help="folder for them; default: a temporary one")
    parser.add_argument("--network", default="amc:resnet20")
    parser.add_argument("options", nargs="*", help="more options of amc search, behind --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        images = arguments.images or Path(temporary) / "images"
        if not images.exists():
            make_images(images, arguments.count, arguments.side)
        command = [
            *(sys.executable, "-m", "amc", "search", arguments.network),
            *("--data", f"imagefolder:{images.resolve()}", "--image-size", "32"),
            *("--episodes", "5", "--epochs", "1", "--max-steps", "50"),
            *("--run", f"{temporary}/run", *arguments.options),
        ]
        measured = measure(command, Path(temporary) / "run" / "episodes.jsonl")
    result = {"count": arguments.count, "side": arguments.side, "options": arguments.options}
    result |= measured
    print(result)
    append_line(RESULTS / "large-folder.jsonl", result)


def make_images(folder: Path, count: int, side: int) -> None:
    """``count`` files in ``train/`` and ``test/``."""
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        encoded = [_encoded(rng, label, side) for _ in range(VARIANTS)]
        for part, share in (("train", 0.9), ("test", 0.1)):
            inside = folder / part / f"class{label:03d}"
            inside.mkdir(parents=True)
            for number in range(round(share * count / CLASSES)):
                content = encoded[number % VARIANTS] + f"{part}{label}-{number}".encode()
                (inside / f"{number:06d}.jpg").write_bytes(content)


def _encoded(rng: np.random.Generator, label: int, side: int) -> bytes:
    """Noise around the class's own colour."""
    colour = np.random.default_rng(label).integers(40, 216, 3)
    pixels = np.clip(colour + rng.normal(0, 30, (side, side, 3)), 0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()


def measure(command: list[str], episodes: Path) -> dict[str, float | int | None]:
    """Run ``command``; seconds until ``episodes`` has a line, and the most memory in bytes."""
    start, first_s = time.perf_counter(), None
    rss_bytes = pss_bytes = processes = 0
    child = subprocess.Popen(command, cwd=ROOT)
    while child.poll() is None:
        if first_s is None and episodes.exists() and b"\n" in episodes.read_bytes():
            first_s = time.perf_counter() - start
        sizes = [_memory_bytes(process) for process in _tree(child.pid)]
        rss_bytes = max(rss_bytes, sum(rss for rss, _ in sizes))
        pss_bytes = max(pss_bytes, sum(pss for _, pss in sizes))
        processes = max(processes, len(sizes))
        time.sleep(POLL_S)
    return {
        "first_episode_s": first_s,
        "total_s": time.perf_counter() - start,
        "peak_rss_bytes": rss_bytes,
        "peak_pss_bytes": pss_bytes,
        "processes": processes,
        "exit_status": child.returncode,
    }


def _tree(process: int) -> Iterator[int]:
    """A process and all below it."""
    yield process
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child))


def _memory_bytes(process: int) -> tuple[int, int]:
    """Resident and proportional set; nothing of a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0, 0
    sizes = {name: 1024 * int(value) for name, value, *_ in map(str.split, lines)}
    return sizes.get("Rss:", 0), sizes.get("Pss:", 0)


if __name__ == "__main__":
    main()
