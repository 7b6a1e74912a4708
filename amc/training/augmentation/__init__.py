"""Changes of training images: uint8 to uint8, drawn from one seeded generator; and their mixing."""

from amc.training.augmentation.augmentation import Augmentation
from amc.training.augmentation.mixing import Mixing

__all__ = ["Augmentation", "Mixing"]
