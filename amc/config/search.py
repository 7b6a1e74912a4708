"""Everything that determines a search."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, SerializeAsAny, model_validator

from amc.bounds import Bounds
from amc.config.finetune import FinetuneConfig
from amc.config.inputs import DataConfig, EvaluateConfig, ModelConfig
from amc.config.names import (
    AgentName,
    BackendName,
    ConstraintName,
    ImportanceName,
    QuantityName,
    RewardName,
    Signal,
)
from amc.cost.quantities import QUANTITIES, Bound, Limit
from amc.errors import ConfigError
from amc.presets import PRESETS, agent_settings
from amc.registry import AGENTS, BACKENDS, IMPORTANCES, REWARDS
from amc.utils.options import AGENT, PLAN, RUN, Option
from amc.utils.settings import Settings

_SEARCH, _BOTH, _TRAIN = ("search",), ("search", "replay"), ("search", "replay", "finetune")
"""Commands that have an option."""


class LatencyConfig(Settings):
    """Where and how latency is measured (:mod:`amc.latency.backends`)."""

    backend: Annotated[
        BackendName, Option("--backend", ("search", "replay", "measure"), PLAN, names=BACKENDS)
    ] = "onnxruntime"
    """Runtime in which latency is measured (where the default is not installed: torch), one of"""
    batch: Annotated[int, Option("--latency-batch", _BOTH, PLAN)] = Field(1, ge=1)
    """Examples of the forward that is measured."""
    threads: Annotated[int, Option("--latency-threads", _BOTH, PLAN)] = Field(1, ge=1)
    """CPU threads of that runtime."""
    device: str = "cpu"


class SearchConfig(Bounds):
    """Everything that determines a search."""

    model: ModelConfig | None = None
    """None where the network was handed over as an object; such a run cannot be reopened."""
    data: DataConfig | None = None
    """None where the task was handed over as an object."""
    budget: Annotated[
        dict[QuantityName, Bound], Option("--budget", panel=PLAN, basic=True, texts=True)
    ] = Field(default_factory=dict)
    """Upper bound on flops (multiply-accumulates), params or latency (see --backend): a fraction of
    MODEL's (``flops=0.5``), a count or time (``params=1.2M``, ``latency=12ms``), or a range from
    which each episode draws its own (``flops=0.3:0.8``); repeatable. Default: ``flops=0.5``, with
    --min-accuracy none.

    By quantity: ``macs``, ``params``, ``latency_us``."""
    latency: LatencyConfig = LatencyConfig()
    """Where a bound on latency holds, and where the results are measured."""
    align: bool = False
    """Let the device decide of how many channels kept widths are multiples (``round_to``)."""
    min_accuracy: Annotated[float | None, Option("--min-accuracy", _SEARCH, PLAN, basic=True)] = (
        Field(None, gt=0, le=1)
    )
    """Find the cheapest network that has at least this accuracy on search-val before finetuning; a
    --budget holds as well.

    The reward is then :class:`amc.envs.reward.FloorReward`."""
    minimise: Annotated[QuantityName, Option("--minimise", _SEARCH, PLAN, names=QUANTITIES)] = (
        "macs"
    )
    """With --min-accuracy, what the cheapest has least of"""
    start: str | None = None
    """The policy or plan from elsewhere with which the search begins; the run keeps a copy."""
    episodes: Annotated[int, Option("--episodes", _BOTH, AGENT, basic=True)] = Field(150, ge=0)
    """Plans to try (of --preset amc-paper: 400).

    0: the plan of ``start`` as it is, and no search."""
    seed: Annotated[int, Option("--seed", _BOTH, RUN, basic=True)] = 0
    """Seed of everything that is drawn."""
    agent: Annotated[AgentName, Option("--agent", _SEARCH, AGENT, names=AGENTS)] = "expert"
    """Who proposes plans (of --preset amc-paper: ddpg); ``path/to/file.py:Class``, or one of"""
    preset: Annotated[str, Option("--preset", _SEARCH, AGENT, names=tuple(PRESETS))] = "default"
    """Settings of the agent (amc-paper: the paper's, for ddpg)"""
    agent_settings: dict[str, SerializeAsAny[Settings]] = Field(default_factory=dict)
    """Of the agent that searches, and of others where a file names them."""
    constraint: Annotated[ConstraintName, Option("--constraint", ("search", "compare"), AGENT)] = (
        "projection"
    )
    """How plans meet the budget: projection (all units at once) or sequential (one after the other:
    the AMC paper's Algorithm 1)."""
    reward: Annotated[RewardName, Option("--reward", panel=AGENT, names=REWARDS)] = "kl"
    """What scores a plan; those of amc- need no budget, amc-flops is the default of --no-budget"""
    importance: Annotated[
        ImportanceName | None, Option("--importance", panel=PLAN, names=IMPORTANCES)
    ] = None
    """How a unit's channels are ranked, the last go first; default: by taylor where plans are
    scored, otherwise by contribution. One of"""
    evaluate: EvaluateConfig = EvaluateConfig()
    device: Annotated[str, Option("--device", panel=RUN, basic=True)] = "cpu"
    """``cpu`` or ``cuda``."""
    threads: Annotated[int | None, Option("--threads", _TRAIN, RUN)] = Field(None, ge=1)
    """CPU threads of PyTorch; default: as PyTorch chooses."""
    workers: Annotated[int, Option("--workers", _BOTH, RUN)] = Field(1, ge=1)
    """Plans evaluated side by side, each in a process with its share of the threads.

    Other workers, other episodes: the searcher learns from all plans of a batch together."""
    finetune: FinetuneConfig | None = None
    """How the best plan is finetuned when the search is over; None: whoever searches decides."""

    @model_validator(mode="before")
    @classmethod
    def _with_agent_settings(cls, values: Any) -> Any:
        """Each agent's, checked by its own rules; those of the agent that searches, complete."""
        if not isinstance(values, dict):
            return values
        name, preset = values.get("agent", "expert"), values.get("preset", "default")
        given = dict(values.get("agent_settings") or {})
        try:
            if preset not in PRESETS:
                raise ConfigError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
            found = {
                one: agent_settings(one, given.get(one), preset)
                for one in ({**given, name: None} if name in AGENTS else given)
            }
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return {**values, "agent_settings": {k: v for k, v in found.items() if v is not None}}

    @model_validator(mode="after")
    def _plans_something(self) -> Self:
        if not self.episodes and self.start is None:
            raise ValueError("a search without episodes needs a policy or a plan to replay")
        if self.align and not self.timed:
            raise ValueError("only a search for latency can align widths to its device")
        return self

    @property
    def signal(self) -> Signal:
        """The quality by which plans of different cost compare."""
        if self.min_accuracy is not None:
            return "accuracy"
        own: dict[str, Signal] = {"kl": "kl", "cross_entropy": "cross_entropy"}
        return own.get(self.reward, "accuracy")

    @property
    def ranged(self) -> bool:
        """Whether plans of this search differ in cost, so that there are several to choose from."""
        fixed = all(isinstance(bound, Limit) for bound in self.budget.values())
        return self.min_accuracy is not None or not self.budget or not fixed

    @property
    def costs(self) -> tuple[str, ...]:
        """The quantities in which they differ, the first one to be shown."""
        if self.min_accuracy is not None:
            return (self.minimise,)
        return tuple(self.budget) or (REWARDS.entry(self.reward).traits["cost"] or "macs",)

    @property
    def timed(self) -> bool:
        """Whether latency has a part in what is looked for."""
        return "latency_us" in (*self.budget, *self.costs)

    def hyperparameters(self) -> dict[str, bool | float | int | str]:
        """The settings by which runs are compared, flat: what TensorBoard's table shows."""
        values = self.model_dump(
            include={
                *("episodes", "seed", "agent", "preset", "constraint", "reward", "importance"),
                "workers",
            }
        )
        values |= {f"budget/{name}": limit for name, limit in self.budget.items()}
        agent = self.agent_settings.get(self.agent)  # the others have no settings
        for group, settings in (("agent", agent), ("evaluate", self.evaluate)):
            chosen = settings.model_dump() if settings else {}
            values |= {f"{group}/{name}": value for name, value in chosen.items()}
        return {
            name: value if isinstance(value, bool | float | int | str) else str(value)
            for name, value in values.items()
        }


def sign_of(quality: str) -> float:
    """-1 where less of that quality is better, which its reward gives a minus sign."""
    return -1.0 if quality in ("kl", "cross_entropy") else 1.0
