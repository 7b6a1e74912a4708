"""How searchers compare: the best so far at equal numbers of evaluations, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amc.comparison.jobs import Outcome
from amc.comparison.settings import CompareConfig
from amc.config import SearchConfig, sign_of
from amc.errors import ConfigError
from amc.utils import formatting

try:
    from scipy.stats import wilcoxon
except ImportError:
    raise ConfigError("amc compare needs scipy: pip install amc-agent[compare]") from None

_QUALITY = {
    "kl": "KL divergence to the dense network (lower is better)",
    "cross_entropy": "cross-entropy (lower is better)",
    "accuracy": "search-val accuracy (higher is better)",
}
"""What the reward of that name states, in words; other rewards are shown as they are."""


@dataclass(frozen=True)
class AgentResult:
    """One agent's searches."""

    agent: str
    seeds: tuple[int, ...]
    curves: np.ndarray
    """(seeds, evaluations) best quality so far; the reward without the sign that it gave the
    quality. Of a search that ended by itself the last value stays. One evaluation, where every
    search had but one plan."""
    agent_seconds: float
    """Median of the agent's own time for a plan."""
    search_seconds: float
    """Median of a whole search's time."""

    def at(self, mark: int) -> np.ndarray:
        """(seeds,) best quality after ``mark`` evaluations."""
        best: np.ndarray = self.curves[:, min(mark, self.curves.shape[1]) - 1]
        return best


@dataclass(frozen=True)
class Comparison:
    """All agents of a comparison, in the order of its settings."""

    quality: str
    """What is compared, in words."""
    marks: tuple[int, ...]
    agents: tuple[AgentResult, ...]

    def p_values(self, other: AgentResult) -> list[tuple[int, float]]:
        """Seeds in common, and Wilcoxon's p of the first agent against ``other``, at each mark."""
        return [significance(self.agents[0], other, mark) for mark in self.marks]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and lines: median (range) at each mark, and seconds."""
        head = ["agent", "seeds", *map(str, self.marks), "agent s / plan", "search s"]
        lines = [
            [
                one.agent,
                str(len(one.seeds)),
                *(_spread(one.at(mark)) for mark in self.marks),
                f"{one.agent_seconds:.2g}",
                f"{one.search_seconds:.3g}",
            ]
            for one in self.agents
        ]
        return head, lines

    def significance_table(self) -> tuple[list[str], list[list[str]]]:
        """Head and lines: p of the first agent against each other one at each mark."""
        head = [f"{self.agents[0].agent} against", "pairs", *map(str, self.marks)]
        lines = []
        for other in self.agents[1:]:
            tests = self.p_values(other)
            lines.append([other.agent, str(tests[0][0]), *(_p(p) for _, p in tests)])
        return head, lines

    def to_json(self) -> dict[str, Any]:
        """The numbers of both tables."""
        return {
            "quality": self.quality,
            "marks": list(self.marks),
            "agents": [
                {
                    "agent": one.agent,
                    "seeds": list(one.seeds),
                    "median": [float(np.median(one.at(mark))) for mark in self.marks],
                    "least": [float(one.at(mark).min()) for mark in self.marks],
                    "most": [float(one.at(mark).max()) for mark in self.marks],
                    "agent_seconds": one.agent_seconds,
                    "search_seconds": one.search_seconds,
                }
                | ({"p": [p for _, p in self.p_values(one)]} if one is not self.agents[0] else {})
                for one in self.agents
            ],
        }


def stand(config: CompareConfig, outcomes: Sequence[Outcome]) -> Comparison:
    """The comparison after these jobs; agents without one are left out."""
    agents = [
        _standing(agent, config.search, own)
        for agent in dict.fromkeys(config.agents)
        if (own := sorted((x for x in outcomes if x.agent == agent), key=lambda x: x.seed))
    ]
    quality = _QUALITY.get(config.search.reward, f"reward {config.search.reward}")
    return Comparison(quality, tuple(sorted(config.evaluations)), tuple(agents))


def significance(one: AgentResult, other: AgentResult, mark: int) -> tuple[int, float]:
    """How many seeds both have, and the p-value of Wilcoxon's signed-rank test on those pairs.

    Two-sided. The only search of an agent without randomness is paired with each of the other's;
    p is 1 where all pairs are equal, and NaN where there are none.
    """
    if len(other.curves) == 1:
        pairs = [(x, other.at(mark)[0]) for x in one.at(mark)]
    elif len(one.curves) == 1:
        pairs = [(one.at(mark)[0], x) for x in other.at(mark)]
    else:
        mine, theirs = (dict(zip(x.seeds, x.at(mark), strict=True)) for x in (one, other))
        pairs = [(mine[seed], theirs[seed]) for seed in one.seeds if seed in theirs]
    differences = np.array([a - b for a, b in pairs])
    if not differences.any():
        return len(pairs), 1.0 if pairs else float("nan")
    return len(pairs), float(wilcoxon(differences).pvalue)


def _standing(agent: str, config: SearchConfig, outcomes: list[Outcome]) -> AgentResult:
    length = max(len(outcome.rewards) for outcome in outcomes)
    best = [np.maximum.accumulate(outcome.rewards) for outcome in outcomes]
    curves = np.stack([np.pad(x, (0, length - len(x)), mode="edge") for x in best])
    own = [outcome.seconds["agent"] / len(outcome.rewards) for outcome in outcomes]
    whole = [sum(outcome.seconds.values()) for outcome in outcomes]
    return AgentResult(
        agent,
        tuple(outcome.seed for outcome in outcomes),
        sign_of(config.reward) * curves,
        float(np.median(own)),
        float(np.median(whole)),
    )


def _spread(values: np.ndarray) -> str:
    median = formatting.number(float(np.median(values)))
    if len(values) == 1:
        return median
    least, most = (formatting.number(float(end)) for end in (values.min(), values.max()))
    return f"{median} ({least} to {most})"


def _p(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2g}"
