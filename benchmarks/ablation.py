"""What each part of the default agent is worth: searches with one of them changed.

Every variant searches from the same ``--seeds``; the results are in ``results/ablation-NETWORK/``
(as ``amc compare`` leaves them; an interrupted benchmark goes on), and ``ablation-NETWORK.md``
beside it holds the differences to the default, paired by seed.

    python benchmarks/ablation.py --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import RESULTS, add_inputs, search_side_by_side

from amc.agents.expert.settings import ExpertConfig
from amc.comparison.settings import CompareConfig
from amc.comparison.statistics import AgentResult, Comparison, significance
from amc.config import SearchConfig
from amc.pipeline.search import make_config

DEFAULT = "default"
CHANGES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "the critic's mean only (optimism 0)": {"optimism": 0.0},
    "optimism 2": {"optimism": 2.0},
    "an actor that never learns": {"gradient_steps": 0},
    "an actor that learns four times as much": {"gradient_steps": 160},
    "warm-up of 2 plans": {"warmup_episodes": 2},
    "warm-up of 20 plans": {"warmup_episodes": 20},
    "warm-up nearer (half the deviations)": {"start_std": 0.075, "noise_std": 0.15},
    "warm-up farther (twice)": {"start_std": 0.3, "noise_std": 0.6},
}
"""What differs from :class:`ExpertConfig`, by variant."""


class Ablation(CompareConfig):
    """A comparison whose agents are variants of the default one; others keep their names."""

    def job(self, agent: str, seed: int) -> SearchConfig:
        """The settings of one search."""
        if agent not in CHANGES:
            return super().job(agent, seed)
        settings = {"expert": ExpertConfig(**CHANGES[agent])}
        return super().job("expert", seed).model_copy(update={"agent_settings": settings})


def main() -> None:
    """Search where there is no result, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[20, 40, 80, 150])
    parser.add_argument("--jobs", type=int, help="searches side by side; default: one a core")
    arguments = parser.parse_args()
    config = Ablation(
        agents=(*CHANGES, "ddpg"),
        seeds=arguments.seeds,
        evaluations=tuple(arguments.evaluations),
        search=make_config(arguments.budget, threads=1),
    )
    name = f"ablation-{arguments.network}"
    comparison = search_side_by_side(arguments, config, RESULTS / name, arguments.jobs)
    text = table(comparison)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def table(comparison: Comparison) -> str:
    """The default's medians, and what each variant has more than it, at each mark."""
    default, *variants = comparison.agents
    marks = comparison.marks
    rows = [
        "| agent | seeds | " + " | ".join(map(str, marks)) + " |",
        "|---|---|" + "---|" * len(marks),
        _row(default, [f"{np.median(default.at(mark)):.3f}" for mark in marks]),
        *(_row(one, [_difference(one, default, mark) for mark in marks]) for one in variants),
    ]
    notes = (
        f"Best so far after that many evaluations, {comparison.quality}: of the default the "
        "median, of the others the median of their differences to it from seed to seed, the "
        "extremes, and p of Wilcoxon's signed-rank test (two-sided, not corrected; of 5 pairs at "
        "least .0625)."
    )
    return "\n".join([notes, "", *rows]) + "\n"


def _row(one: AgentResult, cells: list[str]) -> str:
    return f"| {one.agent} | {len(one.seeds)} | {' | '.join(cells)} |"


def _difference(one: AgentResult, default: AgentResult, mark: int) -> str:
    mine, theirs = (dict(zip(x.seeds, x.at(mark), strict=True)) for x in (one, default))
    gaps = [value - theirs[seed] for seed, value in mine.items() if seed in theirs]
    if not gaps:
        return "–"
    _, p = significance(one, default, mark)
    return f"{np.median(gaps):+.3f} ({min(gaps):+.3f} to {max(gaps):+.3f}), p {p:.2g}"


if __name__ == "__main__":
    main()
