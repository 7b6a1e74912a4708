"""What an episode costs beside the bare forward of the same sliced network on the same images.

And what slicing costs beside evaluating. Both sides recalibrate BatchNorm; they take turns in one
process, and the ratio is taken pair by pair, because a shared machine drifts.

    python benchmarks/overhead.py --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from common import RESULTS, add_inputs, configs

from amc.config import EvaluateConfig, SearchConfig
from amc.envs.make import make_problem
from amc.envs.pruning import PruningEnv
from amc.models.factory import build_model
from amc.pruning.slicing.slice import slice_model
from amc.vision.evaluator import Evaluator
from amc.vision.sources import load_data
from amc.vision.task import image_task


def main() -> None:
    """Time pairs and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model_config, data_config = configs(arguments)
    data = load_data(data_config)
    task = image_task(model_config, data)
    config = SearchConfig(budget={"macs": 0.5})
    env = PruningEnv(make_problem(task, config))
    bare = Evaluator.from_data(build_model(model_config), data, EvaluateConfig())
    rng = np.random.default_rng(0)
    ratios, slices = [], []
    for pair in range(arguments.pairs + 2):
        start = time.perf_counter()
        env.reset()
        done = False
        info: dict[str, Any] = {}
        while not done:
            _, _, done, _, info = env.step(rng.uniform(-1, 1, 1).astype(np.float32))
        episode_s = time.perf_counter() - start
        start = time.perf_counter()
        small = slice_model(task.model, env.problem.units, info["plan"]["widths"])
        slice_s, start = time.perf_counter() - start, time.perf_counter()
        bare(small)
        forward_s = time.perf_counter() - start
        if pair >= 2:  # the first two warm up
            ratios.append(episode_s / forward_s)
            slices.append(slice_s / forward_s)
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    print(f"episode / bare forward: median {middle:.3f} (quartiles {low:.3f} to {high:.3f})")
    print(f"slicing / evaluating:   median {np.median(slices):.3f}")
    RESULTS.mkdir(exist_ok=True)
    result = {"network": arguments.network, "pairs": len(ratios), "median": middle}
    result["slice_median"] = float(np.median(slices))
    (RESULTS / f"overhead-{arguments.network}.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
