"""Images and their cameras, which may differ in size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from specularip.cameras import Cameras
from specularip.placement import Placement


@dataclass(frozen=True)
class View:
    """One image and its camera.

    camera: of this image, with its size. pixels [H,W,4]: RGB and alpha, uint8, or float32 in 0..1; sRGB
    values. premultiplied: whether RGB is multiplied by alpha. name: of the file, relative to its folder.
    """

    camera: Cameras
    pixels: Tensor
    premultiplied: bool = True
    name: str = ""

    @property
    def image(self) -> Tensor:
        """[H,W,3] float32 in 0..1, sRGB values, premultiplied by alpha on black."""
        return self.image_on(self.pixels.device)

    @property
    def alpha(self) -> Tensor:
        """[H,W,1] float32 in 0..1."""
        return as_float(self.pixels[..., 3:])

    def image_on(self, device: torch.device) -> Tensor:
        """`image`, on this device; bytes are sent, not floats."""
        pixels = self.pixels.to(device)
        image = as_float(pixels[..., :3])
        return image if self.premultiplied else image * as_float(pixels[..., 3:])

    def to(self, device: torch.device | str, *, pixels: bool = True) -> View:
        """A copy on `device`; without `pixels`, only its camera is there."""
        moved = self.pixels.to(device) if pixels else self.pixels
        return replace(self, camera=self.camera.to(device), pixels=moved)


@dataclass(frozen=True)
class PosedImages:
    """The views of a split, in the order of the file. notes: assumptions made, one line each, for the
    user. placement: from the world that the cameras are in to that of the files."""

    views: tuple[View, ...]
    notes: tuple[str, ...] = ()
    placement: Placement = field(default_factory=Placement.identity)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> View:
        return self.views[index]

    def __iter__(self) -> Iterator[View]:
        return iter(self.views)

    def select(self, indices: Sequence[int]) -> PosedImages:
        """The views at `indices`, in that order: `posed.select(range(0, len(posed), 3))` is every third."""
        return replace(self, views=tuple(self.views[index] for index in indices))

    def to(self, device: torch.device | str, *, pixels: bool = True) -> PosedImages:
        """Copies on `device`; see `View.to`."""
        return replace(self, views=tuple(view.to(device, pixels=pixels) for view in self.views))

    def placed(self, placement: Placement | None) -> PosedImages:
        """The views in another world, from which `placement` leads to that of the files (None: the files'
        own); the same object where that is so already."""
        placement = placement or Placement.identity()
        if placement.same_as(self.placement):
            return self
        move = placement.inverse() @ self.placement
        views = tuple(replace(view, camera=move.cameras(view.camera)) for view in self.views)
        return replace(self, views=views, placement=placement)

    @property
    def positions(self) -> Tensor:
        """Camera centres in the world, [V,3]."""
        return torch.cat([view.camera.positions for view in self.views])

    @property
    def nbytes(self) -> int:
        """Size of all pixels."""
        return sum(view.pixels.nbytes for view in self.views)

    @staticmethod
    def of(cameras: Cameras, images: Tensor, alphas: Tensor) -> PosedImages:
        """Rendered views: images [V,H,W,3] in 0..1, premultiplied, and alphas [V,H,W,1]."""
        pixels = torch.cat([images, alphas], -1)
        return PosedImages(tuple(View(cameras[view], pixels[view]) for view in range(len(cameras))))


def as_float(pixels: Tensor) -> Tensor:
    """Pixels as float32 in 0..1."""
    return pixels if pixels.is_floating_point() else pixels.float() * (1 / 255)
