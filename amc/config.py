"""Typed settings. Every object is frozen, refuses unknown keys, and is saved with the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    SerializeAsAny,
    model_validator,
)

from amc.errors import ConfigError
from amc.registry import AGENTS, BACKENDS, IMPORTANCES, REWARDS
from amc.utils.registry import Registry, imported
from amc.utils.settings import Settings


class ModelConfig(Settings):
    """Which network, and where its weights are."""

    spec: str
    """``amc:NAME``, ``torchvision:NAME``, ``timm:NAME`` or ``path/to/file.py:function``."""
    arguments: dict[str, Any] = Field(default_factory=dict)
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
    """Let the layers that lost inputs make up for them by least squares
    (:mod:`amc.pruning.reconstruction`), in every plan that is scored and in the one that is
    applied."""


def _agent(name: str) -> str:
    """A name of the table, or ``path/to/file.py:Class`` of a user's."""
    if not in_file(name):
        try:
            AGENTS.entry(name)
        except ConfigError as error:
            raise ValueError(f"{error}, or path/to/file.py:Class") from None
    return name


def in_file(name: str) -> bool:
    """Whether ``name`` is that of an object in a user's Python file, ``path/to/file.py:Class``."""
    return name.rpartition(":")[0].endswith(".py")


def _known(registry: Registry[Any]) -> AfterValidator:
    """Refuses a name that is not in the table."""

    def check(name: str) -> str:
        try:
            return registry.entry(name).name
        except ConfigError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(check)


AgentName = Annotated[str, AfterValidator(_agent)]
ImportanceName = Annotated[str, _known(IMPORTANCES)]
RewardName = Annotated[str, _known(REWARDS)]
BackendName = Annotated[str, _known(BACKENDS)]


class Preset(NamedTuple):
    """An agent, its settings where they are not the defaults, and the length of its search."""

    agent: str
    episodes: int
    settings: dict[str, Any]


PRESETS = {
    "default": Preset("expert", 150, {}),
    # He et al., AMC, ECCV 2018, section 4 and the authors' code: 400 episodes, 100 of them random,
    # truncated-normal noise .5 decaying by .95, one update for each transition.
    "amc-paper": Preset(
        "ddpg",
        400,
        {
            "warmup_episodes": 100,
            "warmup": "uniform",
            "start_uniform": False,
            "gradient_steps": -1,
            "buffer_episodes": 100,
            "bootstrap": True,
            "noise_decay": 0.95,
            "noise_floor": 0.0,
            "shaping": "baseline",
        },
    ),
}
"""Settings of a search by name."""


def agent_settings(name: str, values: Any = None, preset: str = "default") -> Settings | None:
    """The settings of the agent ``name``, checked; None where it has none.

    What ``values`` does not say is as in the preset, if that is one of this agent's. Raises
    :class:`ConfigError` where they are not sound, and for values that the agent does not take.
    """
    place = AGENTS.entry(name).traits["settings"] if name in AGENTS else None
    if place is None:
        if values:
            raise ConfigError(f"agent {name!r} has no settings")
        return None
    kind: type[Settings] = imported(place) if isinstance(place, str) else place
    if isinstance(values, kind):
        return values
    preset_values = PRESETS[preset].settings if PRESETS[preset].agent == name else {}
    return kind.parse({**preset_values, **dict(values or {})}, f"agent_settings.{name}")


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


ConstraintName = Literal["projection", "sequential"]
Quantity = Literal["macs", "params", "latency_us"]
Signal = Literal["kl", "accuracy", "cross_entropy"]

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
    """Where and how latency is measured (:mod:`amc.latency.backends`)."""

    backend: BackendName = "onnxruntime"
    batch: int = Field(1, ge=1)
    threads: int = Field(1, ge=1)
    device: str = "cpu"


class Bounds(Settings):
    """Which kept widths the units of a network may take; the full width is always allowed."""

    min_keep: float = Field(0.1, ge=0, le=1)
    """Least kept fraction of a unit."""
    min_width: int = Field(1, ge=1)
    """Least kept width of a unit, in groups of channels (a head is one group)."""
    round_to: Annotated[dict[str, PositiveInt], BeforeValidator(_by_kind)] = Field(
        default_factory=lambda: {"all": 1}
    )
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
    budget: dict[str, Bound] = Field(default_factory=dict)
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
    agent_settings: dict[str, SerializeAsAny[Settings]] = Field(default_factory=dict)
    """Of the agent that searches, and of others where a file names them."""
    constraint: ConstraintName = "projection"
    reward: RewardName = "kl"
    importance: ImportanceName | None = None
    """How the channels of a unit are ranked (:data:`amc.registry.IMPORTANCES`); None: by ``taylor``
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


class CompareConfig(Settings):
    """Searchers that are run side by side."""

    agents: tuple[str, ...] = Field(default_factory=AGENTS.names, min_length=1)
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
        if name.endswith(".py") and colon:  # a class in a user's file
            name, colon, preset = agent, "", ""
        if colon and (name != "ddpg" or preset not in PRESETS):
            presets = ", ".join(f"ddpg:{known}" for known in PRESETS)
            raise ConfigError(f"agent {agent!r}: with a preset, write one of {presets}")
        preset = preset or "default"
        own = {
            "agent": name,
            "preset": preset,
            "agent_settings": {},
            "seed": seed,
            "episodes": max(self.evaluations),
        }
        return SearchConfig.parse(self.search.model_dump() | own)
