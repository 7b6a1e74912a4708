"""Typed settings. Every object is frozen, refuses unknown keys, and is saved with the run."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from amc.errors import ConfigError
from amc.files import replacing


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: dict[str, Any], source: str = "settings") -> Self:
        """Validate ``values``; raises :class:`ConfigError` with one line for each fault."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{source}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """One readable line out of a pydantic error: where, what, and the value that was given."""
    faults = []
    for fault in error.errors():
        message = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:  # of the whole, which is too much to show
            faults.append(message)
            continue
        where = ".".join(str(part) for part in fault["loc"])
        given = "" if fault["type"] == "missing" else f" (got {fault['input']!r})"
        faults.append(f"{where}: {message}{given}")
    return "; ".join(faults)


class ModelConfig(Settings):
    """Which network, and where its weights are."""

    spec: str
    """``amc:NAME``, ``torchvision:NAME``, ``timm:NAME`` or ``path/to/file.py:function``."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    weights: str | None = None
    """A ``.safetensors`` or ``.pth`` file; None keeps the factory's initialisation."""


class DataConfig(Settings):
    """Which images, and how the three splits are drawn."""

    spec: str = "digits"
    """``digits``, ``imagefolder:DIR`` or ``cifar10:DIR``."""
    search_val: str | float | None = None
    """A file of paths, or the fraction of the training images to hold out; None: a tenth."""
    seed: int = 0
    """Seed of the split when it is drawn."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean of the normalisation, for images in [0, 1]; None: the dataset's default."""
    std: tuple[float, ...] | None = None
    """Per-channel standard deviation of the normalisation."""
    image_size: int | None = Field(None, ge=1)
    """Side to which folder images are resized (shorter side, then centre crop); None: as stored."""
    download: bool = False
    """Let torchvision download the dataset where there is a network."""


class EvaluateConfig(Settings):
    """How one plan is scored."""

    images: int = Field(1000, ge=1)
    """Search-val images that score a plan."""
    calibration_images: int = Field(256, ge=0)
    """Training images that re-estimate BatchNorm statistics; 0 keeps the dense network's."""
    batch_size: int = Field(250, ge=1)
    bf16: bool | None = None
    """Autocast to bfloat16; None: wherever the hardware computes in it."""
    reconstruct: bool = False
    """Let the layers that lost inputs make up for them by least squares (amc.reconstruct), in every
    plan that is scored and in the one that is applied."""


AgentName = Literal[
    "expert",
    "ddpg",
    "uniform",
    "reference",
    "random",
    "knapsack",
    "greedy",
    "cma-es",
    "tpe",
    "gp",
]


class ExpertConfig(Settings):
    """Expert iteration: a planner on a Gaussian-process critic, and an actor that learns it."""

    warmup_episodes: int = Field(6, ge=2)
    """Episodes before the critic is asked: the plan to begin with (the reference plan, or a
    policy's), the uniform one, and plans around either in turn."""
    start_std: float = Field(0.15, ge=0)
    """Standard deviation of the actions around those of the plan to begin with."""
    noise_std: float = Field(0.3, ge=0)
    """The same around the uniform plan's."""
    optimism: float = Field(1.0, ge=0)
    """How many of the critic's standard deviations are added to its mean."""
    range_optimism: float = Field(2.0, ge=0)
    """The same over a range of budgets, of which more is unknown, and for longer."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of each of the actor's members."""
    actor_members: int = Field(8, ge=2)
    """Networks that the actor consists of; what they disagree on is left as in the reference
    plan."""
    actor_lr: float = Field(1e-3, gt=0)
    actor_decay: float = Field(0.1, ge=0)
    """Weight decay."""
    gradient_steps: int = Field(40, ge=0)
    """The actor's updates after each episode."""
    range_gradient_steps: int = Field(160, ge=0)
    """The same over a range of budgets, at which the best plans are unlike one another."""
    batch_size: int = Field(64, ge=1)
    memory: int = Field(32, ge=1)
    """Planned walks that the actor learns from: the latest ones, by the best critics."""
    range_memory: int = Field(64, ge=2)
    """The same over a range of budgets: one walk under each of so many, planned anew in turn."""


class DDPGConfig(Settings):
    """DDPG and its exploration; the preset ``amc-paper`` holds the paper's values."""

    warmup_episodes: int = Field(8, ge=0)
    """Episodes before the actor learns."""
    warmup: Literal["noise", "uniform"] = "noise"
    """How they are played: the usual exploration around the untrained actor, or uniformly random
    actions (the paper)."""
    start_uniform: bool = True
    """Play the uniform plan in the very first episode, so that no search ends below it."""
    gradient_steps: int = Field(100, ge=-1)
    """Updates after each episode; -1: one for each transition of the episode."""
    batch_size: int = Field(64, ge=1)
    buffer_episodes: int = Field(2000, ge=1)
    """Episodes that the replay buffer holds."""
    hidden: tuple[int, ...] = (300, 300)
    actor_lr: float = Field(1e-4, gt=0)
    critic_lr: float = Field(1e-3, gt=0)
    tau: float = Field(0.01, gt=0, le=1)
    """Step of the target networks towards the learned ones."""
    discount: float = Field(1.0, ge=0, le=1)
    bootstrap: bool = False
    """Add the target critic's value of the next state to the credited reward (the paper), or
    regress on the episode's final reward alone (Monte-Carlo; our default)."""
    noise_std: float = Field(0.5, ge=0)
    """Standard deviation of the truncated-normal exploration, as a fraction of half the action
    range, when the warm-up ends."""
    noise_decay: float = Field(0.97, gt=0, le=1)
    """Factor on the deviation for each episode after the warm-up."""
    noise_floor: float = Field(0.1, ge=0)
    """Least deviation."""
    shaping: Literal["rank", "baseline"] = "rank"
    """What the critic regresses on: normal scores of the rewards' ranks among all episodes (free of
    the reward's scale), or rewards less their moving average (the paper)."""
    baseline_momentum: float = Field(0.5, ge=0, lt=1)
    """Weight of the old value in the moving-average reward baseline."""


class AgentConfig(Settings):
    """The settings of the agents that learn, by name; the others have none."""

    expert: ExpertConfig = ExpertConfig()
    ddpg: DDPGConfig = DDPGConfig()


PRESETS: dict[str, AgentConfig] = {
    "default": AgentConfig(),
    # He et al., AMC, ECCV 2018, section 4 and the authors' code: 400 episodes, 100 of them random,
    # truncated-normal noise .5 decaying by .95, one update for each transition.
    "amc-paper": AgentConfig(
        ddpg=DDPGConfig(
            warmup_episodes=100,
            warmup="uniform",
            start_uniform=False,
            gradient_steps=-1,
            buffer_episodes=100,
            bootstrap=True,
            noise_decay=0.95,
            noise_floor=0.0,
            shaping="baseline",
        )
    ),
}
"""Agent settings by name."""

PRESET_AGENT: dict[str, AgentName] = {"default": "expert", "amc-paper": "ddpg"}
"""Which agent a preset is for, where none is named."""

PRESET_EPISODES = {"default": 150, "amc-paper": 400}
"""Episodes of a search when none are asked for, by preset."""


class FinetuneConfig(Settings):
    """Recovery training of a sliced network."""

    epochs: int = Field(15, ge=0)
    batch_size: int = Field(128, ge=1)
    lr: float = Field(0.05, gt=0)
    """Peak learning rate; linear warm-up, then cosine to zero."""
    warmup_epochs: float = Field(1.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    distill_weight: float = Field(0.7, ge=0, le=1)
    """Weight of the softened dense logits; 1 minus it goes to the true labels. 0: no teacher."""
    distill_temperature: float = Field(4.0, gt=0)
    bf16: bool | None = None
    seed: int = 0


Constraint = Literal["projection", "sequential"]
RewardName = Literal["kl", "accuracy", "cross_entropy", "amc-flops", "amc-params", "amc-latency"]
_WEIGHED = {"amc-params": "params", "amc-latency": "latency_us"}
"""What a reward weighs error against, where that is not MACs."""
UNSEEDED = ("uniform", "reference", "knapsack", "greedy")
"""Searchers without randomness; they end by themselves, where they have no new plan."""
ImportanceName = Literal[
    "contribution",
    "l1",
    "l2",
    "bn-scale",
    "geometric-median",
    "activation",
    "entropy",
    "taylor",
    "random",
]
Quantity = Literal["macs", "params", "latency_us"]

Limit = float | int
"""An upper bound: a fraction of the dense network (a float up to 1), or a count (an integer: of
multiply-accumulates, parameters or microseconds)."""
Bound = Limit | tuple[Limit, Limit]
"""One for all episodes, or the ends of a range from which each episode draws its own."""


UNIT_KINDS = ("conv", "linear", "embedding", "stream", "heads")
"""Kinds of units. A depthwise convolution is none: its channels ride with the unit it reads."""


def _by_kind(given: Any) -> Any:
    """A bare number stands for all kinds."""
    values = {"all": given} if isinstance(given, int) else given
    for kind in values if isinstance(values, dict) else ():
        if kind not in ("all", *UNIT_KINDS):
            raise ValueError(f"no unit is of kind {kind!r}; write all, {', '.join(UNIT_KINDS)}")
    return values


class LatencyConfig(Settings):
    """Where and how latency is measured (:mod:`amc.runtimes`)."""

    backend: str = "onnxruntime"
    batch: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    device: str = "cpu"


class Bounds(Settings):
    """Which kept widths the units of a network may take; the full width is always allowed."""

    min_keep: float = Field(0.1, ge=0, le=1)
    """Least kept fraction of a unit."""
    min_width: int = Field(1, ge=1)
    """Least kept width of a unit, in groups of channels (a head is one group)."""
    round_to: Annotated[dict[str, PositiveInt], BeforeValidator(_by_kind)] = {"all": 1}
    """Kept channels are multiples of this, by kind of unit; ``all`` stands for the kinds that are
    not named, and a bare number for ``all``. A unit of groups of g channels keeps multiples of
    n / gcd(n, g) groups, as its first producer counts channels: of 12 channels in each group, 8
    asks for pairs of groups."""
    exclude: tuple[str, ...] = ()
    """Units left alone, by name or shell pattern of the unit or of a layer tied into it, or by kind
    (``kind:stream``)."""
    gentle_ends: bool = False
    """Keep at least half of the unit that the first layer produces, and of those that an output
    layer reads."""
    allow_drop: bool = False
    """Units inside residual branches may go altogether: the block is then its shortcut."""


def parse_multiples(texts: Sequence[str]) -> dict[str, int]:
    """``["8", "conv=16"]`` as ``{"all": 8, "conv": 16}``: what ``round_to`` takes.

    Raises :class:`ConfigError` for a text that does not parse and for a kind that is given twice.
    """
    multiples: dict[str, int] = {}
    for text in texts:
        kind, _, number = text.partition("=") if "=" in text else ("all", "", text)
        if not number.isdecimal():
            raise ConfigError(f"round_to {text!r}: write a number, or KIND=NUMBER (conv=8)")
        if kind in multiples:
            raise ConfigError(f"round_to {text!r}: {kind} has two multiples; give one")
        multiples[kind] = int(number)
    return multiples


class SearchConfig(Bounds):
    """Everything that determines a search."""

    model: ModelConfig | None = None
    """None where the network was handed over as an object; such a run cannot be reopened."""
    data: DataConfig | None = None
    """None where the task was handed over as an object."""
    budget: dict[str, Bound] = {}
    """Upper bounds by quantity (``macs``, ``params``, ``latency_us``)."""
    latency: LatencyConfig = LatencyConfig()
    """Where a bound on latency holds, and where the results are measured."""
    align: bool = False
    """Let the device decide of how many channels kept widths are multiples (``round_to``)."""
    min_accuracy: float | None = Field(None, gt=0, le=1)
    """Find the cheapest network that is at least so accurate on search-val; the reward is then
    :class:`amc.envs.reward.FloorReward`. A budget holds as well."""
    minimise: Quantity = "macs"
    """What that network has least of."""
    start: str | None = None
    """The policy or plan from elsewhere with which the search begins; the run keeps a copy."""
    episodes: int = Field(150, ge=0)
    """0: the plan of ``start`` as it is, and no search."""
    seed: int = 0
    agent: AgentName = "expert"
    preset: str = "default"
    agent_settings: AgentConfig = AgentConfig()
    constraint: Constraint = "projection"
    reward: RewardName = "kl"
    importance: ImportanceName | None = None
    """How the channels of a unit are ranked (:data:`amc.importance.CRITERIA`); None: by ``taylor``
    where the task has a loss, otherwise by ``contribution``."""
    evaluate: EvaluateConfig = EvaluateConfig()
    device: str = "cpu"
    threads: int | None = None
    """CPU threads of PyTorch; None: as PyTorch chooses."""
    workers: int = Field(1, ge=1)
    """Plans that are asked for at once, and evaluated side by side, each in a process of its own.
    Other workers, other episodes: the searcher learns from all plans of a batch together."""
    finetune: FinetuneConfig | None = None
    """How the best plan is finetuned when the search is over; None: whoever searches decides."""

    @model_validator(mode="after")
    def _plans_something(self) -> Self:
        if not self.episodes and self.start is None:
            raise ValueError("a search without episodes needs a policy or a plan to replay")
        if self.align and not self.timed:
            raise ValueError("only a search for latency can align widths to its device")
        return self

    @property
    def signal(self) -> Literal["kl", "accuracy", "cross_entropy"]:
        """The quality by which plans of different cost compare."""
        if self.min_accuracy is None and self.reward in ("kl", "cross_entropy"):
            return self.reward
        return "accuracy"

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
        return tuple(self.budget) or (_WEIGHED.get(self.reward, "macs"),)

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
        agent = getattr(self.agent_settings, self.agent, None)  # the others have no settings
        for group, settings in (("agent", agent), ("evaluate", self.evaluate)):
            chosen = settings.model_dump() if settings else {}
            values |= {f"{group}/{name}": value for name, value in chosen.items()}
        return {
            name: value if isinstance(value, bool | float | int | str) else str(value)
            for name, value in values.items()
        }


class CompareConfig(Settings):
    """Searchers that are run side by side."""

    agents: tuple[str, ...] = Field(get_args(AgentName), min_length=1)
    """``NAME``, or ``NAME:PRESET``, one of :data:`PRESETS`. The first is tested against the
    others."""
    seeds: int = Field(10, ge=1)
    """Searches with each agent that has something random, with seeds from 0."""
    evaluations: tuple[PositiveInt, ...] = Field((20, 40, 80, 150), min_length=1)
    """Numbers of evaluated plans after which the best so far are compared; the largest is the
    length of each search."""
    search: SearchConfig
    """What all searches have in common. Its agent, preset, seed and episodes are replaced."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for agent in self.agents:
            self.job(agent, 0)
        return self

    def job(self, agent: str, seed: int) -> SearchConfig:
        """The settings of one search; raises :class:`ConfigError` for an unknown agent."""
        name, colon, preset = agent.partition(":")
        if colon and (name != "ddpg" or preset not in PRESETS):
            presets = ", ".join(f"ddpg:{known}" for known in PRESETS)
            raise ConfigError(f"agent {agent!r}: with a preset, write one of {presets}")
        preset = preset or "default"
        own = {
            "agent": name,
            "preset": preset,
            "agent_settings": PRESETS[preset].model_dump(),
            "seed": seed,
            "episodes": max(self.evaluations),
        }
        return SearchConfig.parse(self.search.model_dump() | own)


def save_toml(config: Settings, path: Path, **extra: Any) -> None:
    """Write ``config`` (and ``extra`` tables) as TOML, replacing an older file in one step.

    None is written by leaving the key out.
    """
    values = {**config.model_dump(mode="json", exclude_none=True), **extra}
    with replacing(path) as draft:
        draft.write_text(tomli_w.dumps(values))


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises :class:`ConfigError` where it is missing or does not parse."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
