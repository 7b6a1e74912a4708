"""What the pictures draw equals what they were given."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amc.reporting import figure_style, figures


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def line(figure: Figure, label: str) -> tuple[list[float], list[float]]:
    (found,) = [one for one in axes_of(figure).lines if one.get_label() == label]
    x, y = found.get_data()
    return list(np.asarray(x, float)), list(np.asarray(y, float))


@pytest.mark.parametrize(("count", "compact"), [(9, False), (31, False), (9, True)])
def test_plan_bars_are_the_widths(count: int, compact: bool) -> None:
    dense = [16 + number for number in range(count)]
    kept = [1 + (7 * number) % 16 for number in range(count)]
    names = [f"block{number}.conv" for number in range(count)]
    figure = figures.plan_figure(names, dense, kept, "a plan", compact=compact)
    axes = axes_of(figure)
    lying = compact or count > 30
    drawn = {
        bars.get_label(): [b.get_width() if lying else b.get_height() for b in bars]
        for bars in axes.containers
    }
    assert drawn == {"dense": dense, "kept": kept}
    ticks = axes.get_yticklabels() if lying else axes.get_xticklabels()
    assert [tick.get_text() for tick in ticks] == names
    notes = [text.get_text() for text in axes.texts]
    assert notes == [f"{k / d:.0%}" for k, d in zip(kept, dense, strict=True)]
    assert axes.get_title(loc="left") == "a plan"


def test_progress_draws_rewards_and_their_running_maximum() -> None:
    rewards = [-2.0, -3.0, -1.0, -1.5, -0.5, -0.5]
    figure = figures.progress_figure(rewards)
    assert line(figure, "episode") == ([1, 2, 3, 4, 5, 6], rewards)
    assert line(figure, "best") == ([1, 2, 3, 4, 5, 6], [-2, -2, -1, -1, -0.5, -0.5])
    assert line(figure, "peak") == ([5], [-0.5])


def test_tradeoff_draws_every_episode_and_marks_the_best() -> None:
    kept, quality = [0.3, 0.5, 0.4], [0.6, 0.7, 0.65]
    figure = figures.tradeoff_figure({"MACs": kept}, quality, 1, quality_label="accuracy")
    (dots,) = axes_of(figure).collections
    np.testing.assert_array_equal(dots.get_offsets(), np.stack([kept, quality], axis=1))
    assert line(figure, "best") == ([0.5], [0.7])
    assert axes_of(figure).yaxis.get_major_formatter()(0.7) == "70%"


def test_tradeoff_names_the_episodes_on_request() -> None:
    figure = figures.tradeoff_figure(
        {"c": [0.3, 0.5, 0.4]}, [0.6, 0.7, 0.65], 1, quality_label="q", colorbar=True
    )
    axes, bar = figure.axes
    assert bar.get_ylabel() == "episode"
    assert bar.get_ylim() == (1, 3)
    (dots,) = axes.collections
    scale = bar.collections[-1]  # the strip of shades
    np.testing.assert_allclose(scale.cmap(scale.norm([1, 2, 3])), dots.get_facecolors())


def test_front_draws_all_plans_the_front_as_a_line_and_the_dense_network() -> None:
    episodes, front = ([0.3, 0.5, 0.4], [0.6, 0.7, 0.5]), ([0.3, 0.5], [0.6, 0.7])
    labels = {"cost_label": "MACs kept", "quality_label": "accuracy"}
    figure = figures.front_figure(episodes, front, 0.9, **labels)
    assert line(figure, "episode") == episodes
    assert line(figure, "front") == front
    assert line(figure, "dense") == ([1.0], [0.9])
    assert axes_of(figure).yaxis.get_major_formatter()(0.7) == "70%"
    unknown = figures.front_figure(episodes, ([0.3], [-3.0]), None, **labels)
    assert "dense" not in {one.get_label() for one in axes_of(unknown).lines}


def test_a_pinned_cost_is_a_narrow_panel_beside_the_one_that_tells_plans_apart() -> None:
    costs = {"MACs": [0.499, 0.5, 0.498], "parameters": [0.3, 0.6, 0.4]}
    figure = figures.tradeoff_figure(costs, [0.6, 0.7, 0.65], 1, quality_label="q")
    narrow, wide = figure.axes
    assert [axes.get_xlabel() for axes in (narrow, wide)] == ["MACs", "parameters"]
    assert narrow.get_xlim() == pytest.approx((0.448, 0.55))
    assert narrow.get_ylim() == wide.get_ylim()
    assert narrow.get_position().width < wide.get_position().width / 2


@pytest.mark.parametrize("side", [-1, 1])
def test_an_outlier_does_not_flatten_and_is_marked(side: int) -> None:
    rewards = list(np.linspace(-1.2, -0.4, 60))
    rewards[7] = -42.0
    figure = figures.progress_figure(rewards)
    axes = axes_of(figure)
    low, high = axes.get_ylim()
    assert -1.5 < low < -1.2
    assert -0.4 < high < -0.2
    assert line(figure, "outside") == ([8.0], [low])  # of the eighth episode, at the lower edge
    assert axes.get_xlabel() == "episode\n1 of 60 lie outside"
    assert line(figure, "episode")[1] == rewards
    # The best is never outside.
    rewards[7] = 42.0
    assert axes_of(figures.progress_figure(rewards)).get_ylim()[1] > 42
    # Of the costs, either side; the front and the dense network are never outside.
    kept = [*np.linspace(0.4, 0.6, 60), 0.5 + 10 * side]
    quality = [*np.linspace(0.5, 0.9, 60), 0.8]
    figure = figures.tradeoff_figure({"MACs kept": kept}, quality, 59, quality_label="q")
    low, high = axes_of(figure).get_xlim()
    assert 0.3 < low < 0.4
    assert 0.6 < high < 0.7
    assert line(figure, "outside") == ([low if side < 0 else high], [0.8])
    labels = {"cost_label": "c", "quality_label": "q"}
    figure = figures.front_figure((kept, quality), ([0.4, 0.6], [0.5, 0.9]), 0.95, **labels)
    assert 1.0 < axes_of(figure).get_xlim()[1] < 1.1


def test_seconds_are_bars_in_the_given_order() -> None:
    axes = axes_of(figures.seconds_figure({"evaluate": 75.0, "finetune": 600.0}))
    (bars,) = axes.containers
    assert [bar.get_width() for bar in bars] == [75.0, 600.0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["evaluate", "finetune"]
    assert [text.get_text() for text in axes.texts] == ["1 min 15 s", "10 min 0 s"]


def test_svg_is_well_formed_keeps_its_text_and_takes_the_page_s_colours() -> None:
    names = ["a<b & $c$", "stages.0.blocks.1.token_mixer.projection"]
    figure = figures.plan_figure(names, [8, 8], [4, 8])
    svg = figure_style.to_svg(figure, "plan", 'kept & "dense"')
    # Inside HTML, xlink needs no declaration; an XML parser wants one.
    root = ET.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x"', 1))
    texts = {element.text for element in root.iter("text")}
    assert {"a<b & $c$", "stages.0.blocks.1.….projection", "50%", "100%"} <= texts
    assert root.get("aria-label") == 'kept & "dense"'
    assert "width" not in root.attrib  # it fills its box
    assert all(name.startswith("plan-") for name in (e.get("id") for e in root.iter()) if name)
    assert "var(--accent)" in svg
    assert figure_style.ACCENT not in svg


def test_standings_draw_medians_middle_halves_and_single_plans() -> None:
    curves = {
        "ddpg": np.array([[4.0, 2.0, 1.0], [5.0, 5.0, 2.0], [6.0, 3.0, 3.0]]),
        "uniform": np.array([[2.5]]),
        "greedy": np.array([[3.0, 1.5, 1.5]]),
    }
    figure = figures.comparison_figure(curves, "KL")
    assert line(figure, "ddpg") == ([1, 2, 3], [5, 3, 2])
    assert line(figure, "greedy") == ([1, 2, 3], [3, 1.5, 1.5])
    assert line(figure, "uniform")[1] == [2.5, 2.5]
    (band,) = axes_of(figure).collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert {(2.0, 2.5), (2.0, 4.0), (3.0, 1.5), (3.0, 2.5)} <= corners
    assert axes_of(figure).get_ylabel() == "KL"
    low, high = axes_of(figure).get_ylim()
    assert low < 1
    assert high > 6
