"""Recovery training of a sliced network: never worse than what it began with."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from amc.compute.layout import fast_layout
from amc.compute.precision import to_channels_last
from amc.config import FinetuneConfig
from amc.errors import DataError, EvaluationError, RunError
from amc.models.weights import tensors_sha256
from amc.task import Epoch, Finetuned, Kept, Step
from amc.training.checkpoint import Checkpoints
from amc.training.checkpoint import State as Saved
from amc.training.devices import Devices
from amc.training.learning_rate import RATES, choose_rate, trial_steps
from amc.training.optimizer import MakeOptimizer
from amc.training.recipe import completed, total_steps
from amc.training.selection import Candidate, Sample, Score, best
from amc.training.trainer import Trainer
from amc.vision.data import ImageData, Images
from amc.vision.evaluator import recalibrate_

_RETRIES, _RETRY_FACTOR = 3, 1 / 3
"""How often a rate that we chose is lowered when training diverges, and by how much."""
_RECALIBRATED = 256
"""Training images for BatchNorm in those trials."""
_SAMPLE_SEED = 0
"""The images that are looked at are the same whatever seed a training has."""
_HELD_OUT = 512
"""Training images, at most, that score the trials of learning rates."""


def finetune(
    model: nn.Module,
    data: ImageData,
    config: FinetuneConfig,
    *,
    teacher: nn.Module | None,
    device: torch.device | str = "cpu",
    optimizer: MakeOptimizer | None = None,
    devices: Devices | None = None,
    folder: Path | None = None,
    resume: bool = False,
    safe: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Finetuned:
    """Train ``model`` in place on ``data.train``; it ends with the weights that are best on
    search-val: of the last step, their moving average, or those that it began with.

    What ``config`` leaves open is chosen for the damage and the data (:mod:`recipe`,
    :mod:`learning_rate`). With a ``teacher`` the loss is ``distill_weight`` times what is learned
    from it (:mod:`amc.training.distillation`) plus the rest times cross-entropy.

    The same seed gives the same weights: shuffling and augmentation draw from a generator of their
    own, and layers that draw from PyTorch's global one (dropout) find it seeded, and restored
    afterwards. A training that is resumed from its checkpoints ends with the same bits.

    Args:
        model: the network to train; ends in eval mode, on ``device``.
        data: trained on ``train``, chosen by ``search_val``; ``test`` is only reported.
        config: the recipe.
        teacher: a better network, or None for plain cross-entropy; put in eval mode.
        device: where to train.
        optimizer: the user's own, in the place of the recipe's.
        devices: other processes that share the work.
        folder: for checkpoints; None: none are written.
        resume: go on from the newest checkpoint in ``folder``, if there is one.
        safe: contiguous layout everywhere.
        on_epoch: called after each epoch.
        on_step: called after each step.
        on_note: told what was chosen, and why, and what went wrong without ending the training.

    Raises:
        EvaluationError: the loss is not finite, with the learning rate that was asked for.
        DataError: there are fewer than two training images.
        RunError: the checkpoint is of another network or another recipe.
    """
    if len(data.train) < 2:
        raise DataError(f"{len(data.train)} training images: finetuning needs at least two")
    training = _Finetuning(
        model,
        data,
        config,
        teacher,
        torch.device(device),
        devices or Devices(),
        optimizer,
        on_epoch or (lambda _: None),
        on_step or (lambda _: None),
        on_note or (lambda _: None),
    )
    checkpoints = Checkpoints(folder if training.devices.first else None, training.note)
    # Every process reads what the first one wrote.
    saved = Checkpoints(folder, training.note).load() if resume else None
    with training.ready(safe):
        return training.run(checkpoints, saved)


@dataclass(frozen=True)
class Unfinished:
    """A training that was interrupted, as its newest checkpoint has it."""

    recipe: FinetuneConfig
    """As it was asked for."""
    steps: int
    """How many are done."""


def unfinished(folder: Path, on_note: Callable[[str], None] | None = None) -> Unfinished | None:
    """What there is in ``folder`` to go on from; None where there is nothing sound."""
    saved = Checkpoints(folder, on_note or (lambda _: None)).load()
    if saved is None:
        return None
    return Unfinished(FinetuneConfig.model_validate_json(saved["asked"]), saved["done"])


class _Finetuning:
    """A training with all that it is given."""

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        config: FinetuneConfig,
        teacher: nn.Module | None,
        device: torch.device,
        devices: Devices,
        optimizer: MakeOptimizer | None,
        on_epoch: Callable[[Epoch], None],
        on_step: Callable[[Step], None],
        note: Callable[[str], None],
    ) -> None:
        self.devices = devices
        self.model, self.teacher = model.to(device), teacher
        if teacher is not None:
            teacher.to(device).eval()
        devices.share_(model)  # what was cut on several devices differs by rounding
        self.data, self.device, self.optimizer = data, device, optimizer
        self.asked = config
        self.config, notes = completed(config, len(data.train))
        self.on_epoch, self.on_step, self.note = on_epoch, on_step, note
        self._notes = notes
        self._begun = tensors_sha256(model.state_dict())

    @contextlib.contextmanager
    def ready(self, safe: bool) -> Iterator[None]:
        """Layout and random numbers, and as they were afterwards."""
        example = to_channels_last(self.data.example(2).to(self.device))
        cuda = [self.device] if self.device.type == "cuda" else []
        try:
            with (
                fast_layout(self.model, example, backward=True, safe=safe) as contiguous,
                torch.random.fork_rng(cuda),
            ):
                if contiguous:
                    self.note(
                        f"{', '.join(contiguous)}: their kernels are faulty on this processor in "
                        "the layout of the others, and run contiguous"
                    )
                torch.manual_seed(self.asked.seed)
                yield
        finally:
            self.model.eval()

    def run(self, checkpoints: Checkpoints, saved: Saved | None) -> Finetuned:
        """Train, and once more by a lower rate where one that we chose diverges."""
        check = self._sample(self.data.search_val)
        self._test = self._sample(self.data.test)
        start = Candidate.of("pruned", self.model, self._score(check, self.model))
        if self.config.epochs == 0 or total_steps(self.config, len(self.data.train)) == 0:
            return Finetuned((), "pruned", {"pruned": start.score.accuracy}, self.config)
        self._check_alike(saved)
        if saved is not None:
            self._check(saved)
            self.config = FinetuneConfig.model_validate_json(saved["recipe"])
        else:
            for text in self._notes:
                self.note(text)
            if self.config.lr is None:
                self.config = self.config.model_copy(update={"lr": self._chosen_rate()})
        for retries in range(_RETRIES + 1):
            try:
                return self._train(checkpoints, saved, check, start)
            except EvaluationError:
                self.model.load_state_dict(start.state)
                if self.asked.lr is not None or retries == _RETRIES:
                    raise
                lr = (self.config.lr or 0.0) * _RETRY_FACTOR
                self.note(f"training diverged; it begins again with learning rate {lr:.2g}")
                self.config, saved = self.config.model_copy(update={"lr": lr}), None
        raise AssertionError

    def _train(
        self, checkpoints: Checkpoints, saved: Saved | None, check: Sample, start: Candidate
    ) -> Finetuned:
        trainer = self._trainer(self.model, self.config)
        history: list[Epoch] = []
        top: Candidate | None = None  # of all epochs, where patience asks for one
        if saved is not None:
            trainer.restore(saved)
            history = [Epoch(**values) for values in saved["history"]]
            top = _candidate(saved["top"])
            self.note(f"finetuning goes on after step {trainer.done} of {trainer.steps}")
        written = time.monotonic()

        def save() -> None:
            nonlocal written
            written = time.monotonic()
            checkpoints.save(trainer.state() | self._state(history, top))

        def pause() -> None:
            if time.monotonic() - written > 60 * self.config.checkpoint_minutes:
                save()

        try:
            while not trainer.finished and not self._patience_ends(history):
                history.append(self._epoch(trainer, check, pause))
                if self.config.patience is not None:
                    top = self._better(top, trainer, check)
                for text in self.data.skipped.news():
                    self.note(text)
                self.on_epoch(history[-1])
                save()
        finally:
            trainer.close()
        return self._end(trainer, history, check, [start] + ([top] if top else []))

    def _epoch(self, trainer: Trainer, check: Sample, pause: Callable[[], None]) -> Epoch:
        """One pass over the training images, measured."""
        started, number, before = time.perf_counter(), trainer.epoch, trainer.done
        means = trainer.run_epoch(self.on_step, pause)
        trained = time.perf_counter() - started
        average = trainer.average.module if trainer.average is not None else None
        raw = self._score(check, trainer.model)
        averaged = self._score(check, average) if average is not None else None
        kept = trainer.model
        if average is not None and averaged is not None and averaged > raw:
            kept = average
        images = len(self.data.train) * (trainer.done - before) / trainer.epoch_steps
        return Epoch(
            number=number,
            train_loss=means.pop("loss", float("nan")),
            test_accuracy=self._test.score(kept).accuracy,
            lr=trainer.last_lr,
            seconds=time.perf_counter() - started,
            search_val_accuracy=raw.accuracy,
            ema_accuracy=averaged.accuracy if averaged is not None else None,
            train_accuracy=means.pop("accuracy", None),
            losses=means,
            images_per_second=images / trained,
            steps=trainer.done,
        )

    def _end(
        self, trainer: Trainer, history: list[Epoch], check: Sample, others: list[Candidate]
    ) -> Finetuned:
        """The best of all that may be kept, in ``self.model``."""
        last = Candidate.of("last", trainer.model, self._score(check, trainer.model))
        candidates = [*others, last]
        if trainer.average is not None:
            network = trainer.average.module
            candidates.append(Candidate.of("ema", network, self._score(check, network)))
        chosen = best(candidates)
        self.model.load_state_dict(chosen.state)
        accuracies: dict[Kept, float] = {one.name: one.score.accuracy for one in candidates}
        return Finetuned(tuple(history), chosen.name, accuracies, self.config)

    # -- the learning rate -----------------------------------------------------------------------

    def _chosen_rate(self) -> float:
        """By trials on copies, which leave no trace in the random numbers of the training."""
        images = len(self.data.train)
        steps = trial_steps(total_steps(self.config, images))
        generator = torch.Generator().manual_seed(self.config.seed)
        order = torch.randperm(images, generator=generator)
        count = min(_HELD_OUT, images // 5)
        # Of few images none can be spared: they are scored without augmentation, at least.
        held, rest = (order[:count], order[count:]) if count >= 20 else (order, order)
        data = replace(self.data, train=self.data.train.take(rest[: steps * self._batch]))
        scored = self._sample(self.data.train.take(held))
        few = data.train.take(torch.arange(min(len(data.train), _RECALIBRATED))).images
        batches = list(
            to_channels_last(data.normalise(few.to(self.device))).split(_RECALIBRATED // 2)
        )

        def loss(candidate: nn.Module) -> float:
            # A few dozen steps are too few for the statistics that BatchNorm averages as it trains.
            recalibrate_(candidate, batches)
            return -self._score(scored, candidate).minus_cross_entropy

        trial = self.config.model_copy(update={"max_steps": steps, "epochs": steps, "ema": 0.0})

        def try_rate(lr: float) -> float:
            config = trial.model_copy(update={"lr": lr})
            trainer = self._trainer(copy.deepcopy(self.model), config, data)
            torch.manual_seed(self.config.seed)
            try:
                while not trainer.finished:
                    trainer.run_epoch(lambda _: None, lambda: None)
            finally:
                trainer.close()
            return loss(trainer.model)

        rates = RATES.get(self.config.optimizer, RATES["adamw"])
        before = loss(copy.deepcopy(self.model))
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            lr, trials = choose_rate(try_rate, rates, before)
        seen = ", ".join(f"{one.lr:g}: {one.loss:.3f}" for one in trials)
        self.note(
            f"learning rate {lr:g}: the largest that repairs well in {steps} steps (loss before "
            f"{before:.3f}, by rate {seen}); --lr overrides it"
        )
        return lr

    # -- parts -----------------------------------------------------------------------------------

    @property
    def _batch(self) -> int:
        assert self.config.batch_size is not None
        return self.config.batch_size

    def _trainer(
        self, model: nn.Module, config: FinetuneConfig, data: ImageData | None = None
    ) -> Trainer:
        return Trainer(
            model,
            data or self.data,
            config,
            teacher=self.teacher,
            device=self.device,
            make=self.optimizer,
            devices=self.devices,
        )

    def _sample(self, split: Images) -> Sample:
        config = self.config
        return Sample(
            self.data, split, config.check_images, _SAMPLE_SEED, self.device, config.precision
        )

    def _score(self, sample: Sample, model: nn.Module) -> Score:
        """The first process's: in others rounding may differ, and decisions must not."""
        found = sample.score(model)
        return Score(*self.devices.agreed(found.accuracy, found.minus_cross_entropy))

    def _patience_ends(self, history: list[Epoch]) -> bool:
        patience = self.config.patience
        if patience is None or len(history) <= patience:
            return False
        seen = [max(e.search_val_accuracy or 0, e.ema_accuracy or 0) for e in history]
        return max(seen[-patience:]) <= max(seen[:-patience])

    def _better(self, top: Candidate | None, trainer: Trainer, check: Sample) -> Candidate:
        """The best of the epochs so far."""
        networks = [trainer.model] + ([trainer.average.module] if trainer.average else [])
        score, network = max(
            ((self._score(check, one), one) for one in networks), key=lambda found: found[0]
        )
        better = top is None or score > top.score
        return Candidate.of("best", network, score) if better or top is None else top

    # -- checkpoints -----------------------------------------------------------------------------

    def _state(self, history: list[Epoch], top: Candidate | None) -> Saved:
        return {
            "begun": self._begun,
            "asked": self.asked.model_dump_json(),
            "recipe": self.config.model_dump_json(),
            "history": [asdict(epoch) for epoch in history],
            "top": None
            if top is None
            else {"score": [*asdict(top.score).values()], "state": dict(top.state)},
        }

    def _check_alike(self, saved: Saved | None) -> None:
        done = -1 if saved is None else saved["done"]
        if self.devices.agreed(done) != (done,):
            raise RunError(
                "the processes do not see the same checkpoints; the run folder has to be one that "
                "all of them read"
            )

    def _check(self, saved: Saved) -> None:
        if saved["begun"] != self._begun:
            raise RunError(
                "the checkpoint is of a finetuning that began with other weights; finetune anew "
                "(without --resume)"
            )
        before, now = FinetuneConfig.model_validate_json(saved["asked"]), self.asked
        changed = [
            name for name in type(now).model_fields if getattr(before, name) != getattr(now, name)
        ]
        if changed:
            raise RunError(
                f"the finetuning to be resumed has another recipe ({', '.join(changed)}); give "
                "the same, or finetune anew (without --resume)"
            )


def _candidate(values: Saved | None) -> Candidate | None:
    if values is None:
        return None
    return Candidate("best", Score(*values["score"]), values["state"])
