"""How a sliced network is trained again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from amc.config.names import AugmentationName, DistillationName
from amc.registry import AUGMENTATIONS, DISTILLATIONS
from amc.utils.options import RUN, TUNING, Option
from amc.utils.settings import Settings

_TRAIN = ("search", "replay", "finetune")
"""Commands that train."""

Schedule = Literal["cosine", "linear", "one-cycle"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class FinetuneConfig(Settings):
    """Recovery training of a sliced network. What is None is chosen for the damage and the data,
    and printed with its reason."""

    epochs: Annotated[int, Option("--epochs", _TRAIN, TUNING, basic=True)] = Field(15, ge=0)
    """Epochs of finetuning; 0: none."""
    max_steps: Annotated[int | None, Option("--max-steps", _TRAIN, TUNING)] = Field(None, ge=1)
    """Steps after which finetuning ends, whatever --epochs says."""
    batch_size: Annotated[int | None, Option("--batch-size", _TRAIN, TUNING)] = Field(None, ge=1)
    """Images of a training step; default: 128, fewer for small data sets."""
    optimizer: Annotated[str, Option("--optimizer", _TRAIN, TUNING)] = "sgd"
    """``sgd`` (Nesterov), ``adamw`` or ``path/to/file.py:function``, called with parameter groups
    and a learning rate."""
    lr: Annotated[float | None, Option("--lr", _TRAIN, TUNING)] = Field(None, gt=0)
    """Peak learning rate; default: chosen by a short trial on training images."""
    schedule: Annotated[Schedule, Option("--schedule", _TRAIN, TUNING)] = "cosine"
    """Course of the learning rate after the warm-up: cosine, linear, or one-cycle (from a tenth
    up, then down)."""
    warmup_epochs: Annotated[float, Option("--warmup-epochs", _TRAIN, TUNING)] = Field(1.0, ge=0)
    """Epochs of linear warm-up, at most a tenth of all."""
    momentum: Annotated[float, Option("--momentum", _TRAIN, TUNING)] = Field(0.9, ge=0, lt=1)
    """Momentum of sgd, first beta of adamw."""
    weight_decay: Annotated[float, Option("--weight-decay", _TRAIN, TUNING)] = Field(5e-4, ge=0)
    """Weight decay; biases and norms have none."""
    label_smoothing: Annotated[float, Option("--label-smoothing", _TRAIN, TUNING)] = Field(
        0.0, ge=0, lt=1
    )
    """Weight of the uniform distribution in the labels."""
    clip_norm: Annotated[float | None, Option("--clip-norm", _TRAIN, TUNING)] = Field(None, gt=0)
    """Greatest norm of the gradient; default: not clipped."""
    ema: Annotated[float | None, Option("--ema", _TRAIN, TUNING)] = Field(None, ge=0, lt=1)
    """Decay of the exponential moving average of the weights, a step; 0: none; default: about a
    twentieth of the training is averaged."""
    patience: Annotated[int | None, Option("--patience", _TRAIN, TUNING)] = Field(None, ge=1)
    """Epochs without a better search-val accuracy after which finetuning ends, with the best."""
    freeze: Annotated[tuple[str, ...], Option("--freeze", _TRAIN, TUNING)] = ()
    """Layers that are not trained, by name pattern (``layer1.*``); repeatable."""
    unfreeze_epoch: Annotated[int | None, Option("--unfreeze-epoch", _TRAIN, TUNING)] = Field(
        None, ge=1
    )
    """Epoch after which frozen layers are trained too, the last of them first."""
    augment: Annotated[
        tuple[AugmentationName, ...] | None,
        Option("--augment", _TRAIN, TUNING, names=AUGMENTATIONS, commas=True),
    ] = None
    """Changes of training images, with commas between them (``none``: no change); default: the
    data set's. Of"""
    mix: Annotated[tuple[float, float], Option("--mix", _TRAIN, TUNING, commas=True)] = (0.0, 0.0)
    """Shares of batches with CutMix and with MixUp, such as 0.6,0.2."""
    precision: Annotated[Precision, Option("--precision", _TRAIN, TUNING)] = "auto"
    """Numbers of the forward: fp32, bf16, or fp16 with loss scaling (CUDA); auto: bf16 where the
    hardware has it."""
    compile: Annotated[bool, Option("--compile", _TRAIN, TUNING)] = False
    """Train through torch.compile."""
    teacher: Annotated[str | None, Option("--teacher", _TRAIN, TUNING)] = None
    """Network to learn from, SPEC@WEIGHTS (``amc:resnet56@big.safetensors``); default: the dense
    one."""
    distill: Annotated[
        tuple[DistillationName, ...],
        Option("--distill", _TRAIN, TUNING, names=DISTILLATIONS, commas=True),
    ] = ("kd",)
    """How it is learned from, with commas between several. Of"""
    distill_weight: Annotated[float, Option("--distill-weight", _TRAIN, TUNING)] = Field(
        0.7, ge=0, le=1
    )
    """Weight of what is learned from the teacher; 1 minus it goes to the true labels. 0: no
    teacher."""
    distill_temperature: Annotated[
        tuple[float, ...], Option("--distill-temperature", _TRAIN, TUNING, commas=True)
    ] = Field((4.0,), min_length=1, max_length=2)
    """How much the teacher's logits are softened; two numbers: at the start and at the end, such
    as 10,2."""
    stages: Annotated[int, Option("--stages", ("search",), TUNING)] = Field(1, ge=1)
    """Steps in which the network is pruned, each followed by a short finetuning."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """Minutes between two checkpoints within an epoch; there is one after every epoch."""
    check_images: int = Field(2000, ge=1)
    """Images of each split, at most, on which an epoch is measured."""
    seed: Annotated[int, Option("--seed", ("finetune",), RUN, basic=True)] = 0
    """Seed of everything that is drawn."""

    @model_validator(mode="before")
    @classmethod
    def _of_older_files(cls, values: Any) -> Any:
        """``bf16`` was a flag, and the temperature one number."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if "bf16" in values:
            flag = values.pop("bf16")
            values.setdefault("precision", {True: "bf16", False: "fp32"}.get(flag, "auto"))
        if isinstance(values.get("distill_temperature"), int | float):
            values["distill_temperature"] = (values["distill_temperature"],)
        return values

    @field_validator("distill_temperature")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) <= 0:
            raise ValueError("temperatures are above 0")
        return values

    @field_validator("mix")
    @classmethod
    def _shares(cls, values: tuple[float, float]) -> tuple[float, float]:
        if min(values) < 0 or sum(values) > 1:
            raise ValueError("shares are at least 0, and at most 1 together")
        return values
