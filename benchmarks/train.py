"""Train one of amc's own networks from random weights, for benchmarks that want more networks.

SGD with a linear warm-up and a cosine, cross-entropy, the augmentation of finetuning; with
``--teacher`` a trained network's softened outputs beside the labels. The weights of the last epoch
are saved after each one.

    python benchmarks/train.py --network vgg11_bn --images DIR --search-val FILE --out W
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import add_images, data_config
from safetensors.torch import save_file

from amc.config import FinetuneConfig, ModelConfig
from amc.models.factory import build_model
from amc.task import Epoch
from amc.training.finetune import finetune
from amc.vision.inference import accuracy
from amc.vision.sources import load_data


def main() -> None:
    """Train, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", required=True, help="one of amc's own, amc:NAME")
    add_images(parser)
    parser.add_argument("--out", type=Path, required=True, help="the file of weights")
    parser.add_argument("--teacher", help="NAME=WEIGHTS, one of amc's own networks")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--channels-last",
        action="store_true",
        help="the layout of memory in which depthwise convolutions are faster on a CPU",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_data(data_config(arguments))
    torch.manual_seed(arguments.seed)
    model = build_model(ModelConfig(spec=f"amc:{arguments.network}"))
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    teacher = None
    if arguments.teacher:
        name, weights = arguments.teacher.split("=", 1)
        teacher = build_model(ModelConfig(spec=f"amc:{name}", weights=weights))
    recipe = FinetuneConfig(
        epochs=arguments.epochs,
        lr=arguments.lr,
        distill_weight=0.0 if teacher is None else 0.7,
        seed=arguments.seed,
    )

    def keep(epoch: Epoch) -> None:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, arguments.out)
        print(
            f"epoch {epoch.number}: loss {epoch.train_loss:.3f}, test {epoch.test_accuracy:.2%}, "
            f"{epoch.seconds:.0f} s",
            flush=True,
        )

    finetune(model, data, recipe, teacher=teacher, device=arguments.device, on_epoch=keep)
    val, test = (
        accuracy(model, data, split, device=arguments.device)
        for split in (data.search_val, data.test)
    )
    print(f"search-val {val:.2%}, test {test:.2%}")


if __name__ == "__main__":
    main()
