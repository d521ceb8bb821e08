"""Training examples for the compact prior: views of dressed people with captions, body maps and faces."""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from assets import Assets
from captions import describe
from dressing import PersonMesh, dress
from mesh_render import Renderer
from people import Person, draw_person
from safetensors.torch import save_file
from torch import Tensor

from specularip.cameras import Cameras, Views, face_camera, sample_views, view_name
from specularip.diffusion.prompts import view_prompt
from specularip.faces.alignment import framed_by_hair
from specularip.stages.view_start import ELEVATION_DEG, ORBITS

SIZE = 256
MAP_SIZE = 64
FACE_SIZE = 64
FRAMING_WEIGHTS = (0.44, 0.19, 0.13, 0.24)
CAPTIONS = 3
"""Sentences about each person."""
ORBIT_SHARE = 0.5
"""Share of the people who are seen from about the sides of `ORBITS`, as when the prior is used."""
JITTER_DEG, JITTER_DISTANCE = 5.0, 0.04
SHARD = 32
"""People in a file."""
NICENESS = 10
"""Of the rendering processes: what trains goes first."""


@dataclass
class Examples:
    """P people in V views: images [P,V,4,S,S] uint8 (RGB over grey, alpha), depth [P,V,S,S] float16 (see
    `mesh_render`), maps [P,V,4,M,M] uint8, faces [P,3,F,F] uint8, tokens [P,C,V,T] int16: the captions."""

    images: Tensor
    depth: Tensor
    maps: Tensor
    faces: Tensor
    tokens: Tensor

    @staticmethod
    def join(parts: list[Examples]) -> Examples:
        return Examples(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Examples)))


def face_cameras(
    meshes: list[PersonMesh], generator: torch.Generator, turn_deg: float = 14.0
) -> list[Cameras]:
    """One frontal camera per person, slightly rotated, that frames the face as photos are cropped."""
    cameras = []
    for mesh in meshes:
        turn = ((torch.rand(2, generator=generator) * 2 - 1) * turn_deg).tolist()
        cameras.append(
            face_camera(mesh.face_center, mesh.face_unit, 2 * FACE_SIZE, turn[0], 2 + 0.5 * turn[1])
        )
    return cameras


def captions(person: Person, views: Views, rng: random.Random) -> list[str]:
    """One sentence about the person, with the words that name each view."""
    sentence = describe(person, rng)
    return [
        view_prompt(sentence, framing.name, view_name(azimuth, elevation))
        for framing, azimuth, elevation in zip(
            views.framings, views.azimuth_deg.tolist(), views.elevation_deg.tolist()
        )
    ]


def views_about_orbits(count: int, body_height: float, generator: torch.Generator) -> Views:
    """`count` views from about some of the sides of `ORBITS`."""
    sides = [(framing, azimuth) for framing, azimuths in ORBITS for azimuth in azimuths]
    sides = [sides[i] for i in torch.randperm(len(sides), generator=generator)[:count].tolist()]
    off = torch.rand(count, 3, generator=generator) * 2 - 1
    framings = [framing for framing, _ in sides]
    azimuth = torch.tensor([azimuth for _, azimuth in sides]) + JITTER_DEG * off[:, 0]
    elevation = ELEVATION_DEG + JITTER_DEG * off[:, 1]
    distance = torch.tensor([f.distance for f in framings]) * (1 + JITTER_DISTANCE * off[:, 2])
    targets = torch.zeros(count, 3)
    targets[:, 2] = torch.tensor([f.target_z for f in framings]) * body_height
    fov = torch.tensor([f.fov_y_deg for f in framings])
    cameras = Cameras.orbit(azimuth, elevation, distance * body_height, fov, SIZE, SIZE, targets)
    return Views(cameras, azimuth, elevation, framings, targets)


def training_views(count: int, body_height: float, generator: torch.Generator) -> Views:
    """`count` views of a person, at most 16: as when the prior is used for some people, random for others."""
    if float(torch.rand((), generator=generator)) < ORBIT_SHARE:
        return views_about_orbits(count, body_height, generator)
    return sample_views(
        count, size=SIZE, body_height=body_height, weights=FRAMING_WEIGHTS, generator=generator
    )


class Photographer:
    """Renders dressed people. Deterministic for a seed."""

    def __init__(self, assets: Assets, tokenizer, device: torch.device | str, seed: int) -> None:
        self.assets, self.tokenizer, self.device = assets, tokenizer, device
        self.renderer = Renderer(assets, device)
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def shoot(self, count: int, views: int) -> Examples:
        """Random people, each in `views` views."""
        persons = [draw_person(self.rng) for _ in range(count)]
        meshes = dress(persons, self.assets)
        return self.shoot_views(
            persons, meshes, [training_views(views, mesh.height, self.generator) for mesh in meshes]
        )[0]

    @torch.no_grad()
    def shoot_views(
        self, persons: list[Person], meshes: list[PersonMesh], sampled: list[Views]
    ) -> tuple[Examples, list[list[str]]]:
        """The examples in the given views, equally many of each person, and the V captions of each person's
        first sentence."""
        views = len(sampled[0].framings)
        cameras, targets = [v.cameras for v in sampled], [v.targets for v in sampled]
        images = self.renderer.images(meshes, cameras, targets, SIZE)
        maps = self.renderer.body_maps(meshes, cameras, targets, MAP_SIZE)
        close = face_cameras(meshes, self.generator)
        centers = [m.face_center[None].cpu() for m in meshes]
        faces = F.avg_pool2d(self.renderer.images(meshes, close, centers, 2 * FACE_SIZE)[:, :3], 2)
        sentences = [[captions(p, v, self.rng) for _ in range(CAPTIONS)] for p, v in zip(persons, sampled)]
        flat = [caption for person in sentences for sentence in person for caption in sentence]
        tokens = self.tokenizer(
            flat, padding="max_length", truncation=True, max_length=self.tokenizer.model_max_length
        ).input_ids
        p = len(persons)
        byte = lambda x: (x * 255).round().clamp(0, 255).byte()  # noqa: E731
        examples = Examples(
            byte(images[:, :4]).unflatten(0, (p, views)),
            images[:, 4].half().unflatten(0, (p, views)),
            byte(maps).unflatten(0, (p, views)),
            byte(faces),
            torch.tensor(tokens, dtype=torch.int16, device=self.device).reshape(p, CAPTIONS, views, -1),
        )
        return examples, [person[0] for person in sentences]


def shoot_into(
    folder: Path, assets: Path, tokenizer, device: torch.device, seed: int, views: int, seconds: float
) -> None:
    """Write the examples of random people to files in `folder`, for `seconds` or until the parent ends.

    The body of a process: dressing is CPU work of one thread, so that a GPU takes a dozen of them.
    """
    os.nice(NICENESS)
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    photographer = Photographer(Assets.load(assets), tokenizer, device, seed)
    examples: list[Examples] = []
    deadline, saved, parent = time.monotonic() + seconds, 0, mp.parent_process()
    while time.monotonic() < deadline and (parent is None or parent.is_alive()):
        examples.append(photographer.shoot(2, views))
        if 2 * len(examples) == SHARD:
            temporary = folder / f"{seed}-{saved}.tmp"
            save_file({k: x.cpu().contiguous() for k, x in vars(Examples.join(examples)).items()}, temporary)
            temporary.rename(temporary.with_suffix(".safetensors"))
            saved += SHARD
            examples = []


def as_images(images: Tensor, depth: Tensor) -> Tensor:
    """Five channels [N,5,S,S] in 0..1 from `Examples.images` [N,4,S,S] and depth [N,S,S]."""
    return torch.cat([images.float() / 255, depth.float()[:, None]], 1)


FRAMED = 0.7
"""Share of the faces that are framed by the colour of the hair."""


def disturb_faces(faces: Tensor) -> Tensor:
    """Face crops [B,3,S,S], augmented as photos differ from renders: light, cast, crop, blur, noise,
    background. Most are then framed by the colour of the hair, as `generate` does with photos."""
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
    out = torch.where((r() < FRAMED)[:, None, None, None], framed_by_hair(out), out)
    return (out + 0.02 * torch.randn_like(out)).clamp(0, 1)
