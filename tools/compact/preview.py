"""Contact sheets: the training data, and what the prior makes of people whom it has not seen."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from data import SIZE, Examples, Photographer, as_images, disturb_faces
from denoising import predict
from dressing import dress
from people import draw_person
from PIL import Image
from torch import Tensor, nn

from specularip.diffusion.prior import Prior
from specularip.stages.view_start import start_views

SEED = 900_000
STEPS = 24


@dataclass
class Sheet:
    """Rows of images of one width, below each other."""

    columns: int
    size: int
    bands: list[np.ndarray]

    @classmethod
    def of(cls, columns: int, size: int) -> Sheet:
        return cls(columns, size, [])

    def add(self, images: Tensor) -> None:
        """Images [N,1 or 3,h,w] in 0..1, in as many whole rows of the sheet as they fill, at least one."""
        images = F.interpolate(images.float().cpu(), (self.size, self.size), mode="area").clamp(0, 1)
        images = images.expand(-1, 3, -1, -1)[: max(1, len(images) // self.columns) * self.columns]
        blank = images.new_ones(-len(images) % self.columns, 3, self.size, self.size)
        grid = torch.cat([images, blank]).unflatten(0, (-1, self.columns)).permute(0, 3, 1, 4, 2)
        self.bands.append((grid.flatten(0, 1).flatten(1, 2).numpy() * 255).round().astype(np.uint8))

    def save(self, path: Path) -> None:
        Image.fromarray(np.concatenate(self.bands)).save(path, quality=85)


def data_sheet(photographer: Photographer, views: int, path: Path, people: int = 6) -> None:
    """Training examples: for each person the images, their depth and the body maps; the faces, as they are
    and disturbed."""
    examples = photographer.shoot(people, views)
    sheet = Sheet.of(views, 160)
    for images, depth, maps in zip(examples.images, examples.depth, examples.maps):
        sheet.add(images[:, :3] / 255)
        sheet.add(depth[:, None])
        sheet.add(maps[:, :3] / 255)
    sheet.add(examples.faces / 255)
    sheet.add(disturb_faces(examples.faces.float() / 255))
    sheet.save(path)


class Preview:
    """The same few new people, seen from the sixteen sides that `generate` samples together."""

    def __init__(self, prior: Prior, photographer: Photographer, people: int = 3) -> None:
        self.prior, self.people = prior, people
        rng = random.Random(SEED)
        persons = [draw_person(rng) for _ in range(people)]
        meshes = dress(persons, photographer.assets)
        views = [start_views(mesh.height, SIZE) for mesh in meshes]
        self.examples: Examples = photographer.shoot_views(persons, meshes, views)[0]
        self.sentences = prior.tokenizer.batch_decode(
            self.examples.tokens[:, 0, 0].long(), skip_special_tokens=True
        )

    @torch.no_grad()
    def sample(self, unet: nn.Module, scale: float, steps: int = STEPS) -> Tensor:
        """Images [P,16,5,S,S] by DDIM. scale: of the guidance; 1: none."""
        prior, examples, views = self.prior, self.examples, self.examples.maps.shape[1]
        maps = examples.maps.flatten(0, 1).float() / 255
        text = prior.embed_tokens(examples.tokens[:, 0].long().flatten(0, 1))
        embeds = prior.encode_face(examples.faces.float() / 255)
        identity = prior.identity_tokens(embeds).repeat_interleave(views, 0)
        ones = torch.ones(len(maps), device=prior.device)
        empty = prior.encode_text([""]).expand(len(maps), -1, -1)
        shape = (len(maps), prior.latent_channels, prior.latent_size, prior.latent_size)
        noisy = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(prior.device)
        timesteps = prior.ddim_timesteps(steps).tolist()
        for t, previous in zip(timesteps, [*timesteps[1:], -1]):
            at = torch.full((len(maps),), t, device=prior.device)
            with torch.autocast(prior.device.type, torch.bfloat16):
                v = predict(unet, noisy, maps, at, text, identity, ones, self.people).float()
                if scale != 1:
                    without = predict(unet, noisy, maps, at, empty, identity, ones, self.people).float()
                    v = without + scale * (v - without)
            alpha = prior.alphas(at)
            noisy = prior.ddim_step(noisy, alpha.sqrt() * v + (1 - alpha).sqrt() * noisy, t, previous)
        return prior.decode(noisy).unflatten(0, (self.people, views))

    def save(self, unet: nn.Module, student: nn.Module | None, path: Path, steps: int = STEPS) -> None:
        """A sheet with rows for each person: the truth, decoded from its latents, and sampled: without
        guidance, with scales 2.5 and 4, and by the student."""
        examples, views = self.examples, self.examples.maps.shape[1]
        truth = as_images(examples.images.flatten(0, 1), examples.depth.flatten(0, 1))
        with torch.no_grad():
            decoded = self.prior.decode(self.prior.autoencoder.encode(truth))
        kinds = [x.unflatten(0, (self.people, views)) for x in (truth, decoded)]
        kinds += [self.sample(unet, scale, steps) for scale in (1.0, 2.5, 4.0)]
        if student is not None:
            kinds.append(self.sample(student, 1.0, steps))
        sheet = Sheet.of(views, 128)
        for person in range(self.people):
            for images in kinds:
                sheet.add(images[person, :, :3])
            sheet.add(kinds[2][person, :, 4:])
        sheet.save(path)
