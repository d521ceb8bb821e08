"""Masks for a capture without any: a person cut out of each image by the package rembg, written to masks/.

U²-Net (Qin et al. 2020), trained on people. The masks are files that can be looked at and mended, and that
every later command finds; so nothing of this is needed by those who have masks, or alpha.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from specularip.captures.frames import Frame, Split
from specularip.captures.layout import read_capture
from specularip.captures.pixels import is_turned, read_header, read_pixels
from specularip.errors import UserError, first_line
from specularip.files import write_png

MODEL, MEGABYTES = "u2net_human_seg", 168
MASKS = "masks"
Predict = Callable[[Image.Image], np.ndarray]
"""How much of each pixel is person: an RGB image to uint8 [H,W]."""


def frames_without_mask(folder: Path) -> list[Frame]:
    """The frames of all splits, each image once, that have neither a mask nor values of alpha below 1.

    Raises UserError as `read_capture` and `read_pixels` do."""
    found: dict[Path, Frame] = {}
    for split in get_args(Split):
        for frame in read_capture(folder, split).frames:
            if frame.mask is None and int(_pixels(frame)[..., 3].min()) == 255:
                found.setdefault(frame.image, frame)
    return list(found.values())


def cut_out(folder: Path, frame: Frame, predict: Predict) -> tuple[Path, float]:
    """Write the mask of an image. Returns its file, and how much of the image is person, 0 to 1."""
    mask = predict(Image.fromarray(np.ascontiguousarray(_pixels(frame)[..., :3])))
    path = write_png((folder / MASKS / frame.name).with_suffix(".png"), mask)
    return path, float(mask.mean()) / 255


def load_rembg() -> Predict:
    """rembg's network for people, downloaded once. Raises UserError if the package is not installed, or the
    network can be neither found nor downloaded."""
    try:
        import rembg
    except ImportError:
        raise UserError(
            "cutting people out needs the package rembg: pip install 'specularip[background]'"
        ) from None
    try:
        session: Any = rembg.new_session(MODEL)
    except Exception as error:  # pooch, requests and onnxruntime raise all kinds
        raise UserError(
            f"rembg cannot load {MODEL}.onnx, {MEGABYTES} MB ({first_line(error)}): put the file, "
            "from rembg's releases on GitHub, into ~/.u2net, or into the folder that U2NET_HOME names"
        ) from None

    def predict(image: Image.Image) -> np.ndarray:
        with np.errstate(all="ignore"):  # an image of one value is divided by its range
            return np.asarray(session.predict(image)[0].convert("L"))

    return predict


def _pixels(frame: Frame) -> np.ndarray:
    """As the frame's camera has seen them: uint8 [H,W,4]."""
    turned = is_turned(read_header(frame.image), frame.lens.width, frame.lens.height)
    return read_pixels(frame.image, turned=turned)[0]
