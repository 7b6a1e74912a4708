"""Changes of training images: draws by hand, in parts as in one, whatever the image."""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from amc.errors import ConfigError
from amc.registry import AUGMENTATIONS
from amc.training.augmentation import Augmentation, Mixing
from amc.training.augmentation.base import Part
from amc.training.augmentation.each_image import EachImage
from amc.vision.data import ImageData, Split


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int, channels: int, height: int, width: int) -> Tensor:
    """Random pixels, none black."""
    shape = (count, channels, height, width)
    return torch.randint(1, 256, shape, generator=seeded(9)).to(torch.uint8)


def data_of(images: Tensor, crop_padding: int = 0, flip: bool = False) -> ImageData:
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    values = (0.5,) * images.shape[1]
    return ImageData("test", ("a", "b"), split, split, split, values, values, crop_padding, flip)


def test_the_data_sets_own_changes_are_drawn_as_ever() -> None:
    images = pictures(20, 3, 8, 6)
    data = data_of(images, crop_padding=2, flip=True)
    out = Augmentation(data, None)(images, seeded(5), epoch=1, total=20)
    draws = seeded(5)
    down, right = torch.randint(5, (2, 20), generator=draws).tolist()
    mirrored = torch.randint(2, (20, 1, 1, 1), generator=draws).flatten().tolist()
    for i, image in enumerate(images):
        padded = functional.pad(image, (2, 2, 2, 2))
        expected = padded[:, down[i] : down[i] + 8, right[i] : right[i] + 6]
        assert torch.equal(out[i], expected.flip(2) if mirrored[i] else expected)
    assert torch.equal(out, data.augment(images, seeded(5)))
    untouched = Augmentation(data_of(images), None)(images, seeded(5), epoch=1, total=20)
    assert torch.equal(untouched, images)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 12)], ids=["grey", "colour"])
@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_parts_of_a_batch_change_as_the_whole(name: str, shape: tuple[int, int, int]) -> None:
    # The same picture throughout: what differs was drawn.
    images = pictures(1, *shape).repeat(12, 1, 1, 1)
    change = Augmentation(data_of(images), (name, "flip"))
    indices = torch.arange(12)
    before = torch.random.get_rng_state()
    whole = change(images, seeded(3), epoch=2, total=12, indices=indices)
    parts = [
        change(
            images[first:last],
            seeded(3),
            epoch=2,
            total=12,
            first=first,
            indices=indices[first:last],
        )
        for first, last in ((0, 5), (5, 12))
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
    kinds = {one.numpy().tobytes() for one in whole}
    assert len(kinds) == 2 if name in ("none", "flip", "alternating-flip") else len(kinds) > 4
    assert not torch.equal(change(images, seeded(4), epoch=2, total=12, indices=indices), whole)


def test_a_crop_that_is_asked_for_pads_by_an_eighth() -> None:
    image = pictures(1, 1, 16, 16)
    crops = {}
    padded = functional.pad(image, (2, 2, 2, 2))[0]
    for down in range(5):
        for right in range(5):
            crop = padded[:, down : down + 16, right : right + 16].contiguous()
            crops[crop.numpy().tobytes()] = (down, right)
    images = image.repeat(1000, 1, 1, 1)
    out = Augmentation(data_of(images), ("crop",))(images, seeded(), epoch=1, total=1000)
    drawn = Counter(crops[one.contiguous().numpy().tobytes()] for one in out)
    # 25 outcomes of 40 each; five standard deviations are 31.
    assert len(drawn) == 25
    assert all(abs(count - 40) < 31 for count in drawn.values())


def test_alternating_flips_show_both_sides_in_two_epochs() -> None:
    images = pictures(400, 1, 4, 4)
    change = Augmentation(data_of(images), ("alternating-flip",))

    def mirrored(epoch: int, order: Tensor, seed: int) -> Tensor:
        out = change(images[order], seeded(seed), epoch=epoch, total=400, indices=order)
        same = (out == images[order]).flatten(1).all(1)
        assert ((out.flip(3) == images[order]).flatten(1).all(1) | same).all()
        return ~same[order.argsort()]

    shuffled = torch.randperm(400, generator=seeded(1))
    first = mirrored(1, torch.arange(400), seed=1)
    assert 150 < int(first.sum()) < 250  # five standard deviations
    assert torch.equal(mirrored(2, shuffled, seed=2), ~first)
    assert torch.equal(mirrored(3, shuffled, seed=3), first)


def test_changes_that_do_not_suit_the_images_are_refused() -> None:
    images = pictures(4, 2, 8, 8)
    for name in ("colour", "randaugment"):
        with pytest.raises(ConfigError, match="1 or 3 channels, these have 2; take"):
            Augmentation(data_of(images), (name,))
    for wrong, what in ((lambda x: x[:, 1:], r"torch.uint8 \(2, 7, 8\)"), (str, "str")):
        with pytest.raises(ConfigError, match=f"'mine' made {what} of an image; it must stay"):
            EachImage("mine", wrong)(images, seeded(), Part(4, 0, 1))


# -- mixing --------------------------------------------------------------------------------------


def batch() -> tuple[Tensor, Tensor]:
    generator = seeded(7)
    images = torch.randn(6, 3, 8, 8, generator=generator)
    return images, torch.tensor([0, 1, 2, 3, 1, 0])


def weight_of_own(mixed: Tensor, labels: Tensor) -> float:
    """The first image's label is 0, and that of the one before it, the last, too: so the second."""
    weight = mixed[1, 1].item()
    own, other = functional.one_hot(labels, 4).float(), functional.one_hot(labels.roll(1), 4)
    torch.testing.assert_close(mixed, weight * own + (1 - weight) * other)
    return weight


def test_cutmix_weighs_labels_by_area() -> None:
    images, labels = batch()
    for seed in range(5):
        mixed, soft = Mixing((1.0, 0.0), 4)(images, labels, seeded(seed))
        own, other = mixed == images, mixed == images.roll(1, 0)
        assert (own | other).all()
        where = own[0, 0]
        assert torch.equal(own, where.expand_as(own))  # the same rectangle everywhere
        assert weight_of_own(soft, labels) == pytest.approx(where.float().mean().item())


def test_mixup_weighs_images_as_labels() -> None:
    images, labels = batch()
    mixed, soft = Mixing((0.0, 1.0), 4)(images, labels, seeded(2))
    weight = weight_of_own(soft, labels)
    assert 0 < weight < 1
    torch.testing.assert_close(mixed, weight * images + (1 - weight) * images.roll(1, 0))


def test_each_kind_gets_its_share_of_the_batches() -> None:
    images, labels = batch()
    generator, mixing = seeded(), Mixing((0.5, 0.2), 4)
    before, kinds = torch.random.get_rng_state(), Counter[str]()
    for _ in range(400):
        mixed, soft = mixing(images, labels, generator)
        if soft is labels:
            kinds["none"] += 1
        else:
            kinds["cut" if (mixed == images)[0].any() or soft[1, 1] == 0 else "up"] += 1
    assert torch.equal(torch.random.get_rng_state(), before)
    # Five standard deviations are 50, 40 and 46 batches. A MixUp of weight 1 looks like a cut.
    assert kinds["cut"] == pytest.approx(200, abs=55)
    assert kinds["up"] == pytest.approx(80, abs=45)
    assert kinds["none"] == pytest.approx(120, abs=46)


def test_without_shares_nothing_is_drawn() -> None:
    images, labels = batch()
    generator = seeded()
    before = generator.get_state()
    mixed, same = Mixing((0.0, 0.0), 4)(images, labels, generator)
    assert mixed is images
    assert same is labels
    assert torch.equal(generator.get_state(), before)
