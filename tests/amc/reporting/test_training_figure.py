"""The picture of a finetuning equals the epochs that it was given."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from amc.reporting.training_figure import finetune_figure
from amc.task import Epoch


def lines(figure: Figure, panel: int) -> dict[str, tuple[list[float], list[float]]]:
    found = {}
    for one in figure.axes[panel].lines:
        x, y = (list(np.asarray(values, float)) for values in one.get_data())
        found[str(one.get_label())] = (x, y)
    return found


def test_accuracies_the_average_and_the_learning_rate() -> None:
    epochs = [
        Epoch(
            number,
            1.0,
            test_accuracy=0.5 + number / 64 if number != 2 else None,
            lr=0.1 / number,
            seconds=1.0,
            search_val_accuracy=0.25 + number / 64,
            ema_accuracy=number / 64,
            train_accuracy=0.75 + number / 64,
        )
        for number in (1, 2, 3)
    ]
    figure = finetune_figure(epochs, 0.92)
    accuracies = lines(figure, 0)
    assert accuracies["train"] == ([1, 2, 3], [0.75 + n / 64 for n in (1, 2, 3)])
    assert accuracies["search-val"] == ([1, 2, 3], [0.25 + n / 64 for n in (1, 2, 3)])
    assert accuracies["search-val, average"] == ([1, 2, 3], [n / 64 for n in (1, 2, 3)])
    assert accuracies["test"] == ([1, 3], [0.5 + n / 64 for n in (1, 3)])
    assert accuracies["dense 92.0%"][1] == [0.92, 0.92]
    (rate,) = lines(figure, 1).values()
    assert rate == ([1, 2, 3], [0.1, 0.05, 0.1 / 3])
    assert figure.axes[1].get_position().height < figure.axes[0].get_position().height / 2


def test_what_is_not_known_is_not_drawn() -> None:
    figure = finetune_figure([Epoch(1, 1.0, None, 0.1, 1.0)], None)
    assert not lines(figure, 0)
    older = finetune_figure([Epoch(1, 1.0, 0.8, 0.1, 1.0)], None)
    assert set(lines(older, 0)) == {"test", "_last"}
