"""What a search keeps: every episode, the best of them and their front, in memory and on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

from amc.agents.policy import Policy, Reached
from amc.agents.registry import Agent
from amc.cost.quantities import Limit
from amc.envs.problem import PruningProblem
from amc.latency.device import DeviceLatency
from amc.pipeline.assignment import Assignment, OnEpisode
from amc.pipeline.latency_check import confirm
from amc.pruning.plan import Plan, plan_of
from amc.records.episode import Episode, JsonlRecorder
from amc.records.pareto_front import Front, merit, nondominated
from amc.records.results import Confirmation
from amc.records.run_folder import RunFolder
from amc.reporting.tensorboard.monitor import TensorBoardMonitor

_REACHED = 6
"""Plans of a front that a policy's file tells of, at most."""


class History:
    """Keeps the episodes of one search; from :meth:`write_to` on also in a run's folder."""

    best: Episode

    def __init__(
        self, assignment: Assignment, problem: PruningProblem, on_episode: OnEpisode | None
    ) -> None:
        self._task, self._config = assignment.task, assignment.config
        self._sha256 = assignment.inputs.weights_sha256
        self._problem = problem
        self._on_episode = on_episode
        self._folder: RunFolder | None = None
        self._writers: list[JsonlRecorder | TensorBoardMonitor] = []
        self._front: list[tuple[Episode, Plan]] = []
        self.episodes: list[Episode] = []
        self.confirmation: Confirmation | None = None

    def write_to(self, folder: RunFolder, agent: Agent, stack: contextlib.ExitStack) -> None:
        """Record what follows in ``folder``, which has what came before; ``stack`` closes files."""
        monitor = TensorBoardMonitor(
            folder.tensorboard,
            self._problem.units,
            agent.diagnostics,
            self._config.hyperparameters(),
            resumed_episodes=len(self.episodes),
            cost=self._config.costs[0],
        )
        for episode in self.episodes:
            monitor(episode)
        self._folder, self._writers = folder, [JsonlRecorder(folder.episodes), monitor]
        for writer in self._writers:
            stack.enter_context(contextlib.closing(writer))

    def record(self, episode: Episode) -> None:
        """Note an episode: its line first, of which all else can be made again."""
        config = self._config
        improved = not self.episodes or merit(episode, config) > merit(self.best, config)
        if improved:
            self.best = episode
        self.episodes.append(episode)
        for write in self._writers:
            write(episode)
        if improved and self._folder is not None:
            self.best_plan().save(self._folder.plan)
        if config.ranged:
            self._extend_front(episode)
        if self._on_episode is not None:
            self._on_episode(episode, self.best)

    def confirm(self, device: DeviceLatency, on_note: Callable[[str], None]) -> None:
        """Make the best plan one that holds its bound on latency by measurement."""
        bound = None if self._config.ranged else self._config.budget.get("latency_us")
        self.best, self.confirmation = confirm(
            self._problem,
            device,
            self.episodes,
            lambda episode: merit(episode, self._config),
            bound if isinstance(bound, Limit) else None,
            on_note=on_note,
        )
        if self._folder is not None:
            self.confirmation.save(self._folder.confirmation)
            self.best_plan().save(self._folder.plan)

    def finish(self, policy: Policy | None) -> None:
        """Leave the best plan in the folder, wherever the search was stopped, and the policy."""
        if self._folder is None:
            return
        self.best_plan().save(self._folder.plan)
        if (front := self.front()) is not None:
            front.save(self._folder.front)
        if policy is not None:
            policy.save(self._folder.policy)

    def described(self, policy: Policy) -> Policy:
        """``policy``, which now says on what it was trained and what that has reached."""
        best = [episode for episode, _ in self._front] or [self.best]
        step = max(1, -(-len(best) // _REACHED))
        reached = tuple(Reached(kept=e.kept, quality=e.quality) for e in best[::step])
        (training,) = policy.trained_on.networks
        spec = self._task.config.spec if self._task.config else None
        training = training.model_copy(update={"network": spec, "reached": reached})
        trained_on = policy.trained_on.model_copy(update={"networks": (training,)})
        return replace(policy, trained_on=trained_on)

    def front(self) -> Front | None:
        """The plans of the front, from the worst to the best; None under one budget."""
        if not self._config.ranged:
            return None
        dense = self._problem.evaluate(self._problem.units.dense_widths)
        return Front(dense_quality=dict(dense), plans=tuple(plan for _, plan in self._front))

    def best_plan(self) -> Plan:
        """The best episode as a plan."""
        return self._plan(self.best)

    def _extend_front(self, episode: Episode) -> None:
        front = nondominated([*(other for other, _ in self._front), episode], self._config)
        if episode not in front:
            return
        plans = {other.number: plan for other, plan in self._front}
        plans[episode.number] = self._plan(episode)
        self._front = [(other, plans[other.number]) for other in front]
        if self._folder is not None and (found := self.front()) is not None:
            found.save(self._folder.front)

    def _plan(self, episode: Episode) -> Plan:
        return plan_of(
            self._problem.cost,
            episode.widths,
            weights_sha256=self._sha256,
            model=self._task.config,
            quality=episode.quality,
            example_inputs=self._task.example_inputs,
        )
