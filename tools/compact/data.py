"""Training examples for the compact prior: views of dressed people with captions, body maps and faces."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from assets import Assets
from captions import describe
from dressing import PersonMesh, dress
from mesh_render import Renderer
from people import Person, draw_person
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from specularip.cameras import Cameras, Views, face_camera, sample_views, view_name
from specularip.diffusion.prompts import view_prompt

SIZE = 256
MAP_SIZE = 64
FACE_SIZE = 64
FRAMING_WEIGHTS = (0.44, 0.19, 0.13, 0.24)
CAPTIONS = 3
"""Sentences about each person."""


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


def face_cameras(meshes: list[PersonMesh], generator: torch.Generator, turn_deg: float = 14.0) -> list[Cameras]:
    """One frontal camera per person, slightly rotated, that frames the face as photos are cropped."""
    cameras = []
    for mesh in meshes:
        turn = ((torch.rand(2, generator=generator) * 2 - 1) * turn_deg).tolist()
        cameras.append(face_camera(mesh.face_center, mesh.face_unit, 2 * FACE_SIZE, turn[0], 2 + 0.5 * turn[1]))
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


class DressedPeople(IterableDataset):
    """Random people and their meshes without end, in groups. Each worker process draws its own."""

    def __init__(self, assets: Assets, seed: int, group: int = 4) -> None:
        self.assets, self.seed, self.group = assets, seed, group

    def __iter__(self) -> Iterator[list[tuple[Person, dict]]]:
        worker = get_worker_info()
        rng = random.Random(self.seed * 1009 + (0 if worker is None else worker.id))
        while True:
            persons = [draw_person(rng) for _ in range(self.group)]
            yield [(p, _as_arrays(mesh)) for p, mesh in zip(persons, dress(persons, self.assets))]


def _as_arrays(mesh: PersonMesh) -> dict:
    """The mesh with arrays for tensors: these pass between processes by value, without shared memory."""
    values = ((f.name, getattr(mesh, f.name)) for f in fields(mesh))
    return {name: x.numpy() if isinstance(x, Tensor) else x for name, x in values}


def _as_mesh(arrays: dict) -> PersonMesh:
    return PersonMesh(**{k: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for k, x in arrays.items()})


def dressed_people(assets: Assets, seed: int, workers: int) -> Iterator[tuple[list[Person], list[PersonMesh]]]:
    """Groups of people and meshes, dressed by `workers` processes ahead of their use. assets: on the CPU."""
    loader = DataLoader(
        DressedPeople(assets, seed), batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
    )
    for group in loader:
        yield [person for person, _ in group], [_as_mesh(arrays) for _, arrays in group]


class Photographer:
    """Renders dressed people. Deterministic for a seed."""

    def __init__(self, assets: Assets, tokenizer, device: torch.device | str, seed: int) -> None:
        self.assets, self.tokenizer, self.device = assets, tokenizer, device
        self.renderer = Renderer(assets, device)
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def shoot(
        self, persons: list[Person], meshes: list[PersonMesh], views: int
    ) -> tuple[Examples, list[Views], list[list[str]]]:
        """The examples, the views of each person, and the V captions of each person's first sentence."""
        sampled = [
            sample_views(
                views, size=SIZE, body_height=m.height, weights=FRAMING_WEIGHTS, generator=self.generator
            )
            for m in meshes
        ]
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
        return examples, sampled, [person[0] for person in sentences]


def as_images(images: Tensor, depth: Tensor) -> Tensor:
    """Five channels [N,5,S,S] in 0..1 from `Examples.images` [N,4,S,S] and depth [N,S,S]."""
    return torch.cat([images.float() / 255, depth.float()[:, None]], 1)


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
