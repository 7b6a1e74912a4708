"""Where a search may begin: what was found elsewhere, read by name, and kept with the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amc.agents.policy import Policy, holds_policy
from amc.agents.warm_start import Start
from amc.envs.problem import PruningProblem
from amc.errors import ConfigError
from amc.pipeline.role_plan import RolePlan
from amc.pruning.plan import Plan

LIBRARY = Path("runs") / "policies"
"""Policies by name, from the folder in which one works."""

_ROLE_PLAN = "role-plan.json"


@dataclass(frozen=True)
class Source:
    """What was learned elsewhere, or what was done there."""

    name: str
    """Where it was found, for the settings of a run."""
    origin: Policy | RolePlan

    def start(self, problem: PruningProblem) -> Start:
        """What it says of the network in ``problem``.

        Raises :class:`ConfigError` where it is a policy that was trained under another constraint.
        """
        if isinstance(self.origin, Policy):
            return Start.of_policy(self.origin, problem)
        return Start.of_keeps(self.origin.keeps(problem.units), problem)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a search that can begin here."""
        sequential = isinstance(self.origin, Policy) and self.origin.constraint == "sequential"
        return {"constraint": "sequential", "agent": "ddpg"} if sequential else {}

    @property
    def budget(self) -> str:
        """A plan's own fraction of the MACs, rounded up, so that the same widths are within it.

        Raises :class:`ConfigError` for a policy, which serves many budgets.
        """
        if isinstance(self.origin, Policy):
            raise ConfigError(f"{self.name} is a policy: give a budget, such as flops=0.5")
        return f"flops={math.ceil(1e4 * self.origin.kept_macs) / 1e4:g}"

    def keep(self, folder: Path) -> None:
        """Keep a copy in ``folder``, which is created, so that a run depends on no other."""
        folder.mkdir(parents=True, exist_ok=True)
        policy = isinstance(self.origin, Policy)
        self.origin.save(folder if policy else folder / _ROLE_PLAN)

    @classmethod
    def kept(cls, folder: Path) -> Source:
        """What :meth:`keep` kept. Raises :class:`AMCError` where it is not sound."""
        path = folder / _ROLE_PLAN
        return cls(str(folder), RolePlan.load(path) if path.exists() else Policy.load(folder))


def find_source(
    where: Source | Policy | Plan | Path | str, *, allow_factory: bool = False
) -> Source:
    """A policy's folder or that of a run with one, the name of one in :data:`LIBRARY`, a plan's
    file; or what was read from one.

    Raises :class:`ConfigError` where there is none or the policy is not sound, and what
    :meth:`RolePlan.read` raises.
    """
    if isinstance(where, Source):
        return where
    if isinstance(where, Policy):
        return Source("a policy", where)
    if isinstance(where, Plan):
        return Source("a plan", RolePlan.traced(where, "the plan", allow_factory=allow_factory))
    path = Path(where)
    if path.is_file():
        plan = Plan.load(path)
        return Source(str(where), RolePlan.traced(plan, str(path), allow_factory=allow_factory))
    for folder in (path, LIBRARY / path):
        if holds_policy(folder):
            return Source(str(where), Policy.load(folder))
    known = ", ".join(sorted(found.name for found in LIBRARY.glob("*") if holds_policy(found)))
    raise ConfigError(
        f"{where}: neither a policy, nor the folder of a run that left one, nor a plan.json, nor a "
        f"name in {LIBRARY} ({known or 'where there is none'})"
    )
