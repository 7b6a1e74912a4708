"""Images of every kind, against what was written into the file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import default_loader

from amc.errors import DataError
from amc.vision.decoding import decode
from amc.vision.skipped import UnreadableError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def pixels(file: Path | bytes, channels: int = 3) -> np.ndarray:
    return np.asarray(decode(file, file.name if isinstance(file, Path) else "bytes", channels))


def saved(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_16_bit_grey_is_scaled_to_8_bits(tmp_path: Path, name: str) -> None:
    deep = RNG.integers(0, 65536, (6, 5)).astype(np.uint16)
    deep[0, :3] = 0, 65535, 257
    file = saved(tmp_path, Image.fromarray(deep), name)
    expected = np.round(deep / 257).astype(np.uint8)
    assert np.array_equal(pixels(file), np.stack([expected] * 3, axis=2))
    assert np.array_equal(pixels(file, channels=1), expected)


def test_transparency_is_dropped_however_it_is_stored(tmp_path: Path) -> None:
    alpha = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
    rgba = Image.fromarray(np.dstack([COLOURS, alpha]), "RGBA")
    assert np.array_equal(pixels(saved(tmp_path, rgba, "rgba.png")), COLOURS)
    la = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(alpha)))
    assert np.array_equal(pixels(saved(tmp_path, la, "la.png")), np.stack([GREY] * 3, axis=2))
    table = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    palette = Image.frombytes("P", (5, 6), GREY.tobytes())
    palette.putpalette(table.tobytes())
    file = saved(tmp_path, palette, "p.png", transparency=bytes(range(256)))
    with Image.open(file) as stored:
        assert stored.info["transparency"] == bytes(range(256))
    assert np.array_equal(pixels(file), table[GREY])
    file = saved(tmp_path, Image.fromarray(GREY), "key.png", transparency=int(GREY[0, 0]))
    assert np.array_equal(pixels(file), np.stack([GREY] * 3, axis=2))


def test_other_modes_are_as_torchvision_has_them(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter: not applied
    files = [
        saved(tmp_path, Image.fromarray(GREY > 127), "bits.png"),
        saved(tmp_path, Image.fromarray(COLOURS).convert("CMYK"), "cmyk.tif"),
        saved(tmp_path, Image.fromarray(COLOURS), "turned.jpg", exif=turned),
        saved(tmp_path, Image.fromarray(COLOURS).quantize(7), "palette.gif"),
    ]
    for file in files:
        assert np.array_equal(pixels(file), np.asarray(default_loader(str(file)))), file.name
        assert np.array_equal(pixels(file.read_bytes()), pixels(file))
    assert set(np.unique(pixels(files[0]))) == {0, 255}


@pytest.mark.parametrize(("dtype", "words"), [("float32", "floating point"), ("int32", "32-bit")])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, dtype: str, words: str) -> None:
    file = saved(tmp_path, Image.fromarray(GREY.astype(dtype)), "wide.tif")
    with pytest.raises(DataError, match=rf"wide\.tif: .*{words}") as caught:
        pixels(file)
    assert not isinstance(caught.value, UnreadableError)  # all others will be so, too


def test_damaged_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for name in ("whole.png", "whole.jpg", "whole.tif"):
        whole = saved(tmp_path, noise, name).read_bytes()
        for part in (whole[: len(whole) // 2], whole[:20], b"", b"not an image"):
            file = tmp_path / f"cut-{name}"
            file.write_bytes(part)
            with pytest.raises(UnreadableError, match=rf"cut-{name}: not a readable image"):
                pixels(file)
    with pytest.raises(UnreadableError, match="gone"):
        pixels(tmp_path / "gone.png")
    for limit in (3000, 1000):  # Pillow warns from the limit on, and raises from its double on
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UnreadableError, match=rf"whole\.png: more than {limit:,} pixels"):
            pixels(tmp_path / "whole.png")
