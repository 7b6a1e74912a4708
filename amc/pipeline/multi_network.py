"""One policy from several networks: they take turns, an episode each.

Every network has an environment, a critic and a planner of its own; the actor learns from all of
the planners. So does a search, and the folder of each network, ``networks/NAME`` in the training's,
is that of a search, with its episodes and its front of plans. Beside them is what the training is
for: the policy.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from amc.agents.expert.agent import ExpertIteration, make_learner
from amc.agents.expert.settings import ExpertConfig
from amc.agents.policy import Policy
from amc.config import SearchConfig
from amc.errors import ConfigError, RunError
from amc.latency.device import OnStage
from amc.pipeline.assignment import Assignment, Listener, inputs_of, prepared, resumed
from amc.pipeline.loop import SearchLoop, in_turn, play_recorded, play_rest
from amc.pipeline.search import make_config
from amc.pipeline.setup import prepare
from amc.records.episode import Episode
from amc.records.run_folder import TRAINING, check_free
from amc.task import Task
from amc.utils.settings import Settings, load_toml, save_toml

OnNetworkEpisode = Callable[[str, Episode, Episode], None]
"""Called after each episode with the network's name, the episode, and its network's best so far."""


class TrainingConfig(Settings):
    """``training.toml``: the names of the networks, in the order of their turns."""

    networks: tuple[str, ...]


class TrainingFolder:
    """Paths inside the folder of a training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / TRAINING
        self.policy = path / "policy"

    def network(self, name: str) -> Path:
        """The folder of one network's search."""
        return self.path / "networks" / name

    def names(self) -> tuple[str, ...]:
        """The networks. Raises :class:`RunError` where this is no training's folder."""
        if not self.config.is_file():
            raise RunError(f"{self.path} is not the folder of a training: no {self.config.name}")
        return TrainingConfig.parse(load_toml(self.config), str(self.config)).networks


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training gives."""

    policy: Policy
    history: dict[str, tuple[Episode, ...]]
    """Episodes by network."""
    interrupted: bool
    """Whether the user stopped it before its last episode."""


def train_policy(
    tasks: Mapping[str, Task],
    budget: str | Sequence[str] | None = None,
    *,
    run: Path | str | None = None,
    resume: bool = False,
    config: SearchConfig | None = None,
    on_unit: Callable[[int, int], None] | None = None,
    on_stage: OnStage | None = None,
    on_episode: OnNetworkEpisode | None = None,
    on_note: Callable[[str], None] = warnings.warn,
    **settings: Any,
) -> Trained:
    """Learn one policy on all ``tasks``, by name, under ``budget``: fractions, best a range.

    ``episodes`` of ``settings`` is the number of all together; otherwise everything is as in
    :func:`amc.search`, for the agent ``expert``. What comes back, and is in ``run/policy``, is the
    policy; the best plans of each network are in its folder.

    Raises what :func:`amc.search` raises, and :class:`ConfigError` for fewer than two networks, for
    another agent, and for what is not the same on all networks: a count as the budget.
    """
    folder = TrainingFolder(Path(run)) if run is not None else None
    with contextlib.ExitStack() as stack:
        if resume:
            others = [name for name, value in settings.items() if name != "episodes"]
            if folder is None or budget or config or others:
                raise ConfigError(
                    "resume=True: give the folder of the training, run=..., and of the settings "
                    "only episodes"
                )
            parts = _resumed(stack, folder, tasks, settings.get("episodes"))
            for part in parts.values():
                assert part.recorded is not None
                for note in part.recorded.notes():
                    on_note(note)
        else:
            if folder is not None:
                check_free(folder.path)  # before the work, not after it
            parts = _parts(tasks, config or make_config(budget, **settings))
        loops = _loops(stack, parts, Listener(on_unit, on_stage, None, on_note), on_episode)
        steps = in_turn([*loops.values()])
        play_recorded([*loops.values()], steps)
        if folder is not None and not resume:
            folder.path.mkdir(parents=True, exist_ok=True)
            save_toml(TrainingConfig(networks=tuple(parts)), folder.config)
        for name, loop in loops.items():
            loop.write_to(folder.network(name) if folder is not None else None)
        finished = play_rest([*loops.values()], steps)
        policy = _finish([*loops.values()])
        if folder is not None:
            policy.save(folder.policy)
    history = {name: tuple(loop.history.episodes) for name, loop in loops.items()}
    return Trained(policy, history, interrupted=not finished)


def _parts(tasks: Mapping[str, Task], config: SearchConfig) -> dict[str, Assignment]:
    if len(tasks) < 2:
        raise ConfigError("a training on several networks needs two; for one, search")
    if config.agent != "expert" or config.min_accuracy is not None or config.start is not None:
        raise ConfigError(
            "several networks are trained on by agent 'expert', under budgets, from the beginning"
        )
    for name, bound in config.budget.items():
        if isinstance(bound if not isinstance(bound, tuple) else bound[0], int):
            raise ConfigError(
                f"budget {name}={bound}: networks share no count; give a fraction (0.3:0.8)"
            )
    if config.episodes < len(tasks):
        raise ConfigError(f"episodes {config.episodes}: fewer than networks ({len(tasks)})")
    shares = _shares(config.episodes, len(tasks))
    return {
        name: Assignment(
            task,
            prepared(config, task).model_copy(update={"model": task.config, "episodes": share}),
            inputs_of(task),
        )
        for (name, task), share in zip(tasks.items(), shares, strict=True)
    }


def _resumed(
    stack: contextlib.ExitStack,
    folder: TrainingFolder,
    tasks: Mapping[str, Task],
    episodes: int | None,
) -> dict[str, Assignment]:
    names = folder.names()
    if set(names) != set(tasks):
        raise ConfigError(f"{folder.path} is a training on {', '.join(names)}; resume it with them")
    shares = _shares(episodes, len(names)) if episodes is not None else [None] * len(names)
    parts = {
        name: resumed(stack, tasks[name], folder.network(name), share)
        for name, share in zip(names, shares, strict=True)
    }
    # A crash, or a damaged record, may have left one network behind: all go back to where it is.
    runs = [part.recorded for part in parts.values() if part.recorded is not None]
    count = len(runs)
    played = min(len(run.log.episodes) * count + i for i, run in enumerate(runs))
    return {
        name: replace(part, recorded=run.first(len(range(i, played, count))))
        for i, ((name, part), run) in enumerate(zip(parts.items(), runs, strict=True))
    }


def _shares(episodes: int, count: int) -> list[int]:
    """How many of the episodes each of ``count`` networks has."""
    return [len(range(i, episodes, count)) for i in range(count)]


def _loops(
    stack: contextlib.ExitStack,
    parts: Mapping[str, Assignment],
    tell: Listener,
    on_episode: OnNetworkEpisode | None,
) -> dict[str, SearchLoop]:
    config = next(iter(parts.values())).config
    settings = config.agent_settings["expert"]
    assert isinstance(settings, ExpertConfig)
    learner = make_learner(settings, len(parts) * settings.range_memory, config.seed)
    loops = {}
    for name, part in parts.items():
        ready, problem, _ = prepare(part, tell)
        agent = ExpertIteration(problem, config.seed, settings, learner=learner)
        told = partial(on_episode, name) if on_episode is not None else None
        loops[name] = stack.enter_context(SearchLoop(ready, problem, agent, told))
    return loops


def _finish(loops: Sequence[SearchLoop]) -> Policy:
    """Leave the folders in order; the policy, which says what it has reached on each network."""
    policies = []
    for loop in loops:
        loop.history.finish(None)
        policy = loop.agent.policy
        assert policy is not None
        policies.append(loop.history.described(policy))
    networks = tuple(one for policy in policies for one in policy.trained_on.networks)
    trained_on = policies[0].trained_on.model_copy(update={"networks": networks})
    return replace(policies[0], trained_on=trained_on)
