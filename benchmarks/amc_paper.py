"""The default agent's 80 evaluations against 800 of the AMC paper's: the preset ``amc-paper``.

Everything is in ``results/amc-paper-NETWORK/``, as ``amc compare`` leaves it; an interrupted
benchmark goes on. In the table's column 800 the default agent still has its best of 80.

    python benchmarks/amc_paper.py --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse

from common import RESULTS, add_inputs, search_side_by_side

from amc.comparison.settings import CompareConfig
from amc.config import SearchConfig
from amc.pipeline.search import make_config

FEW, MANY = 80, 800


class FewAgainstMany(CompareConfig):
    """A comparison in which the first agent searches for a tenth of the time."""

    def job(self, agent: str, seed: int) -> SearchConfig:
        """The settings of one search."""
        config = super().job(agent, seed)
        return config.model_copy(update={"episodes": FEW}) if agent == self.agents[0] else config


def main() -> None:
    """Search where there is no result, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, help="searches side by side; default: one a core")
    arguments = parser.parse_args()
    config = FewAgainstMany(
        agents=("expert", "ddpg:amc-paper"),
        seeds=arguments.seeds,
        evaluations=(FEW, 400, MANY),
        search=make_config(arguments.budget, threads=1),
    )
    folder = RESULTS / f"amc-paper-{arguments.network}"
    search_side_by_side(arguments, config, folder, arguments.jobs)
    print((folder / "compare.md").read_text())


if __name__ == "__main__":
    main()
