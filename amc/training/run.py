"""One training from its beginning, or its checkpoint, to the weights that it leaves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from amc.compute.crash_record import crashed
from amc.compute.layout import contiguous_layers, fast_layout, suspects, unsound_layers
from amc.compute.precision import to_channels_last
from amc.config import FinetuneConfig
from amc.errors import EvaluationError, RunError
from amc.models.weights import tensors_sha256
from amc.task import Epoch, Finetuned, Kept, Step
from amc.training.checkpoint import Checkpoints
from amc.training.checkpoint import State as Saved
from amc.training.devices import Devices
from amc.training.optimizer import MakeOptimizer
from amc.training.rate_trials import try_rates
from amc.training.recipe import completed, total_steps
from amc.training.selection import Candidate, Sample, Score, best
from amc.training.trainer import Trainer
from amc.vision.data import ImageData, Images, Split

_ATTEMPTS, _RETRY_FACTOR = 3, 1 / 4
"""Trainings by a rate that we chose, each lower than the one before, until one repairs anything."""
_SAMPLE_SEED = 0
"""The images that are looked at are the same whatever seed a training has."""

Scores = dict[Kept, tuple[nn.Module, Score]]
"""Networks that may be kept, and how good they are on search-val."""


class Run:
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
        self.data, self.device, self.optimizer = _on_device(data, device), device, optimizer
        self.asked = config
        self.config, notes = completed(config, len(data.train))
        self.on_epoch, self.on_step, self.note = on_epoch, on_step, note
        self._notes = notes
        self._safe = False
        self._attempt = 0
        self._begun = tensors_sha256(model.state_dict())

    @contextlib.contextmanager
    def ready(self, safe: bool) -> Iterator[None]:
        """Layout and random numbers, and as they were afterwards."""
        self._safe = safe
        images = to_channels_last(self.data.example(2).to(self.device))
        bf16 = {"bf16": True, "auto": None}.get(self.config.precision, False)
        cuda = [self.device] if self.device.type == "cuda" else []
        try:
            with contextlib.ExitStack() as stack:
                laid_out = fast_layout(self.model, images, backward=True, bf16=bf16, safe=safe)
                contiguous = stack.enter_context(laid_out)
                if self.teacher is not None:
                    fixed = unsound_layers(self.teacher, images, backward=False, bf16=bf16)
                    stack.enter_context(contiguous_layers(self.teacher, fixed))
                stack.enter_context(torch.random.fork_rng(cuda))
                if contiguous and not safe:
                    self.note(
                        f"{', '.join(contiguous)}: run contiguous, because kernels for the layout "
                        "of the others are faulty on this processor"
                    )
                torch.manual_seed(self.asked.seed)
                yield
        finally:
            self.model.eval()

    def died_natively(self, folder: Path) -> bool:
        """Whether the process that trained in ``folder`` was ended by its own machine code, and
        what is suspected of it is told."""
        if not crashed(folder):
            return False
        assert self.config.batch_size is not None
        count = min(self.config.batch_size, len(self.data.train))
        found = suspects(self.model, to_channels_last(self.data.example(count).to(self.device)))
        self.note(
            "the process before was ended by a fault in its machine code"
            + (f" (suspected: {', '.join(found)})" if found else "")
            + "; training goes on in the contiguous layout, which is slower"
        )
        return True

    def run(self, checkpoints: Checkpoints, saved: Saved | None) -> Finetuned:
        """Train, and once more by a lower rate where one that we chose diverges."""
        check = self._sample(self.data.search_val)
        self._test = self._sample(self.data.test)
        start = Candidate.of("pruned", self.model, self._score(check, self.model))
        if self.config.epochs == 0 or total_steps(self.config, len(self.data.train)) == 0:
            return Finetuned((), "pruned", {"pruned": start.score.accuracy}, self.config)
        self._check_alike(saved)
        if self.devices.count > 1:
            self.note(f"{self.devices.count} processes share each batch")
        if saved is not None:
            self._check(saved)
            self.config = FinetuneConfig.model_validate_json(saved["recipe"])
        else:
            for text in self._notes:
                self.note(text)
            if self.config.lr is None:
                lr, why = try_rates(
                    *(self.model, self.data, self.config, self.device),
                    make_trainer=self._trainer,
                    score=self._score,
                )
                self.note(why)
                self.config = self.config.model_copy(update={"lr": lr})
        for self._attempt in range(saved["attempt"] if saved else 0, _ATTEMPTS):
            last = self.asked.lr is not None or self._attempt == _ATTEMPTS - 1
            try:
                found = self._train(checkpoints, saved, check, start)
            except EvaluationError:
                self.model.load_state_dict(start.state)
                if last:
                    raise
                what = "training diverged"
            else:
                trained = [found.accuracies[k] for k in found.accuracies if k != "pruned"]
                if last or max(trained) >= start.score.accuracy:
                    return found
                what = "training ended worse than it began"
            lr = (self.config.lr or 0.0) * _RETRY_FACTOR
            self.note(f"{what}; it begins again with learning rate {lr:.2g}")
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
        scores: Scores | None = None  # of the last epoch
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
                epoch, scores = self._epoch(trainer, check, pause)
                history.append(epoch)
                if self.config.patience is not None:
                    top = _better(top, scores)
                for text in self.data.skipped.news():
                    self.note(text)
                self.on_epoch(history[-1])
                save()
        finally:
            trainer.close()
        scores = scores or self._scores(trainer, check)
        return self._end(history, scores, [start] + ([top] if top else []))

    def _scores(self, trainer: Trainer, check: Sample) -> Scores:
        """What training has now, and how good it is: the weights, and their average."""
        networks: dict[Kept, nn.Module] = {"last": trainer.model}
        if trainer.average is not None:
            networks["ema"] = trainer.average.module
        return {name: (one, self._score(check, one)) for name, one in networks.items()}

    def _epoch(
        self, trainer: Trainer, check: Sample, pause: Callable[[], None]
    ) -> tuple[Epoch, Scores]:
        """One pass over the training images, measured."""
        started, number, before = time.perf_counter(), trainer.epoch, trainer.done
        means = trainer.run_epoch(self.on_step, pause)
        trained = time.perf_counter() - started
        scores = self._scores(trainer, check)
        kept, _ = max(scores.values(), key=lambda found: found[1])
        accuracies = {name: score.accuracy for name, (_, score) in scores.items()}
        images = len(self.data.train) * (trainer.done - before) / trainer.epoch_steps
        epoch = Epoch(
            number=number,
            train_loss=means.pop("loss", float("nan")),
            test_accuracy=self._test.score(kept).accuracy,
            lr=trainer.last_lr,
            seconds=time.perf_counter() - started,
            search_val_accuracy=accuracies["last"],
            ema_accuracy=accuracies.get("ema"),
            train_accuracy=means.pop("accuracy", None),
            losses=means,
            images_per_second=images / trained,
            steps=trainer.done,
        )
        return epoch, scores

    def _end(self, history: list[Epoch], scores: Scores, others: list[Candidate]) -> Finetuned:
        """The best of all that may be kept, in ``self.model``."""
        trained = [Candidate.of(name, *found) for name, found in scores.items()]
        candidates = [*others, *trained]
        chosen = best(candidates)
        self.model.load_state_dict(chosen.state)
        accuracies: dict[Kept, float] = {one.name: one.score.accuracy for one in candidates}
        return Finetuned(tuple(history), chosen.name, accuracies, self.config)

    # -- parts -----------------------------------------------------------------------------------

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

    # -- checkpoints -----------------------------------------------------------------------------

    def _state(self, history: list[Epoch], top: Candidate | None) -> Saved:
        return {
            "attempt": self._attempt,
            "safe": self._safe,
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


def _on_device(data: ImageData, device: torch.device) -> ImageData:
    """``data`` with its training images on a GPU that has four times the memory for them: batches
    are then taken, changed and trained on without waiting for the CPU."""
    train = data.train
    if device.type != "cuda" or not isinstance(train, Split):
        return data
    free_bytes, _ = torch.cuda.mem_get_info(device)
    if 4 * train.images.nbytes > free_bytes:
        return data
    return replace(data, train=Split(train.images.to(device), train.labels))


def _better(top: Candidate | None, scores: Scores) -> Candidate:
    """The best of the epochs so far."""
    network, score = max(scores.values(), key=lambda found: found[1])
    if top is not None and score <= top.score:
        return top
    return Candidate.of("best", network, score)


def _candidate(values: Saved | None) -> Candidate | None:
    if values is None:
        return None
    return Candidate("best", Score(*values["score"]), values["state"])
