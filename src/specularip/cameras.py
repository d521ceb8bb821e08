"""Batched pinhole cameras, orbits around the body, and the sampler of training views.

World: metres, right-handed, z up, the body faces -y, the origin at half the body's height.
Cameras: OpenCV axes (x right, y down, z forward), pixel centres at +0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Angles = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras that share one image size.

    viewmats: [B,4,4] world-to-camera. Ks: [B,3,3] intrinsics in pixels.
    """

    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.viewmats.ndim != 3 or self.viewmats.shape[1:] != (4, 4):
            raise ValueError(f"viewmats must be [B,4,4], got {list(self.viewmats.shape)}")
        if self.Ks.shape != (len(self.viewmats), 3, 3):
            raise ValueError(f"Ks must be [{len(self.viewmats)},3,3], got {list(self.Ks.shape)}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"image size must be at least 1x1, got {self.width}x{self.height}")

    def __len__(self) -> int:
        return len(self.viewmats)

    def __getitem__(self, index: int | slice | Tensor | list[int]) -> Cameras:
        if isinstance(index, int):  # views of the tensors: no kernel launch
            return Cameras(self.viewmats[index][None], self.Ks[index][None], self.width, self.height)
        return Cameras(self.viewmats[index], self.Ks[index], self.width, self.height)

    @property
    def positions(self) -> Tensor:
        """Camera centres in the world, [B,3]."""
        rotation, translation = self.viewmats[:, :3, :3], self.viewmats[:, :3, 3]
        return -(rotation * translation[..., None]).sum(1)

    def to(self, device: torch.device | str) -> Cameras:
        return Cameras(self.viewmats.to(device), self.Ks.to(device), self.width, self.height)

    @staticmethod
    def joined(parts: Sequence[Cameras]) -> Cameras:
        """The cameras of all `parts`, which have images of one size."""
        viewmats, Ks = (torch.cat([getattr(part, name) for part in parts]) for name in ("viewmats", "Ks"))
        return Cameras(viewmats, Ks, parts[0].width, parts[0].height)

    def resized(self, width: int, height: int) -> Cameras:
        """The same views at another resolution."""
        scale = self.Ks.new_tensor([width / self.width, height / self.height, 1.0])
        return Cameras(self.viewmats, self.Ks * scale[:, None], width, height)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel positions [B,...,2] and depths [B,...] of world points [...,3] or [B,...,3].

        Points on or behind the camera plane get a depth <= 0; their pixel position is undefined.
        """
        shape = points.shape[:-1] if points.ndim == 2 else points.shape[1:-1]
        flat = points.reshape(-1, 3) if points.ndim == 2 else points.reshape(len(self), -1, 3)
        view = flat @ self.viewmats[:, :3, :3].transpose(1, 2) + self.viewmats[:, None, :3, 3]
        depth = view[..., 2]
        pixel = view @ self.Ks.transpose(1, 2)
        xy = pixel[..., :2] / torch.where(depth.abs() < 1e-6, torch.full_like(depth, 1e-6), depth)[..., None]
        return xy.reshape(len(self), *shape, 2), depth.reshape(len(self), *shape)

    @staticmethod
    def orbit(
        azimuth_deg: Angles,
        elevation_deg: Angles = 5.0,
        distance: Angles = 2.2,
        fov_y_deg: Angles = 45.0,
        width: int = 512,
        height: int = 512,
        target: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    ) -> Cameras:
        """Cameras on a sphere around `target`, facing it.

        Azimuth 0 is in front of the body (on -y), 90 at its left (on +x); elevation is the angle above the
        horizon. Angles in degrees, distance in metres. Scalars, sequences and tensors broadcast. `target` is
        [3] or [B,3]. Raises ValueError for values out of range.
        """
        azimuth, elevation, radius, fov = torch.broadcast_tensors(
            *(
                torch.as_tensor(a, dtype=torch.float32).reshape(-1)
                for a in (azimuth_deg, elevation_deg, distance, fov_y_deg)
            )
        )
        if bool((elevation.abs() >= 90).any()):
            raise ValueError("elevation_deg must lie strictly between -90 and 90")
        if bool((radius <= 0).any()) or bool(((fov <= 0) | (fov >= 180)).any()):
            raise ValueError("distance must be positive and fov_y_deg between 0 and 180")
        azimuth, elevation, fov = torch.deg2rad(azimuth), torch.deg2rad(elevation), torch.deg2rad(fov)
        outward = torch.stack(
            [elevation.cos() * azimuth.sin(), -elevation.cos() * azimuth.cos(), elevation.sin()], -1
        )
        center = torch.as_tensor(target, dtype=torch.float32).expand(len(azimuth), 3)
        position = center + radius[:, None] * outward
        forward = -outward
        right = torch.nn.functional.normalize(
            torch.linalg.cross(forward, forward.new_tensor([0, 0, 1.0]).expand_as(forward)), dim=-1
        )
        down = torch.linalg.cross(forward, right)
        viewmats = torch.eye(4).repeat(len(azimuth), 1, 1)
        viewmats[:, :3, :3] = torch.stack([right, down, forward], 1)
        viewmats[:, :3, 3] = -(viewmats[:, :3, :3] @ position[..., None])[..., 0]
        focal = 0.5 * height / torch.tan(0.5 * fov)
        Ks = torch.zeros(len(azimuth), 3, 3)
        Ks[:, 0, 0] = Ks[:, 1, 1] = focal
        Ks[:, 0, 2], Ks[:, 1, 2], Ks[:, 2, 2] = width / 2, height / 2, 1.0
        return Cameras(viewmats, Ks, width, height)


@dataclass(frozen=True)
class Framing:
    """One kind of training view. Lengths are in body heights (z = 0: mid-height, 0.5: crown).

    elevation_deg is a range; distance is jittered by a relative ±`jitter`.
    """

    name: str
    target_z: float
    distance: float
    fov_y_deg: float = 45.0
    elevation_deg: tuple[float, float] = (-12.0, 32.0)
    jitter: float = 0.08


FULL = Framing("full", 0.0, 1.42)
UPPER = Framing("upper", 0.26, 0.80)
LOWER = Framing("lower", -0.24, 0.80)
HEAD = Framing("head", 0.435, 0.36, elevation_deg=(-12.0, 25.0), jitter=0.10)
FRAMINGS = (FULL, UPPER, LOWER, HEAD)


def face_camera(
    eye_middle: Tensor, eye_distance: float, size: int, azimuth_deg: float = 0.0, elevation_deg: float = 0.0
) -> Cameras:
    """One camera that frames a head as `align_face` crops a photo: eyes at 42 % of the height, 3.8 eye
    distances from edge to edge. eye_middle [3]: the point between the eyes; eye_distance in metres."""
    fov_y_deg, span = 16.0, 3.8 * eye_distance
    target = eye_middle.cpu() - torch.tensor([0.0, 0.0, 0.08 * span])
    distance = 0.5 * span / math.tan(math.radians(fov_y_deg / 2))
    return Cameras.orbit(azimuth_deg, elevation_deg, distance, fov_y_deg, size, size, target)


@dataclass(frozen=True)
class Views:
    """Training views: the cameras, their azimuths and elevations [B], the framing of each, and the point
    [B,3] that each camera looks at."""

    cameras: Cameras
    azimuth_deg: Tensor
    elevation_deg: Tensor
    framings: list[Framing]
    targets: Tensor

    @property
    def distances(self) -> Tensor:
        """Distance [B] of each camera from its target."""
        return (self.cameras.positions - self.targets).norm(dim=-1)


def sample_views(
    count: int,
    *,
    size: int,
    body_height: float,
    weights: Sequence[float],
    generator: torch.Generator,
    back_head_share: float = 0.3,
) -> Views:
    """Draw `count` views: framings with probabilities `weights` (in the order of FRAMINGS), azimuths all
    around.

    Head close-ups show the back of the head with probability `back_head_share` and the face otherwise,
    because the face needs more detail.
    """
    picks = torch.multinomial(
        torch.tensor(weights, dtype=torch.float32), count, replacement=True, generator=generator
    ).tolist()
    unit = torch.rand(count, 4, generator=generator)
    framings = [FRAMINGS[i] for i in picks]
    # Stratified azimuths: one in each of `count` equal sectors, so that a small batch covers all sides.
    order = torch.randperm(count, generator=generator)
    azimuth = ((order + unit[:, 0]) / count * 360.0 + 180.0) % 360.0 - 180.0
    for i, framing in enumerate(framings):
        if framing is HEAD:
            side = 180.0 if float(unit[i, 3]) < back_head_share else 0.0
            azimuth[i] = (side + (float(unit[i, 0]) - 0.5) * 190.0 + 180.0) % 360.0 - 180.0
    low = torch.tensor([f.elevation_deg[0] for f in framings])
    high = torch.tensor([f.elevation_deg[1] for f in framings])
    elevation = low + (high - low) * unit[:, 1]
    distance = torch.tensor(
        [f.distance * (1 + f.jitter * (2 * float(u) - 1)) for f, u in zip(framings, unit[:, 2])]
    )
    target = torch.zeros(count, 3)
    target[:, 2] = torch.tensor([f.target_z for f in framings]) * body_height
    fov = torch.tensor([f.fov_y_deg for f in framings])
    cameras = Cameras.orbit(azimuth, elevation, distance * body_height, fov, size, size, target)
    return Views(cameras, azimuth, elevation, framings, target)


def view_name(azimuth_deg: float, elevation_deg: float, overhead_deg: float = 60.0) -> str:
    """The view's name in view-dependent prompts: front, side, back or overhead."""
    if elevation_deg >= overhead_deg:
        return "overhead"
    azimuth = abs((azimuth_deg + 180.0) % 360.0 - 180.0)
    return "front" if azimuth <= 50 else "back" if azimuth >= 130 else "side"


def orbit_views(
    count: int, framing: Framing, *, size: int, body_height: float, elevation_deg: float
) -> Views:
    """`count` views of one framing, evenly spaced around the body, the first from the front."""
    azimuth = (torch.arange(count) * 360.0 / count + 180.0) % 360.0 - 180.0
    elevation = torch.full((count,), float(elevation_deg))
    target = torch.tensor([0.0, 0.0, framing.target_z * body_height])
    distance = framing.distance * body_height
    cameras = Cameras.orbit(azimuth, elevation, distance, framing.fov_y_deg, size, size, target)
    return Views(cameras, azimuth, elevation, [framing] * count, target.expand(count, 3))


def visible_face(azimuth_deg: Tensor) -> Tensor:
    """Visibility of the face by azimuth: 1 in front, 0 beyond 110°, linear in between."""
    azimuth = ((azimuth_deg + 180.0) % 360.0 - 180.0).abs()
    return torch.clamp((110.0 - azimuth) / 60.0, 0.0, 1.0)
