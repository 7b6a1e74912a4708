"""STUB"""

import torch
from torch import nn
from torch.nn import functional


class Teaching(nn.Module):
    def __init__(self, student, teacher, example, config, autocast):
        super().__init__()
        self._t = [teacher]
        self.a = autocast

    def close(self):
        pass

    def losses(self, logits, images, labels, T):
        with torch.no_grad(), self.a():
            t = self._t[0](images).float()
        return {
            "kd": T
            * T
            * functional.kl_div(
                functional.log_softmax(logits / T, 1),
                functional.log_softmax(t / T, 1),
                reduction="batchmean",
                log_target=True,
            )
        }
