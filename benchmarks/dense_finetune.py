"""Train the dense network further with the recovery recipe, itself as teacher: the fair baseline.

A pruned network that was finetuned should be compared with a dense one that had the same training,
not with the checkpoint. Appends one JSON line to ``--out``, and saves the weights beside it.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from amc.config import DataConfig, FinetuneConfig, ModelConfig
from amc.data import load_data
from amc.evaluate import accuracy
from amc.finetune import Epoch, finetune
from amc.models import build_model


def main() -> None:
    """Parse the command line, train, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--images", required=True, help="folder with train/ and test/")
    parser.add_argument("--val-list", required=True, help="file of search-val paths")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file")
    arguments = parser.parse_args()

    data = load_data(
        DataConfig(spec=f"imagefolder:{arguments.images}", search_val=arguments.val_list),
        progress=False,
    )
    model = build_model(ModelConfig(spec=f"amc:{arguments.network}", weights=arguments.weights))
    config = FinetuneConfig(epochs=arguments.epochs, seed=arguments.seed)
    before = accuracy(model, data, data.test)
    print(f"{arguments.network} before: test {before:.4f}", flush=True)

    def report(epoch: Epoch) -> None:
        print(
            f"epoch {epoch.number:3d}  loss {epoch.train_loss:.4f}  test {epoch.test_accuracy:.4f}"
            f"  lr {epoch.lr:.4f}  {epoch.seconds:.0f} s",
            flush=True,
        )

    start = time.perf_counter()
    history = finetune(model, data, config, teacher=copy.deepcopy(model), on_epoch=report)
    result = {
        "network": arguments.network,
        "recipe": config.model_dump(),
        "test_before": before,
        "test_after": history[-1].test_accuracy if history else before,
        "search_val_after": accuracy(model, data, data.search_val),
        "seconds": time.perf_counter() - start,
        "epochs": [asdict(epoch) for epoch in history],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("a") as lines:
        lines.write(json.dumps(result) + "\n")
    weights = arguments.out.parent / f"{arguments.network}-seed{arguments.seed}.safetensors"
    save_file(model.state_dict(), weights)


if __name__ == "__main__":
    main()
