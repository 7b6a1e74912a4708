"""What was found on one network, on another: a policy or a plan, replayed or adapted.

It goes the way of every search (:mod:`amc.pipeline.search`): a replay is one that has no episodes,
an adaptation one that begins where the policy or the plan says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from amc.agents.policy import Policy
from amc.config import SearchConfig
from amc.cost.budget import Budget
from amc.envs.make import make_problem
from amc.errors import ConfigError, EvaluationError
from amc.models.weights import weights_sha256
from amc.pipeline.search import SearchResult, search
from amc.pipeline.source import Source, find_source
from amc.pruning.plan import Plan, plan_of
from amc.task import Task


def replay(
    source: Source | Policy | Plan | Path | str,
    task: Task,
    budget: str | Sequence[str] | None = None,
    *,
    episodes: int = 0,
    run: Path | str | None = None,
    allow_factory: bool = False,
    **settings: Any,
) -> SearchResult:
    """The plan for ``task`` that a policy, or a plan of another network, proposes.

    ``source`` is a policy's folder or that of a run, the name of one in ``runs/policies``, a
    ``plan.json``, or a policy or plan itself. With ``episodes`` a search follows that begins there
    and learns from so many evaluated plans. A plan's own fraction of the MACs is the budget where
    none is given. All else is as in :func:`amc.search`, and so is what comes back.

    Raises :class:`ConfigError` for a source that is none, or a policy without a budget, what
    :func:`amc.search` raises, and :class:`ModelError` where the plan's network would be built by a
    Python file that ``allow_factory`` does not allow.
    """
    found = find_source(source, allow_factory=allow_factory)
    given = {**found.settings, **settings}
    return search(task, budget or found.budget, start=found, episodes=episodes, run=run, **given)


def propose(source: Source, model: nn.Module, example_inputs: Any, config: SearchConfig) -> Plan:
    """The plan that ``source`` proposes for a network without images: nothing is evaluated.

    Channels are ranked by what the weights tell. Raises what :func:`amc.search` raises, and
    :class:`ConfigError` for a range of budgets.
    """
    problem = make_problem(Task(model, example_inputs, _unscored, config=config.model), config)
    if not isinstance(problem.budgets, Budget):
        raise ConfigError("without images there is one plan: give one budget, not a range")
    proposal = source.start(problem).plan(problem.budgets)
    return plan_of(
        problem.cost,
        proposal.widths,
        weights_sha256=weights_sha256(model),
        model=config.model,
        example_inputs=example_inputs,
    )


def _unscored(_: nn.Module) -> Mapping[str, float]:
    raise EvaluationError("there are no images to score a plan on")
