"""The people that the denoiser learns: rendered by processes beside the training, encoded as they come."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.multiprocessing as mp
from data import Examples, as_images, shoot_into
from optimisation import Run
from safetensors.torch import load_file, save_file
from torch import Tensor

from specularip.diffusion.prior import Prior

ENCODED_TOGETHER = 16
"""People whose images are encoded at once."""


class Crew:
    """Processes that render people into WORK/people-RANK, file by file, until the run's end."""

    def __init__(self, run: Run, assets: Path, tokenizer, views: int, seed: int, seconds: float) -> None:
        self.run, self.folder = run, run.work / f"people-{run.rank}"
        self.folder.mkdir(exist_ok=True)
        # A later process of the same run continues with other people.
        earlier = len(list(self.folder.iterdir())) + len(list(encoded_folder(run).iterdir()))
        self.seed = (seed * 1000 + run.rank) * 10_000_000 + earlier * 100
        self.work = (assets, tokenizer, run.device)
        self.views, self.ends = views, time.monotonic() + seconds
        self.processes: list[mp.process.BaseProcess] = []

    def resize(self, count: int) -> None:
        """Let `count` processes work from now on."""
        while len(self.processes) > count:
            self.processes.pop().terminate()
        context = mp.get_context("spawn")
        while len(self.processes) < count:
            self.seed += 1
            rest = self.ends - time.monotonic()
            arguments = (self.folder, *self.work, self.seed, self.views, rest)
            self.processes.append(context.Process(target=shoot_into, args=arguments, daemon=True))
            self.processes[-1].start()

    def finished(self) -> list[Path]:
        """The files of rendered people, oldest first."""
        return sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)

    def wait(self, until: float, least: int = 1) -> None:
        """Until that time, and for `least` files. Raises RuntimeError if every process has died."""
        while time.monotonic() < until or len(self.finished()) < least:
            if not any(process.is_alive() for process in self.processes):
                raise RuntimeError("all rendering processes ended")
            time.sleep(0.5)
        dead = sum(not process.is_alive() for process in self.processes)
        self.run.say(f"{dead} of {len(self.processes)} rendering processes died")


def encoded_folder(run: Run) -> Path:
    folder = run.work / f"latents-{run.rank}"
    folder.mkdir(exist_ok=True)
    return folder


@dataclass
class Batch:
    """G people in V views, flat views first: latents [G*V,16,32,32], maps [G*V,4,64,64] in 0..1, faces
    [G,3,F,F] in 0..1, tokens [G*V,T]."""

    latents: Tensor
    maps: Tensor
    faces: Tensor
    tokens: Tensor


class Latents:
    """Encoded examples (see `Examples`, with latents [P,V,16,32,32] float16 in place of images and depth) of
    the last `capacity` people on the GPU, and as files, from which a later process goes on."""

    def __init__(self, run: Run, prior: Prior, capacity: int) -> None:
        self.run, self.prior, self.capacity = run, prior, capacity
        self.folder, self.tensors, self.added = encoded_folder(run), dict[str, Tensor](), 0
        paths = sorted(self.folder.glob("*.safetensors"))
        for path in paths:
            self._add(load_file(path, device=str(run.device)))
        self.files = len(paths)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def take(self, paths: list[Path]) -> None:
        """Encode people who were rendered, and delete their files."""
        for path in paths:
            examples = Examples(**load_file(path, device=str(self.run.device)))
            part = {name: getattr(examples, name) for name in ("maps", "faces", "tokens")}
            part["latents"] = encode(self.prior, examples)
            temporary = self.folder / "encoded.tmp"
            save_file(part, temporary)
            os.replace(temporary, self.folder / f"{self.files:06d}.safetensors")
            self.files += 1
            self._add(part)
            path.unlink()

    def _add(self, part: dict[str, Tensor]) -> None:
        """Append people; the oldest make room."""
        count = len(part["latents"])
        rows = torch.arange(self.added, self.added + count, device=self.run.device) % self.capacity
        for name, values in part.items():
            if name not in self.tensors:
                self.tensors[name] = values.new_empty(self.capacity, *values.shape[1:])
            self.tensors[name][rows] = values
        self.added += count

    def draw(self, people: int, together: int) -> Batch:
        """Random people, each in `together` of their views and with one of their captions."""
        latents, maps, faces, tokens = (self.tensors[x] for x in ("latents", "maps", "faces", "tokens"))
        rows = torch.randint(len(self), (people,), device=latents.device)
        columns = torch.rand(people, latents.shape[1], device=latents.device).argsort(1)[:, :together]
        sentence = torch.randint(tokens.shape[1], (people, 1), device=latents.device)
        at = rows[:, None]
        return Batch(
            latents[at, columns].float().flatten(0, 1),
            maps[at, columns].flatten(0, 1).float() / 255,
            faces[rows].float() / 255,
            tokens[at, sentence, columns].long().flatten(0, 1),
        )


@torch.no_grad()
def encode(prior: Prior, examples: Examples) -> Tensor:
    """Latents [P,V,16,32,32] float16 of the images of P people."""
    parts = []
    for images, depth in zip(examples.images.split(ENCODED_TOGETHER), examples.depth.split(ENCODED_TOGETHER)):
        with torch.autocast(images.device.type, torch.bfloat16):
            latents = prior.autoencoder.encode(as_images(images.flatten(0, 1), depth.flatten(0, 1)))
        parts.append(latents.half().unflatten(0, images.shape[:2]))
    return torch.cat(parts)
