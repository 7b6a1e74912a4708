"""What came of a finetuning, in words: for the page, and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from amc.records.results import Results
from amc.task import Epoch
from amc.utils import formatting
from amc.utils.formatting import percent

_NAMES = {
    "pruned": "pruned",
    "last": "last epoch",
    "ema": "moving average",
    "best": "best epoch",
}
_MUCH = 0.02
"""Accuracy lost against the dense network from which on the user hears what helps."""


def outcome(results: Results) -> dict[str, str]:
    """Sentences by their headword: which weights were kept, and what may help. Empty where nothing
    was finetuned."""
    if not results.epochs:
        return {}
    said = {"finetuned": _trained(results), "kept": _kept(results)}
    if results.kept == "pruned":
        said["no better"] = _where_it_began(results)
    lost = _lost(results)
    if lost is not None and round(lost, 6) > _MUCH:
        said["lost"] = f"{100 * lost:.1f} points against dense; what helps: {_help(results)}"
    return {name: text for name, text in said.items() if text}


def measured(epoch: Epoch) -> str:
    """What is known of an epoch, in one line."""
    parts: Mapping[str, str | None] = {
        "loss": f"{epoch.train_loss:.4f}",
        "train": _percent(epoch.train_accuracy),
        "search-val": _percent(epoch.search_val_accuracy),
        "average": _percent(epoch.ema_accuracy),
        "test": _percent(epoch.test_accuracy),
        "lr": f"{epoch.lr:.3g}",
    }
    said = [f"{name} {text}" for name, text in parts.items() if text is not None]
    if epoch.images_per_second is not None:
        said.append(f"{formatting.count(epoch.images_per_second)} images/s")
    return ", ".join(said)


def used_images(results: Results) -> str:
    """``Images used: train 45,000, search-val 5,000.``; empty where it is not known."""
    if not results.images:
        return ""
    counts = (f"{name.replace('_', '-')} {n:,}" for name, n in results.images.items())
    return f"Images used: {', '.join(counts)}."


def _trained(results: Results) -> str:
    count, seconds = len(results.epochs), sum(epoch.seconds for epoch in results.epochs)
    return f"{count} epoch{'s' if count > 1 else ''} in {formatting.duration(seconds)}"


def _kept(results: Results) -> str:
    name = results.kept or "last"
    accuracies = dict(results.accuracies)
    parts = [f"search-val {percent(accuracies.pop(name))}"] if name in accuracies else []
    others = [f"{_NAMES.get(other, other)} {percent(x)}" for other, x in accuracies.items()]
    parts += [", ".join(others)] if others else []
    what = "the pruned network as it was cut" if name == "pruned" else f"the {_NAMES[name]}"
    return f"{what} ({'; '.join(parts)})" if parts else what


def _where_it_began(results: Results) -> str:
    rate = results.recipe.lr if results.recipe else None
    lower = "a lower learning rate (--lr)" if rate is None else f"--lr {rate / 10:.2g}"
    return (
        "finetuning ended where it began: on search-val nothing that it reached beats the pruned "
        f"network; what may help: {lower}, more training images, a weaker --augment"
    )


def _lost(results: Results) -> float | None:
    """Accuracy in [0, 1] that the last network lacks: on test images, else on search-val."""
    dense, last = results.row("dense"), results.rows[-1]
    if dense is None or dense is last:
        return None
    for before, after in (
        (dense.test_accuracy, last.test_accuracy),
        (dense.search_val_accuracy, last.search_val_accuracy),
    ):
        if before is not None and after is not None:
            return before - after
    return None


def _help(results: Results) -> str:
    """What the recipe has not tried yet."""
    recipe = results.recipe
    ways = [f"longer (--epochs {4 * (recipe.epochs if recipe else len(results.epochs))})"]
    if recipe is None or recipe.stages == 1:
        ways.append("in stages (--stages 3)")
    if recipe is None or recipe.teacher is None:
        ways.append("a better teacher (--teacher SPEC@WEIGHTS)")
    return ", ".join([*ways, "a gentler --budget"])


def _percent(value: float | None) -> str | None:
    return None if value is None else percent(value)
