"""The page and the terminal's table, against the numbers of made-up runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from amc.config import DataConfig, FinetuneConfig, ModelConfig, SearchConfig, save_toml
from amc.envs.pruning import Episode
from amc.finetune import Epoch
from amc.plan import Plan, UnitPlan
from amc.results import Results, Row

DENSE = {"macs": 40_813_184, "params": 270_896}


def make_config(**changes: object) -> SearchConfig:
    values: dict[str, object] = {
        "model": ModelConfig(spec="amc:resnet20", weights="models/resnet20.safetensors"),
        "data": DataConfig(spec="imagefolder:data/cifar10"),
        "budget": {"macs": 0.5},
    }
    return SearchConfig.parse(values | changes)


def make_episodes(count: int, widths: list[int], rng: np.random.Generator) -> list[Episode]:
    """Plans that get better with time: a random walk of keeps, and a quality that follows."""
    episodes = []
    for number in range(1, count + 1):
        skill = 1 - np.exp(-number / (0.3 * count))
        keeps = np.clip(rng.normal(0.7, 0.2, len(widths)), 0.15, 1.0)
        kept = tuple(max(1, round(k * w)) for k, w in zip(keeps, widths, strict=True))
        kl = float(0.75 + (1 - skill) * 1.6 + abs(rng.normal(0, 0.25)) * (1.2 - skill))
        kept_macs, kept_params = 0.5 - rng.random() * 0.004, 0.3 + 0.35 * rng.random()
        episodes.append(
            Episode(
                number=number,
                widths=kept,
                proposed_keep=tuple(keeps.tolist()),
                executed_keep=tuple(k / w for k, w in zip(kept, widths, strict=True)),
                macs=round(kept_macs * DENSE["macs"]),
                params=round(kept_params * DENSE["params"]),
                kept_macs=kept_macs,
                kept_params=kept_params,
                quality={"accuracy": float(0.9 * np.exp(-0.45 * kl)), "kl": kl},
                reward=-kl,
                seconds={"project": 0.001, "evaluate": 0.4 + 0.1 * float(rng.random())},
            )
        )
    return episodes


def make_results(best: Episode, epochs: int, rng: np.random.Generator) -> Results:
    curve = 0.912 - 0.12 * np.exp(-np.arange(1, epochs + 1) / 3) + rng.normal(0, 0.002, epochs)
    small = {"macs": best.macs, "params": best.params}
    rows = [
        Row(name="dense", test_accuracy=0.9183, latency_ms=3.1, latency_spread_ms=0.12, **DENSE),
        Row(name="pruned", test_accuracy=0.5937, latency_ms=2.0, latency_spread_ms=0.1, **small),
    ]
    if epochs:
        rows.append(
            Row(name="finetuned", test_accuracy=float(curve[-1]), latency_ms=1.984, **small)
        )
    return Results(
        rows=tuple(rows),
        device="cpu",
        epochs=tuple(
            Epoch(number, 1.2 / number, float(accuracy), 0.05, 41.0)
            for number, accuracy in enumerate(curve, start=1)
        ),
        recipe=FinetuneConfig(epochs=epochs) if epochs else None,
        verified_error=3.1e-7,
        seconds={"search": 95.0, "finetune": 41.5 * epochs},
    )


def make_run(
    path: Path,
    *,
    config: SearchConfig | None = None,
    names: list[str] | None = None,
    episodes: int = 150,
    epochs: int = 15,
    results: bool = True,
) -> Results | None:
    """A run folder; returns its results."""
    rng = np.random.default_rng(7)
    names = names or [f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in (0, 1, 2)]
    widths = [16 * 2 ** (3 * number // len(names)) for number in range(len(names))]
    path.mkdir(parents=True)
    save_toml(
        config or make_config(),
        path / "config.toml",
        versions={"amc": "0.1.0", "torch": "2.15.0"},
    )
    history = make_episodes(episodes, widths, rng)
    lines = [json.dumps(episode.to_json()) + "\n" for episode in history]
    (path / "episodes.jsonl").write_text("".join(lines))
    if not history:
        return None
    best = max(history, key=lambda episode: episode.reward)
    Plan(
        weights_sha256="0" * 64,
        units=tuple(
            UnitPlan(name=name, width=width, kept=tuple(range(kept)))
            for name, width, kept in zip(names, widths, best.widths, strict=True)
        ),
        macs=best.macs,
        params=best.params,
        dense_macs=DENSE["macs"],
        dense_params=DENSE["params"],
        quality=best.quality,
    ).save(path / "plan.json")
    if not results:
        return None
    found = make_results(best, epochs, rng)
    found.save(path / "results.json")
    return found
