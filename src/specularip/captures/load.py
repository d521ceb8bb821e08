"""A capture's folder as views: what it says of its cameras, and its images as pixels of pinhole cameras.

Each view keeps a size of its own. Images are turned, masked, scaled down and undistorted on the way, where
that is called for, and the notes say so. A plain image of a pinhole camera is kept as it is, bit for bit.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from specularip.cameras import Cameras
from specularip.captures.frames import Capture, Frame, Lens, Split
from specularip.captures.layout import read_capture
from specularip.captures.lenses import distorts, pinhole_of, resized, undistorted
from specularip.captures.mesh import load_body_mesh, points_inside
from specularip.captures.pixels import (
    Header,
    are_inverted,
    check_memory,
    foreground,
    is_turned,
    masked,
    multiplied,
    read_header,
    read_mask,
    read_pixels,
    scaled,
)
from specularip.captures.scene import exact_in_float32
from specularip.captures.views import PosedImages, View
from specularip.errors import UserError, quoted
from specularip.kernels.threads import thread_count

MAX_SIDE = 1600
"""Longest side of a view in pixels, as 3DGS and nerfstudio have it; larger images are scaled down."""


@dataclass(frozen=True)
class _Plan:
    """How an image becomes a view. lens: of the image when it is turned and scaled; pinhole: of the view;
    cut: the share of the image that is not in the view."""

    frame: Frame
    header: Header
    turned: bool
    lens: Lens
    pinhole: Lens
    cut: float

    @property
    def full_size(self) -> tuple[int, int]:
        return self.header.upright if self.turned else (self.header.width, self.header.height)

    @property
    def is_scaled(self) -> bool:
        return self.full_size != (self.lens.width, self.lens.height)


@dataclass(frozen=True)
class _Decoded:
    """pixels [H,W,4] for the plan's lens. own_alpha: the image's own has values below 255; mask_value: of a
    mask of one value, that; None if there is no mask, or one of several values."""

    pixels: np.ndarray
    premultiplied: bool
    own_alpha: bool
    profile_usable: bool
    mask_value: int | None


def load_posed_images(
    folder: str | os.PathLike[str], split: Split = "train", *, max_side: int = MAX_SIDE
) -> PosedImages:
    """Read one split of a capture in any layout (see `layout`). A test or val split that is missing or has no
    frames returns 0 views.

    max_side: larger images are scaled down until their longest side has so many pixels. `notes` lists what
    was assumed and changed: whether colours are premultiplied if the folder does not say (then not), images
    without alpha or mask (then opaque), orientation, masks, scaling, undistortion.

    Raises UserError for folders that `read_capture` refuses; images and masks that are damaged, too small,
    too large or of another shape than their cameras'; lenses that cannot be undistorted; cameras inside the
    mesh of body.npz; images that are all transparent.
    """
    folder = Path(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about metadata that is not used here
        capture = read_capture(folder, split)
        if not capture.frames:
            return PosedImages((), capture.notes)
        viewmats = np.stack([frame.viewmat for frame in capture.frames])
        positions = -np.einsum("vij,vi->vj", viewmats[:, :3, :3], viewmats[:, :3, 3])
        _check_outside(folder, capture, positions)
        placement = exact_in_float32(positions)
        near = placement.inverse().viewmats(torch.from_numpy(viewmats)).float()
        plans = _plans(capture, max_side)
        masks = list(dict.fromkeys(plan.frame.mask for plan in plans if plan.frame.mask is not None))
        inverted = are_inverted(masks)
        views, decoded = [], []
        for plan, viewmat, image in zip(plans, near, _decode(plans, capture, inverted)):
            pixels = torch.from_numpy(image.pixels)
            if distorts(plan.lens):
                pixels = undistorted(pixels, plan.lens)
            views.append(View(_camera(viewmat, plan.pinhole), pixels, image.premultiplied, plan.frame.name))
            decoded.append(replace(image, pixels=np.empty((0, 0, 4), np.uint8)))  # frees those of the lens
    if split == "train" and not any(bool((view.pixels[..., 3] > 127).any()) for view in views):
        hidden = " or hidden by masks" if masks else ""
        raise UserError(
            f"{capture.source}: all images are fully transparent{hidden}: there is nothing to fit"
        )
    notes = (*capture.notes, *_notes(capture, plans, decoded, inverted, max_side))
    return PosedImages(tuple(views), notes, placement)


def _check_outside(folder: Path, capture: Capture, positions: np.ndarray) -> None:
    mesh = load_body_mesh(folder)
    if mesh is None:
        return
    inside = points_inside(positions, mesh[0].numpy(), mesh[1].numpy())
    if inside.any():
        first = capture.frames[int(inside.argmax())].name
        raise UserError(
            f"{capture.source}: the camera of {quoted(first)} is inside the body of {folder / 'body.npz'}: "
            "convert both to the same axes and units, or remove body.npz"
        )


def _plans(capture: Capture, max_side: int) -> list[_Plan]:
    """From headers only: nothing is decoded before it is known that all images can be used and fit the
    memory."""
    headers = {file: read_header(file) for file in dict.fromkeys(frame.image for frame in capture.frames)}
    plans = []
    for frame in capture.frames:
        header = headers[frame.image]
        try:
            turned = is_turned(header, frame.lens.width, frame.lens.height)
            width, height = header.upright if turned else (header.width, header.height)
            lens = resized(frame.lens, width, height)
            pinhole, cut = pinhole_of(lens)
            shrink = max_side / max(pinhole.width, pinhole.height)
            if shrink < 1:
                lens = resized(lens, max(1, round(shrink * width)), max(1, round(shrink * height)))
                pinhole, cut = pinhole_of(lens)
        except UserError as error:
            raise UserError(f"{capture.source}: {quoted(frame.name)}: {error}") from None
        plans.append(_Plan(frame, header, turned, lens, pinhole, cut))
    check_memory(capture.source, [(plan.pinhole.width, plan.pinhole.height) for plan in plans])
    return plans


def _decode(plans: Sequence[_Plan], capture: Capture, inverted: bool) -> Iterator[_Decoded]:
    """In the order of `plans`, on all cores: Pillow and NumPy let other threads run meanwhile."""
    premultiplied = bool(capture.premultiplied)
    pool = ThreadPoolExecutor(thread_count(), thread_name_prefix="specularip-decode")
    try:
        yield from pool.map(lambda plan: _decode_one(plan, premultiplied, inverted), plans)
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_one(plan: _Plan, premultiplied: bool, inverted: bool) -> _Decoded:
    pixels, usable = read_pixels(plan.frame.image, turned=plan.turned)
    own_alpha, mask_value = int(pixels[..., 3].min()) < 255, None
    over_background = plan.frame.mask is not None and not own_alpha
    if plan.frame.mask is not None:
        mask = read_mask(plan.frame.mask, plan.full_size, plan.header, turned=plan.turned)
        mask = 255 - mask if inverted else mask
        mask_value = int(mask[0, 0]) if mask.min() == mask.max() else None
        pixels = masked(pixels, mask, premultiplied and own_alpha)
    if not over_background and (plan.is_scaled or distorts(plan.lens)):
        pixels, premultiplied = pixels if premultiplied else multiplied(pixels), True
    if plan.is_scaled:
        pixels = scaled(pixels, plan.lens.width, plan.lens.height)
    if over_background:
        pixels, premultiplied = foreground(pixels), True
    return _Decoded(pixels, premultiplied, own_alpha, usable, mask_value)


def _camera(viewmat: torch.Tensor, lens: Lens) -> Cameras:
    K = [[lens.fx, 0.0, lens.cx], [0.0, lens.fy, lens.cy], [0.0, 0.0, 1.0]]
    return Cameras(viewmat[None], torch.tensor([K]), lens.width, lens.height)


def _notes(
    capture: Capture, plans: Sequence[_Plan], decoded: Sequence[_Decoded], inverted: bool, max_side: int
) -> list[str]:
    """What was assumed and changed, one line each."""
    total, source = len(plans), capture.source.name

    def where(chosen: Iterable[bool]) -> list[str]:
        return [plan.frame.name for plan, is_chosen in zip(plans, chosen) if is_chosen]

    notes = []
    bare = where(image.own_alpha or plan.frame.mask is not None for plan, image in zip(plans, decoded))
    opaque = total - len(bare)
    if opaque:
        notes.append(
            f"{source}: {_of(opaque, total)} no alpha (or none below 1) and no mask: taken as opaque, so "
            "their background is fitted too; `specularip masks` cuts the person out"
        )
    if capture.premultiplied is None and any(image.own_alpha for image in decoded):
        notes.append(
            f"{source} does not say whether colours are premultiplied: taken as straight alpha, as in "
            'NeRF-synthetic (add "colour": "premultiplied" if they are)'
        )
    if with_masks := where(plan.frame.mask is not None for plan in plans):
        notes.append(f"masks: {_of(len(with_masks), total)} one; what it hides counts as empty")
    if inverted:
        notes.append(
            "the masks are white along the border and dark within: taken as inverted, dark on the subject"
        )
    for value, words in ((0, "black: these images count as empty"), (255, "white: they hide nothing")):
        if found := where(image.mask_value == value for image in decoded):
            notes.append(f"the masks of {_list(found)} are all {words}")
    if turned := where(plan.turned for plan in plans):
        shapes = Counter(plan.full_size for plan in plans if plan.turned).most_common(1)[0][0]
        notes.append(
            f"{_list(turned)}: turned upright to {shapes[0]}x{shapes[1]}, as EXIF says and their cameras "
            "expect"
        )
    if stored := where(plan.header.orientation != 1 and not plan.turned for plan in plans):
        notes.append(
            f"{_list(stored)}: EXIF says to turn them, but their cameras fit them as they are stored, which "
            "is how COLMAP and nerfstudio take them: not turned"
        )
    if unusable := where(not image.profile_usable for image in decoded):
        notes.append(f"{_list(unusable)}: unusable colour profile: taken as sRGB")
    if small := where(plan.is_scaled for plan in plans):
        width, height = max(plan.full_size for plan in plans if plan.is_scaled)
        notes.append(
            f"{_of(len(small), total)} more than {max_side} pixels a side (up to {width}x{height}): scaled "
            "down"
        )
    cuts = [plan.cut for plan in plans if distorts(plan.lens)]
    if cuts:
        models = " and ".join(sorted({plan.lens.model for plan in plans if distorts(plan.lens)}))
        notes.append(
            f"{_of(len(cuts), total)} lens distortion ({models}): undistorted, which cuts "
            f"{sum(cuts) / len(cuts):.1%} of their area at the border"
        )
    return notes


def _of(count: int, total: int) -> str:
    return "the images have" if count == total else f"{count} of {total} images have"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(quoted(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
