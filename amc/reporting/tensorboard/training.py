"""A finetuning in TensorBoard, on the time line of the search before it.

Steps of the search's charts are episodes, 1 to E; those of all finetuning charts are E plus the
training steps since finetuning began, also where a point stands for an epoch: charts of one run
share one axis, nothing of the finetuning lies before the end of the search, and a loss stands above
the accuracy that it led to. ``finetune/epoch`` says which epoch a step belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from amc.reporting.tensorboard.layout import write_layout
from amc.task import Epoch, Step

_EVENT_FILES = "events.out.tfevents.*"


class TrainingMonitor:
    """Writes the loss now and then, and what each epoch has reached.

    Args:
        folder: where the event files go; those of the search may be there.
        offset: how many episodes the search had.
        resumed_steps: how many steps an earlier monitor has written that still hold. What it wrote
            after them is dropped, so that every curve goes on from there; with 0, an earlier
            finetuning is.
    """

    def __init__(self, folder: Path, *, offset: int, resumed_steps: int = 0) -> None:
        alone = not any(folder.glob(_EVENT_FILES))
        # A file of its own: the search's is closed, and TensorBoard reads the files one by one.
        self._writer = SummaryWriter(
            str(folder), purge_step=offset + resumed_steps + 1, filename_suffix=".finetune"
        )
        self._offset = offset
        self._loss_is_told = False
        """Whether a step of the present epoch has said its loss."""
        if alone:
            write_layout(self._writer, ())
            self._writer.flush()

    def step(self, step: Step) -> None:
        """Write the loss, if it is known: most steps do not wait for it."""
        if step.loss is None:
            return
        self._loss_is_told = True
        losses = _losses(step.loss, step.losses)
        self._write(step.done, {**losses, "finetune/learning_rate": step.lr})

    def epoch(self, epoch: Epoch) -> None:
        """Write what was measured after ``epoch``; its mean loss where no step has told one."""
        values: dict[str, float | None] = {
            "finetune/epoch": epoch.number,
            "finetune/accuracy_train": epoch.train_accuracy,
            "finetune/accuracy_search_val": epoch.search_val_accuracy,
            "finetune/accuracy_search_val_ema": epoch.ema_accuracy,
            "finetune/accuracy_test": epoch.test_accuracy,
            "finetune/images_per_second": epoch.images_per_second,
        }
        if not self._loss_is_told:
            values |= _losses(epoch.train_loss, epoch.losses)
            values["finetune/learning_rate"] = epoch.lr
        self._loss_is_told = False
        self._write(epoch.steps or epoch.number, values)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()

    def _write(self, step: int, values: Mapping[str, float | None]) -> None:
        for tag, value in values.items():
            if value is not None:
                self._writer.add_scalar(tag, value, self._offset + step)


def _losses(loss: float, parts: Mapping[str, float]) -> dict[str, float]:
    return {"finetune/loss": loss} | {f"finetune/loss_{name}": x for name, x in parts.items()}
