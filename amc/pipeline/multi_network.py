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
from amc.pipeline.loop import (
    SearchLoop,
    claimed_run,
    in_turn,
    inputs_of,
    play_recorded,
    play_rest,
    prepare,
)
from amc.pipeline.resume import RecordedRun
from amc.pipeline.search import make_config
from amc.records.episode import Episode
from amc.records.run_folder import TRAINING, Inputs, check_free
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
            for note in (note for part in parts if part.past for note in part.past.notes()):
                on_note(note)
        else:
            if folder is not None:
                check_free(folder.path)  # before the work, not after it
            parts = _parts(tasks, config or make_config(budget, **settings))
        tracks = _tracks(stack, parts, on_episode, on_unit, on_stage, on_note)
        steps = in_turn(tracks)
        play_recorded(tracks, steps)
        if folder is not None and not resume:
            folder.path.mkdir(parents=True, exist_ok=True)
            save_toml(TrainingConfig(networks=tuple(part.name for part in parts)), folder.config)
        for part, track in zip(parts, tracks, strict=True):
            track.write_to(folder.network(part.name) if folder is not None else None)
        finished = play_rest(tracks, steps)
        policy = _finish(tracks)
        if folder is not None:
            policy.save(folder.policy)
    history = {
        part.name: tuple(track.history.episodes) for part, track in zip(parts, tracks, strict=True)
    }
    return Trained(policy, history, interrupted=not finished)


@dataclass(frozen=True, eq=False)
class _Part:
    """A network of the training, and what is recorded of it."""

    name: str
    task: Task
    config: SearchConfig
    inputs: Inputs
    past: RecordedRun | None = None


def _parts(tasks: Mapping[str, Task], config: SearchConfig) -> list[_Part]:
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
    return [
        _Part(
            name,
            task,
            config.model_copy(update={"model": task.config, "episodes": share}),
            inputs_of(task),
        )
        for (name, task), share in zip(tasks.items(), shares, strict=True)
    ]


def _resumed(
    stack: contextlib.ExitStack,
    folder: TrainingFolder,
    tasks: Mapping[str, Task],
    episodes: int | None,
) -> list[_Part]:
    names = folder.names()
    if set(names) != set(tasks):
        raise ConfigError(f"{folder.path} is a training on {', '.join(names)}; resume it with them")
    shares = _shares(episodes, len(names)) if episodes is not None else [None] * len(names)
    inputs = {name: inputs_of(tasks[name]) for name in names}
    pasts = [
        claimed_run(stack, folder.network(name), inputs[name], share)
        for name, share in zip(names, shares, strict=True)
    ]
    # A crash, or a damaged record, may have left one network behind: all go back to where it is.
    count = len(pasts)
    played = min(len(past.log.episodes) * count + i for i, past in enumerate(pasts))
    pasts = [past.first(len(range(i, played, count))) for i, past in enumerate(pasts)]
    return [
        _Part(name, tasks[name], past.config, inputs[name], past)
        for name, past in zip(names, pasts, strict=True)
    ]


def _shares(episodes: int, count: int) -> list[int]:
    """How many of the episodes each of ``count`` networks has."""
    return [len(range(i, episodes, count)) for i in range(count)]


def _tracks(
    stack: contextlib.ExitStack,
    parts: Sequence[_Part],
    on_episode: OnNetworkEpisode | None,
    on_unit: Callable[[int, int], None] | None,
    on_stage: OnStage | None,
    on_note: Callable[[str], None],
) -> list[SearchLoop]:
    tracks = []
    config = parts[0].config
    settings = config.agent_settings["expert"]
    assert isinstance(settings, ExpertConfig)
    memory = len(parts) * settings.range_memory
    learner = make_learner(settings, memory, config.seed)
    for part in parts:
        own, problem, _ = prepare(part.task, part.config, part.past, on_unit, on_stage, on_note)
        agent = ExpertIteration(problem, own.seed, settings, learner=learner)
        told = partial(on_episode, part.name) if on_episode is not None else None
        tracks.append(
            SearchLoop(stack, part.task, problem, agent, own, part.inputs, part.past, told)
        )
    return tracks


def _finish(tracks: Sequence[SearchLoop]) -> Policy:
    """Leave the folders in order; the policy, which says what it has reached on each network."""
    policies = []
    for track in tracks:
        track.history.finish(None)
        policy = track.agent.policy
        assert policy is not None
        policies.append(track.history.described(policy))
    networks = tuple(one for policy in policies for one in policy.trained_on.networks)
    trained_on = policies[0].trained_on.model_copy(update={"networks": networks})
    return replace(policies[0], trained_on=trained_on)
