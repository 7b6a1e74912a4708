"""Does it work on *any* network? A zoo of them, from ResNet to detectors, measured one by one.

    python benchmarks/zoo.py                                  # everything; many hours on one core
    python benchmarks/zoo.py --fast                           # eight small ones; minutes
    python benchmarks/zoo.py --family timm --only '*vit*'     # some of them
    python benchmarks/zoo.py --workers 4 --no-peer

Networks start from random weights (nothing is downloaded), made lively so that a mistake anywhere
shows in the output: ``signal`` is how far apart the outputs of two random inputs are, and says how
much a mistake could show. Each network is measured in a fresh process on one thread
(``zoo_amc.py``), so that memory and crashes are its own, and torch-pruning halves it in another
(``zoo_peer.py``). Seconds are CPU seconds, which another process on the machine does not stretch
as much as it stretches the wall's; memory is what a block of code adds to the process at its peak.

Read the table from the left: what the dense forward costs, and what one pays to find the units;
how many there are, and what share of the MACs lies in layers that they can shrink; then the proof,
for three plans that keep about .9, .5 and .2 of each unit, widths and groups drawn at random: the
worst error of the sliced network against its masked twin (1.2e-4 is the limit), how many units were
cut and proven one by one (of those that there was time to try), and whether the
closed-form MACs and parameters equal PyTorch's own counts of the sliced network, exactly.

The outcome of a network is ``verified`` (all three plans), ``differs`` (one is wrong), ``refused``
(amc says why not: nothing to prune, say), ``error`` (a bug), ``timeout``, ``crashed`` or
``does not build``.

Each network appends a line to ``results/zoo.jsonl`` as it ends. A network that is there for the
present commit of the code is skipped, so that an interrupted benchmark goes on where it stopped.
``results/zoo.md`` and ``results/zoo.json`` are made from the latest line of each. The exit
status is 1 where a network of this run differs, fails, crashes or miscounts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from common import CHANGED, RESULTS, append_line, code_commit, read_lines
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from zoo_networks import FAST, zoo
from zoo_table import exact, page

HERE = Path(__file__).parent
LINES = RESULTS / "zoo.jsonl"
SOUND = ("verified", "refused")


def main() -> int:
    """Measure what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="PATTERN", help="shell pattern; repeat")
    parser.add_argument("--family", choices=["torchvision", "timm", "beyond", "people"])
    parser.add_argument("--fast", action="store_true", help="eight small networks")
    parser.add_argument("--no-peer", action="store_true", help="leave torch-pruning out")
    parser.add_argument("--again", action="store_true", help="measure what is there already")
    parser.add_argument("--limit-seconds", type=int, default=1800, help="of wall time, a network")
    parser.add_argument("--peer-limit-seconds", type=int, default=120, help="for torch-pruning")
    parser.add_argument("--workers", type=int, default=1, help="networks at a time")
    arguments = parser.parse_args()
    commit = code_commit()
    names = [name for name in zoo() if wanted(name, arguments)]
    known = {line["network"] for line in read_lines(LINES) if line["commit"] == commit}
    again = arguments.again or commit.endswith(CHANGED)
    todo = [name for name in names if again or name not in known]
    measured = measure_all(todo, commit, arguments)
    latest = {line["network"]: line for line in read_lines(LINES)}
    results = [latest[name] for name in zoo() if name in latest]
    if results:
        (RESULTS / "zoo.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "zoo.md").write_text(page(results))
    return int(any(r["outcome"] not in SOUND or exact(r) is False for r in measured))


def wanted(name: str, arguments: argparse.Namespace) -> bool:
    """Whether the options choose this network; a pattern may leave the family out."""
    family, _, bare = name.partition(":")
    patterns = arguments.only or ["*"]
    return (
        arguments.family in (None, family)
        and (name in FAST or not arguments.fast)
        and any(fnmatchcase(form, pattern) for form in (name, bare) for pattern in patterns)
    )


def measure_all(names: list[str], commit: str, arguments: argparse.Namespace) -> list[dict]:
    """Measure networks, some at a time; each is written down as it ends."""
    results = []
    progress = Progress(
        *(TextColumn("zoo"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn()),
        *(TextColumn("left"), TimeRemainingColumn()),
        console=Console(stderr=True),
    )
    with ThreadPoolExecutor(arguments.workers) as pool, progress:
        task = progress.add_task("", total=len(names))
        futures = [pool.submit(measure, name, commit, arguments) for name in names]
        try:
            for future in as_completed(futures):
                result = future.result()
                append_line(LINES, result)
                results.append(result)
                progress.update(task, advance=1)
                progress.console.print(headline(result), highlight=False)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def headline(result: dict[str, Any]) -> str:
    """One network in a few words."""
    peer = result.get("peer", {}).get("outcome", "not run")
    return f"{result['network']}: {result['outcome']} (torch-pruning: {peer})"


def measure(name: str, commit: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All that is known of one network, from its two processes."""
    result = {"network": name, "commit": commit}
    result |= child("zoo_amc.py", name, arguments.limit_seconds)
    if not arguments.no_peer:
        result["peer"] = child("zoo_peer.py", name, arguments.peer_limit_seconds)
    return result


def child(script: str, name: str, seconds: int) -> dict[str, Any]:
    """Run one script on one network, and merge what it wrote before it ended, however it did."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.jsonl"
        ended = subprocess.run(
            [sys.executable, str(HERE / script), name, str(path), str(seconds)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        for line in read_lines(path):
            result |= line
    if "outcome" in result:
        return result
    if ended.returncode == -signal.SIGALRM:
        result |= {"outcome": "timeout", "error": f"not done {seconds} seconds after it was built"}
    else:
        last = ended.stderr.strip().splitlines()[-1:]
        status = f"exit status {ended.returncode}"
        result |= {"outcome": "crashed", "error": ": ".join([status, *last])}
    return result


if __name__ == "__main__":
    sys.exit(main())
