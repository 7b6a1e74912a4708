"""What can be chosen by name: agents, criteria of importance, rewards, latency backends.

To add one, write its file and an entry here (docs/architecture.md has a recipe for each). Another
distribution names its own in the group of entry points beside each table. Quantities of cost have
their table in :mod:`amc.cost.quantities`.
"""

from __future__ import annotations

from typing import Any

from amc.utils.registry import Registry

AGENTS: Registry[Any] = Registry(
    "agent", "amc.agents", settings=None, seeded=True, ranges=False, warm_start=False
)
"""Classes that propose plans (:class:`amc.agents.registry.Agent`).

Traits: ``settings``, where its settings are (a subclass of :class:`amc.utils.settings.Settings`);
``seeded``, whether something in it is random; ``ranges``, whether it searches under a range of
budgets; ``warm_start``, whether it can begin at a policy or a plan from elsewhere.
"""
AGENTS.add(
    "expert",
    "the default: a planner on a Gaussian process, and an actor that learns from it",
    "amc.agents.expert.agent:ExpertIteration",
    settings="amc.agents.expert.settings:ExpertConfig",
    ranges=True,
    warm_start=True,
)
AGENTS.add(
    "ddpg",
    "the AMC paper's agent; ddpg:amc-paper with the paper's settings",
    "amc.agents.ddpg.agent:DDPGAgent",
    settings="amc.agents.ddpg.settings:DDPGConfig",
    ranges=True,
    warm_start=True,
)
AGENTS.add(
    "uniform",
    "one plan: the same fraction of every unit",
    "amc.agents.baselines.fixed_plans:Uniform",
    seeded=False,
    ranges=True,
)
AGENTS.add(
    "reference",
    "one plan: by what half of each unit alone loses, and by gradients",
    "amc.agents.baselines.fixed_plans:Reference",
    seeded=False,
    ranges=True,
)
AGENTS.add(
    "random",
    "random plans on the budget",
    "amc.agents.baselines.random_search:RandomSearch",
    ranges=True,
)
AGENTS.add(
    "knapsack",
    "one plan: the least summed importance lost within the budget",
    "amc.agents.baselines.knapsack:Knapsack",
    seeded=False,
    ranges=True,
)
AGENTS.add(
    "greedy",
    "changes one unit at a time, and keeps what is better (after NetAdapt)",
    "amc.agents.baselines.greedy:GreedySearch",
    seeded=False,
)
AGENTS.add(
    "cma-es",
    "evolution strategy",
    "amc.agents.baselines.cma_es:CMAES",
    warm_start=True,
)
AGENTS.add(
    "tpe",
    "tree-structured Parzen estimator (optuna)",
    "amc.agents.baselines.bayesian:TPESearch",
)
AGENTS.add(
    "gp",
    "Bayesian optimisation with a Gaussian process (optuna)",
    "amc.agents.baselines.bayesian:GPSearch",
)

IMPORTANCES: Registry[Any] = Registry("importance", "amc.importances", needs=None)
"""Criteria that rank a unit's channels: functions of :class:`~amc.pruning.importance.Evidence` that
give one (width,) array of scores a unit.

Trait: ``needs``, what a criterion asks for beside the weights: a field of :class:`amc.task.Task`,
``calibration`` or ``loss``.
"""
for _name, _summary, _needs in (
    ("contribution", "weights of the readers times the BatchNorm scale before them", None),
    ("l1", "sum of absolute weights", None),
    ("l2", "Euclidean norm of the weights", None),
    ("bn-scale", "absolute BatchNorm scales", None),
    ("geometric-median", "distance to the other filters", None),
    ("activation", "mean size of the activations, on training images", "calibration"),
    ("entropy", "how much activations vary over training images", "calibration"),
    ("taylor", "first-order change of the loss, on training images", "loss"),
    ("random", "drawn: the control that every criterion has to beat", None),
):
    _module = _name.replace("-", "_")
    IMPORTANCES.add(_name, _summary, f"amc.pruning.importance.{_module}:{_module}", needs=_needs)

REWARDS: Registry[Any] = Registry("reward", "amc.rewards", cost=None)
"""Functions without arguments that make a :class:`amc.envs.reward.Reward`.

Trait: ``cost``, the quantity that is weighed against the error; None where a budget is needed.
"""
REWARDS.add("kl", "minus the KL divergence from the dense network's outputs", "amc.envs.reward:kl")
REWARDS.add("accuracy", "search-val accuracy", "amc.envs.reward:accuracy")
REWARDS.add("cross_entropy", "minus the cross-entropy", "amc.envs.reward:cross_entropy")
REWARDS.add("amc-flops", "minus error times log MACs", "amc.envs.reward:amc_flops", cost="macs")
REWARDS.add(
    "amc-params", "minus error times log parameters", "amc.envs.reward:amc_params", cost="params"
)
REWARDS.add(
    "amc-latency",
    "minus error times log microseconds",
    "amc.envs.reward:amc_latency",
    cost="latency_us",
)

BACKENDS: Registry[Any] = Registry("backend", "amc.backends")
"""Subclasses of :class:`amc.latency.backends.base.Backend`: where latency is measured."""
BACKENDS.add("onnxruntime", "ONNX Runtime", "amc.latency.backends.onnxruntime_cpu:OnnxRuntime")
BACKENDS.add("torch", "eager PyTorch", "amc.latency.backends.torch_eager:TorchEager")
BACKENDS.add("torch-compile", "compiled PyTorch", "amc.latency.backends.torch_compile:TorchCompile")
BACKENDS.add("openvino", "OpenVINO", "amc.latency.backends.openvino_cpu:OpenVino")

AUGMENTATIONS: Registry[Any] = Registry("augmentation", "amc.augmentations", whole_batch=False)
"""Functions of the :class:`~amc.vision.data.ImageData` that make a change of its training images: a
transform of :mod:`torchvision.transforms.v2` for one uint8 image (C, H, W), or, with the trait
``whole_batch``, a :class:`amc.training.augmentation.base.BatchChange`.
"""
for _name, _summary, _batch in (
    ("none", "no change", True),
    ("crop", "random crop after padding by an eighth of the side", True),
    ("flip", "mirrored at random", True),
    ("alternating-flip", "mirrored in every other epoch", True),
    ("randaugment", "two of torchvision's RandAugment", False),
    ("scale", "zoomed by 0.8 to 1.2", False),
    ("rotation", "turned by up to 15 degrees", False),
    ("colour", "brightness, contrast, saturation and hue jittered", False),
):
    _file = "whole_batch" if _batch else "each_image"
    AUGMENTATIONS.add(
        _name,
        _summary,
        f"amc.training.augmentation.{_file}:{_name.replace('-', '_')}",
        whole_batch=_batch,
    )

DISTILLATIONS: Registry[Any] = Registry("distillation", "amc.distillations", features=False)
"""Losses by which a network learns from a teacher: subclasses of
:class:`amc.training.distillation.base.Distillation`.

Trait: ``features``, whether it compares activations at the ends of blocks.
"""
DISTILLATIONS.add(
    "kd", "softened logits (Hinton 2015)", "amc.training.distillation.kd:SoftenedLogits"
)
DISTILLATIONS.add(
    "dkd",
    "target and non-target logits apart (Zhao 2022)",
    "amc.training.distillation.dkd:DecoupledLogits",
)
DISTILLATIONS.add(
    "dist",
    "correlations of predictions (Huang 2022)",
    "amc.training.distillation.dist:Correlations",
)
DISTILLATIONS.add(
    "features",
    "activations, by learned projections (Romero 2015)",
    "amc.training.distillation.features:ProjectedFeatures",
    features=True,
)
DISTILLATIONS.add(
    "attention",
    "maps of attention (Zagoruyko 2017)",
    "amc.training.distillation.attention:AttentionMaps",
    features=True,
)
