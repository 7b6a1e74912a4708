"""A search's numbers under the names that users of Stable-Baselines3 look for, beside ours.

A timestep is the decision on one unit, an iteration is an episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from amc.records.episode import Episode

_MEAN_OF = 100
"""Episodes in a mean, as in Stable-Baselines3 (``stats_window_size``)."""

_LOSSES = {"losses/actor": "train/actor_loss", "losses/critic": "train/critic_loss"}


def sb3_scalars(
    episodes: Sequence[Episode], seconds: float, diagnostics: Mapping[str, float]
) -> dict[str, float]:
    """Numbers by tag after the last of ``episodes``, which took ``seconds`` together.

    ``diagnostics`` are the agent's; ``train/learning_rate`` and ``train/n_updates`` are in them
    where it has such.
    """
    units = len(episodes[-1].widths)
    steps = units * len(episodes)
    scalars = {
        "rollout/ep_rew_mean": float(np.mean([one.reward for one in episodes[-_MEAN_OF:]])),
        "rollout/ep_len_mean": float(units),
        "time/iterations": len(episodes),
        "time/total_timesteps": steps,
        "time/time_elapsed": seconds,
    }
    if seconds > 0:
        scalars["time/fps"] = steps / seconds
    return scalars | {name: diagnostics[tag] for tag, name in _LOSSES.items() if tag in diagnostics}
