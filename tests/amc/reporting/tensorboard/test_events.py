"""What a person sees: the tabs of a real TensorBoard in a real browser, two runs side by side."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amc.records.episode import Episode
from amc.reporting.tensorboard.monitor import TensorBoardMonitor
from amc.reporting.tensorboard.training import TrainingMonitor
from amc.task import Epoch, Step
from tests.fakes import fake_problem, rollout

pytestmark = pytest.mark.slow

WAIT_SECONDS = 60  # TensorBoard polls, and is slow to draw
EPISODES = 30
QUIET = (
    "--no-sandbox",  # which root has to do without
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Episode]]:
    """The same number of random plans twice."""
    found = {}
    for seed, name in enumerate(("finished", "resumed")):
        problem, generator = fake_problem(), np.random.default_rng(seed)
        walks = (rollout(problem, generator.uniform(-1, 1, 9)) for _ in range(EPISODES))
        found[name] = [
            replace(Episode.from_json(info["plan"]), seconds={"evaluate": 100.0, "agent": 1.0})
            for *_, info in walks
        ]
    return found


@pytest.fixture(scope="module")
def logs(runs: dict[str, list[Episode]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that finished, and one that was killed after episode 22 and resumed after 20."""
    folder, units = tmp_path_factory.mktemp("runs"), fake_problem().units

    def watch(name: str, resumed_episodes: int = 0) -> TensorBoardMonitor:
        seed = list(runs).index(name)
        losses = {"losses/actor": 0.3, "losses/critic": 0.2, "exploration/std": 0.5}
        settings = {"agent": "ddpg", "seed": seed, "budget/macs": 0.5}
        path = folder / name / "tb"
        return TensorBoardMonitor(
            path, units, lambda: losses, settings, resumed_episodes=resumed_episodes
        )

    killed = watch("resumed")
    for episode in [
        *runs["resumed"][:20],
        *(replace(e, reward=9.0) for e in runs["resumed"][20:22]),
    ]:
        killed(episode)
    time.sleep(1.1)  # files are read in the order of the seconds in their names
    for monitor, name in ((watch("finished"), "finished"), (watch("resumed", 20), "resumed")):
        for episode in runs[name]:
            monitor(episode)
        monitor.close()
    time.sleep(1.1)
    for name in runs:
        training = TrainingMonitor(folder / name / "tb", offset=EPISODES)
        training.step(Step(9, 9, 0.5, {"kd": 0.25}, 0.1))
        training.epoch(Epoch(1, 0.5, 0.9, 0.1, 9.0, 0.8, 0.85, 0.95, {}, 2000.0, 9))
        training.close()
    return folder


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "plain"])
def address(logs: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A server on both runs, with either of its two readers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-W", "ignore", "-m", "tensorboard.main", "--logdir", str(logs)]
    command += ["--host", "127.0.0.1", "--port", port, "--load_fast", request.param]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            until = time.monotonic() + WAIT_SECONDS
            while time.monotonic() < until:
                try:
                    with urllib.request.urlopen(f"{address}/data/runs", timeout=5) as answer:
                        if all(name.encode() in answer.read() for name in ("finished", "resumed")):
                            break
                except OSError:
                    time.sleep(0.5)
            yield address
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Any, address: str, tmp_path: Path) -> Iterator[Any]:
    """Open a tab and wait for texts; what was seen last is kept as a picture beside the test."""
    page = browser.new_page(viewport={"width": 1600, "height": 1300})
    page.set_default_timeout(1000 * WAIT_SECONDS)

    def open_tab(tab: str, *texts: str) -> Any:
        page.goto(f"{address}/#{tab}")
        for text in texts:
            page.get_by_text(text, exact=True).first.wait_for()
        return page

    yield open_tab
    page.screenshot(path=tmp_path / "page.png")
    page.close()


def best(episodes: list[Episode]) -> Episode:
    return max(episodes, key=lambda episode: episode.reward)


def test_time_series(show: Any, runs: dict[str, list[Episode]]) -> None:
    page = show("timeseries", "/accuracy", "/reward", "finished/tb", "resumed/tb")
    groups = page.locator("metrics-card-group-toolbar .group-title").all_inner_texts()
    assert groups[:2] == ["best", "cost"]
    card = page.locator("scalar-card").filter(has_text="/reward").first
    card.get_by_text("Smoothed").wait_for()
    for name, episodes in runs.items():
        row = card.locator("tb-data-table-content-row").filter(has_text=f"{name}/tb")
        *_, value, step, _ = row.locator("tb-data-table-content-cell").all_inner_texts()
        assert float(value) == pytest.approx(best(episodes).reward, rel=1e-2)
        assert int(step) == EPISODES


def test_custom_scalars(show: Any) -> None:
    lines = {
        "best reward": 1,
        "best accuracy": 1,
        "reward and its moving average": 2,
        "kept cost": 2,
        "exploration": 1,
        "losses": 2,
        "conv0 to conv2": 3,
        "conv3 to conv5": 3,
        "conv6 to conv8": 3,
        "loss": 2,
        "accuracy": 4,
        "learning rate": 1,
        "images per second": 1,
        "seconds of every phase": 2,
    }
    page = show("custom_scalars", *lines)
    charts = page.locator("tf-custom-scalar-multi-line-chart-card")
    assert charts.count() == len(lines)
    for title, count in lines.items():
        chart = charts.filter(has=page.get_by_text(title, exact=True))
        chart.get_by_text(f"Matches ({2 * count})").wait_for()  # in two runs


def test_images(show: Any) -> None:
    page = show("images", "best/plan", "episodes/reward", "episodes/tradeoff")
    for card in page.locator("tf-image-loader").all():
        picture = card.locator("img")
        picture.wait_for()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 520
    assert page.locator("tf-image-loader").count() == 6


def test_text(show: Any, runs: dict[str, list[Episode]]) -> None:
    page = show("text", "best/plan/text_summary")
    for name, episodes in runs.items():
        plan = best(episodes)
        loader = page.locator("tf-text-loader").filter(has_text=f"{name}/tb")
        loader.get_by_text(f"Episode {plan.number}: reward {plan.reward:.4f}").first.wait_for()
        table = loader.locator("table table").first
        assert table.locator("tr").count() == 10
        last = table.locator("tr").last.locator("td").all_inner_texts()
        assert last == ["conv8", "64", str(plan.widths[8]), f"{plan.executed_keep[8]:.2f}"]


def test_hparams(show: Any, runs: dict[str, list[Episode]]) -> None:
    page = show("hparams", "Trial ID", "best/reward")
    table = page.locator("tf-hparams-table-view")
    for name, episodes in runs.items():
        table.get_by_text(f"{name}/tb").wait_for()
        plan = best(episodes)
        for value in (plan.reward, plan.quality["accuracy"], plan.kept["macs"]):
            assert table.get_by_text(f"{value:#.5g}").count() >= 1
    assert table.get_by_text("/tb").count() == len(runs)
