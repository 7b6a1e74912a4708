"""Is a slice ever wrong? Random networks, three plans each, against a reference worked out by hand.

    python benchmarks/fuzz.py --networks 2000 --workers 4   # twenty minutes on four free cores
    python benchmarks/fuzz.py --networks 1 --start 57       # one of them

A seed draws a small network out of a table of blocks as people write them
(``benchmarks/fuzzing``): branches, shared layers, concatenations, splits, gates, reshapes,
attention, norms, computed weights, tables, loops, writes in place. Every block brings a second
implementation, written by hand, that computes on what is left of its input with what is left of its
weights, and checks at each step that a weight expects the channels that are there. It shares no
code with the tracer, the mask or the verification: what is left is read off the units' slots.

Of each network three plans are cut, one of them at the least widths and two with the channels
ranked at random. It is

    sound          slices agree with the reference in double precision (1e-7), every kept value is
                   where it belongs, MACs are PyTorch's own count and parameters are counted, layers
                   state their sizes, a step of training has finite gradients, and the network has
                   not changed
    silent         the same, but amc refuses to prove one of the plans, which lets no signal through
    refused        nothing can be pruned, and amc says why
    skipped        the reference knows nothing of it, or its output hardly depends on its input

and everything else is a failure: a slice that differs, parts of a plan that contradict each other,
a plan that is refused although every unit was proven, a wrong count, a traceback. A failing network
is made smaller, block by block, as long as it fails.

Networks run in a child process, which starts anew after a crash or a hang. The lines of a run are
kept in ``runs/fuzz.jsonl``, and a network that is there for the present code is not done again.
Of 500 or more, ``results/fuzz.md`` is the table, and ``results/fuzz.jsonl`` has the failures. The
exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from statistics import mean
from typing import Any

from common import CHANGED, RESULTS, append_line, code_commit, read_lines
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

HERE = Path(__file__).parent
LINES = HERE.parent / "runs" / "fuzz.jsonl"
HARMLESS = ("sound", "silent", "refused", "skipped")
REPORTED = 500
"""Fewest networks of which a table is kept."""
Tell = Callable[[dict[str, Any]], None]
CHUNK = 25
"""Networks of one child process."""


def main() -> int:
    """Judge what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=2000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="seed of the first")
    parser.add_argument("--limit-seconds", type=int, default=120, help="of wall time, a network")
    parser.add_argument("--again", action="store_true", help="judge what is there already")
    parser.add_argument("--workers", type=int, default=1, help="child processes at a time")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    seeds = range(arguments.start, arguments.start + arguments.networks)
    if arguments.child:
        return child(seeds, arguments.limit_seconds)
    commit = code_commit("benchmarks/fuzzing")
    again = arguments.again or commit.endswith(CHANGED)
    known = {} if again else {x["seed"]: x for x in read_lines(LINES) if x["commit"] == commit}
    todo = [seed for seed in seeds if seed not in known]
    judged = known | {line["seed"]: line for line in judge_all(todo, commit, arguments)}
    lines = [judged[seed] for seed in seeds]
    failures = [line for line in lines if line["outcome"] not in HARMLESS]
    print(table(lines))
    if len(lines) >= REPORTED:
        (RESULTS / "fuzz.md").write_text(table(lines) + "\n")
        text = "".join(json.dumps(line) + "\n" for line in failures)
        (RESULTS / "fuzz.jsonl").write_text(text)
    return int(bool(failures))


def judge_all(
    seeds: list[int], commit: str, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """A line of each, as they come."""
    progress = Progress(
        *(TextColumn("fuzz"), BarColumn(bar_width=24), MofNCompleteColumn()),
        *(TextColumn("{task.fields[failed]} failed, left"), TimeRemainingColumn()),
        console=Console(stderr=True),
    )
    failed, lines = 0, SimpleQueue[dict[str, Any]]()
    LINES.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(arguments.workers) as pool, progress:
        task = progress.add_task("", total=len(seeds), failed=0)
        running = [
            pool.submit(_told, chunk, commit, arguments.limit_seconds, lines.put)
            for chunk in _chunks(seeds)
        ]
        try:
            for _ in seeds:
                line = lines.get()
                if not line:  # a chunk has failed
                    break
                append_line(LINES, line)
                if line["outcome"] not in HARMLESS:
                    failed += 1
                    text = f"{line['seed']}: {line['outcome']}: {line['message']}"
                    progress.console.print(text, highlight=False, markup=False)
                progress.update(task, advance=1, failed=failed)
                yield line
        finally:
            pool.shutdown(cancel_futures=True)
    for future in running:
        if not future.cancelled():
            future.result()


def _chunks(seeds: list[int]) -> Iterator[range]:
    """Seeds in a row, for one child process each."""
    while seeds:
        start = seeds[0]
        count = next((n for n in range(1, CHUNK) if seeds[n : n + 1] != [start + n]), CHUNK)
        yield range(start, start + count)
        seeds = seeds[count:]


def _told(seeds: range, commit: str, limit: int, tell: Tell) -> None:
    """Judge a chunk, and tell of its end where that fails."""
    try:
        _judge_chunk(seeds, commit, limit, tell)
    except BaseException:
        tell({})
        raise


def _judge_chunk(seeds: range, commit: str, limit: int, tell: Tell) -> None:
    """Child after child; where one ends early, the network that it was at is to blame."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    while seeds:
        command = [sys.executable, __file__, f"--networks={len(seeds)}", f"--start={seeds[0]}"]
        command += [f"--limit-seconds={limit}", "--child"]
        done = 0
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for text in process.stdout:
                done += 1
                tell({"commit": commit, **json.loads(text)})
        if process.returncode in (-signal.SIGTERM, -signal.SIGINT):
            sys.exit("interrupted")  # somebody ends the benchmark, and no network is to blame
        if done < len(seeds):
            outcome = "timeout" if process.returncode == -signal.SIGALRM else "crashed"
            message = f"exit status {process.returncode}"
            blamed = {"seed": seeds[done], "outcome": outcome, "message": message}
            tell({"commit": commit, **blamed, "units": 0, "reach": 0.0, "kinds": []})
            done += 1
        seeds = seeds[done:]


def child(seeds: range, limit: int) -> int:
    """Judge networks one by one; each has so many seconds, after which the kernel ends us."""
    import torch
    from fuzzing.generate import draw_spec
    from fuzzing.judge import judge, shrink

    torch.set_num_threads(1)
    for seed in seeds:
        signal.alarm(limit)
        spec = draw_spec(seed)
        verdict = judge(spec)
        line: dict[str, Any] = {"seed": seed, **vars(verdict)}
        line["reach"] = round(verdict.reach, 3)
        if verdict.outcome not in HARMLESS:
            signal.alarm(10 * limit)
            small = shrink(spec, verdict.outcome)
            line["smallest"] = small.blocks
            line["message"] = judge(small).message
        print(json.dumps(line), flush=True)
    return 0


def table(lines: list[dict[str, Any]]) -> str:
    """Outcomes, and what is within reach, by kind of block."""
    outcomes = Counter(line["outcome"] for line in lines)
    failing = [name for name in outcomes if name not in HARMLESS]
    said = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        for kind in {name.partition(".")[0] for name in line["kinds"]}:
            rows[kind].append(line)
    out = [
        f"{len(lines)} random networks, seeds {lines[0]['seed']} to {lines[-1]['seed']}: {said}.",
        "",
        "Made by `python benchmarks/fuzz.py`. A network counts in the row of each of its blocks;",
        "within reach: the share of its MACs that the smallest plan takes away, in the mean.",
        "",
        "| block | networks | sound | silent | refused | skipped | failed | MACs within reach |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, found in sorted(rows.items()):
        counts = Counter(line["outcome"] for line in found)
        cells = [counts[name] for name in HARMLESS] + [sum(counts[name] for name in failing)]
        reach = mean(line["reach"] for line in found)
        out.append(f"| {kind} | {len(found)} | {' | '.join(map(str, cells))} | {reach:.0%} |")
    return "\n".join(out)


if __name__ == "__main__":
    sys.exit(main())
