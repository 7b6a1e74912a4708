"""One image file, of any kind, as 8-bit RGB or grey."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from amc.errors import DataError
from amc.vision.skipped import UnreadableError

_16_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_ALPHA = ("P", "PA", "LA", "La", "RGBA", "RGBa")
_GREY = ("1", "L", "LA", "La", "I", *_16_BITS)
_FORMATS_OF_16_BITS = ("PNG", "PPM")
"""Whose pixels are 0 to 65535 where Pillow says mode ``I``, which it does for 32 bits, too."""


def decode(file: Path | bytes, name: str, channels: int = 3) -> Image.Image:
    """The image in ``file``, a path or the bytes of one, as :func:`to_8_bits` has it.

    As in torchvision's ``ImageFolder``, an orientation in the EXIF data is not applied: networks
    have been trained on such images.

    Raises :class:`UnreadableError` for a file that is damaged, no image, or of more pixels than
    Pillow considers safe; and :class:`DataError` for pixels of unknown range. Both name the image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, which is not looked at
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as stored:
                stored.load()
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise UnreadableError(
                f"{name}: more than {Image.MAX_IMAGE_PIXELS:,} pixels, which could be an attack on "
                "the memory; store it smaller"
            ) from None
        except Exception as error:  # decoders raise whatever damaged bytes lead them to
            raise UnreadableError(f"{name}: not a readable image: {_reason(error)}") from None
    return to_8_bits(stored, name, channels)


def to_8_bits(image: Image.Image, name: str, channels: int = 3) -> Image.Image:
    """``image`` in mode RGB (3 channels) or L (1 channel).

    16-bit grey is scaled by 1/257, which maps 65535 to 255. Transparency is dropped, in whatever
    way it is stored: colours are those that the file has under it, as torchvision's loader gives
    them. Raises :class:`DataError` for 32-bit integers and floating point, whose range is unknown.
    """
    mode = "RGB" if channels == 3 else "L"
    if image.mode == mode:
        return image
    if image.mode in _16_BITS or (image.mode == "I" and image.format in _FORMATS_OF_16_BITS):
        pixels = np.asarray(image).astype(np.float32) / 257
        image = Image.fromarray(np.round(pixels.clip(0, 255)).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = "floating point" if image.mode == "F" else "32-bit integers"
        raise DataError(
            f"{name}: its pixels are {kind}, whose range is unknown; store images with 8 or 16 "
            "bits a channel"
        )
    elif image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA").convert("RGB")
    elif image.mode != "L" and mode == "L":
        image = image.convert("RGB")  # not every mode converts to grey
    return image.convert(mode)


def is_grey(image: Image.Image) -> bool:
    """Whether it has one channel, beside transparency."""
    return image.mode in _GREY


def _reason(error: Exception) -> str:
    """One line, without the path or the object that Pillow names."""
    text = str(error).partition("\n")[0]
    return "not an image" if "cannot identify" in text else text or type(error).__name__
