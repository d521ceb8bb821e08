"""Training examples for the compact prior: views of dressed people with captions, pose drawings and faces."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from dressing import Dressed, Mannequin
from studio import shade
from torch import Tensor
from wardrobe import VIEWS_OF_LOW_QUALITY, Person, describe, draw_person

from specularip.body.skeleton import draw_skeleton
from specularip.cameras import Cameras, Views, face_camera, sample_views, view_name
from specularip.diffusion.prompts import view_prompt
from specularip.raster import rasterize

SIZE, SUPERSAMPLE = 64, 2
BACKGROUND = 0.6
FRAMING_WEIGHTS = (0.36, 0.22, 0.15, 0.27)


@dataclass
class Examples:
    """images [M,4,S,S] (RGB over grey, alpha) and poses [M,3,S,S] in 0..1; person [M] indexes faces
    [P,3,S,S]; captions [M]."""

    images: Tensor
    poses: Tensor
    person: Tensor
    faces: Tensor
    captions: list[str]
    views: list[Views]
    people: list[Person]


def face_cameras(dressed: Dressed, generator: torch.Generator, turn_deg: float = 14.0) -> list[Cameras]:
    """One frontal camera per person, slightly rotated, that frames the face as photos are cropped."""
    cameras = []
    for middle, unit in zip(dressed.face_center, dressed.face_unit.tolist()):
        turn = ((torch.rand(2, generator=generator) * 2 - 1) * turn_deg).tolist()
        cameras.append(face_camera(middle, unit, SIZE * SUPERSAMPLE, turn[0], 2 + 0.5 * turn[1]))
    return cameras


def render_people(dressed: Dressed, cameras: list[Cameras], background: float = BACKGROUND) -> Tensor:
    """RGB over grey and alpha [P*V,4,S,S] of every person through their own V cameras."""
    eye = torch.stack([c.positions for c in cameras]).to(dressed.points.device)
    colors = shade(
        dressed.points,
        dressed.normals,
        dressed.threads,
        dressed.albedo,
        dressed.material,
        dressed.occlusion,
        eye,
    )
    out = []
    for i, camera in enumerate(cameras):
        camera = camera.to(dressed.points.device)
        image = rasterize(
            dressed.points[i],
            dressed.quats[i],
            dressed.scales[i],
            dressed.opacity[i],
            colors[i],
            camera.viewmats,
            camera.Ks,
            camera.width,
            camera.height,
            torch.full((3,), background, device=eye.device),
        )
        out.append(torch.cat([image.image, image.alpha], -1))
    return F.avg_pool2d(torch.cat(out).permute(0, 3, 1, 2), SUPERSAMPLE).clamp(0, 1)


class Photographer:
    """Generates random people, dresses and renders them. Deterministic for a seed."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.mannequin = Mannequin(device)
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def shoot(self, people: int, views: int) -> Examples:
        return self.shoot_people([draw_person(self.rng) for _ in range(people)], views)

    @torch.no_grad()
    def shoot_people(self, persons: list[Person], views: int) -> Examples:
        dressed = self.mannequin.dress(persons)
        size = SIZE * SUPERSAMPLE
        sampled = [
            sample_views(
                views, size=size, body_height=float(h), weights=FRAMING_WEIGHTS, generator=self.generator
            )
            for h in dressed.heights.cpu()
        ]
        images = render_people(dressed, [v.cameras for v in sampled])
        faces = render_people(dressed, face_cameras(dressed, self.generator))[:, :3]
        poses = self.poses(dressed, [v.cameras for v in sampled])
        captions = []
        for person, v in zip(persons, sampled):
            for framing, azimuth, elevation in zip(
                v.framings, v.azimuth_deg.tolist(), v.elevation_deg.tolist()
            ):
                captions.append(
                    view_prompt(describe(person, self.rng), framing.name, view_name(azimuth, elevation))
                )
        images, captions = self.spoil(images, captions)
        person = torch.arange(len(persons), device=self.device).repeat_interleave(views)
        return Examples(images, poses, person, faces, captions, sampled, persons)

    def poses(self, dressed: Dressed, cameras: list[Cameras]) -> Tensor:
        views = len(cameras[0])
        joined = Cameras(
            torch.cat([c.viewmats for c in cameras]).to(self.device),
            torch.cat([c.Ks for c in cameras]).to(self.device),
            cameras[0].width,
            cameras[0].height,
        ).resized(SIZE, SIZE)
        head = self.mannequin.model.head(dressed.vertices)
        repeat = lambda x: x.repeat_interleave(views, 0)  # noqa: E731
        head = type(head)(**{k: repeat(v) for k, v in vars(head).items()})
        return draw_skeleton(repeat(dressed.keypoints), head, joined, SIZE)

    def spoil(self, images: Tensor, captions: list[str], share: float = 0.03) -> tuple[Tensor, list[str]]:
        """Degrades a few images and says so in the caption, which gives negative prompts a meaning."""
        images = images.clone()
        for i, caption in enumerate(captions):
            if self.rng.random() > share:
                continue
            word = self.rng.choice(VIEWS_OF_LOW_QUALITY)
            picture = images[i : i + 1]
            if "blurry" in word or word == "low quality":
                small = self.rng.choice((16, 20, 24))
                picture = F.interpolate(
                    F.interpolate(picture, size=small, mode="area"), size=SIZE, mode="bilinear"
                )
            if "noisy" in word or word == "low quality":
                picture = picture + 0.08 * torch.randn(picture.shape, generator=self.generator).to(
                    self.device
                )
            images[i] = picture[0].clamp(0, 1)
            captions[i] = word if self.rng.random() < 0.5 else f"{caption}, {word}"
        return images, captions


def disturb_faces(faces: Tensor) -> Tensor:
    """Face crops [B,3,S,S], augmented as photos differ from renders: light, cast, crop, blur, noise,
    background."""
    b, dev = len(faces), faces.device
    r = lambda *shape: torch.rand(b, *shape, device=dev)  # noqa: E731
    scale, shift = 0.88 + 0.24 * r(), (r(2) - 0.5) * 0.16
    angle = (r() - 0.5) * 0.3
    theta = torch.stack(
        [
            torch.stack([scale * angle.cos(), -scale * angle.sin(), shift[:, 0]], -1),
            torch.stack([scale * angle.sin(), scale * angle.cos(), shift[:, 1]], -1),
        ],
        1,
    )
    flip = (r() < 0.5).float() * 2 - 1
    theta[:, :, 0] *= flip[:, None]
    out = F.grid_sample(
        faces,
        F.affine_grid(theta, list(faces.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )
    # Light from one side, exposure and colour cast, all mild: the identity must encode tones.
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, faces.shape[-2], device=dev),
        torch.linspace(-1, 1, faces.shape[-1], device=dev),
        indexing="ij",
    )
    side = r() * 6.283
    ramp = 1 + 0.18 * r()[:, None, None] * (side.cos()[:, None, None] * x + side.sin()[:, None, None] * y)
    gain = (0.90 + 0.2 * r())[:, None, None, None] * (0.96 + 0.08 * r(3))[:, :, None, None]
    out = out * ramp[:, None] * gain
    # The background of a photo is arbitrary.
    corner = (((x / 0.86) ** 2 + ((y + 0.05) / 1.05) ** 2) > 1).float()
    out = out + corner * (r() < 0.6).float()[:, None, None, None] * (r(3)[:, :, None, None] - out) * 0.9
    small = F.avg_pool2d(out, 3, 1, 1)
    out = torch.where((r() < 0.4)[:, None, None, None], small, out)
    return (out + 0.02 * torch.randn_like(out)).clamp(0, 1)
