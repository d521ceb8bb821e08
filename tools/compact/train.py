"""Train the compact prior on one or several GPUs of a machine.

    torchrun --nproc-per-node GPUS tools/compact/train.py --assets assets.npz --text-encoder FOLDER --out DIR

Four stages, each with its share of the time (see the options): every rank renders its own people; the
autoencoder learns the images; they are encoded, and the denoiser learns the latents; then a student learns
the guided prediction of the denoiser, so that one evaluation does for two. `--stop-after` ends the process
earlier with its state in DIR/work; the same command continues. Look at DIR/*.png before trusting anything.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import random
import time
from dataclasses import dataclass, fields
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from assets import Assets
from data import SIZE, Examples, Photographer, as_images, disturb_faces, shoot_into
from dressing import dress
from networks import make_prior
from people import draw_person
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from specularip.diffusion.attention import KeyViews
from specularip.diffusion.prior import Prior

VIEWS = 10
"""Views of each person that are rendered."""
TOGETHER = 6
"""Views of a person that are denoised together."""
GUIDANCE = 2.5
"""Scale of the classifier-free guidance that the student learns."""
RESCALE = 0.5
"""How far the guided estimate's standard deviation is pulled back (Lin et al., 2024)."""


@dataclass
class Run:
    """What all stages share. share of the work: `rank` of `ranks`."""

    out: Path
    work: Path
    device: torch.device
    rank: int
    ranks: int
    ends: float
    """When this process must have saved its state, by time.monotonic."""

    def say(self, text: str) -> None:
        if self.rank == 0:
            print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", flush=True)

    def over(self, deadline: float) -> bool:
        """Whether `deadline` or the end of the process has come, for any rank."""
        late = torch.tensor(float(time.monotonic() > min(deadline, self.ends)), device=self.device)
        if self.ranks > 1:
            dist.all_reduce(late)
        return bool(late > 0)

    def average(self, parameters: list[nn.Parameter]) -> None:
        """Average the gradients over the ranks."""
        if self.ranks == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.ranks
        torch._foreach_copy_(
            grads, [x.view_as(g) for x, g in zip(flat.split([g.numel() for g in grads]), grads)]
        )


BEGAN = time.monotonic()


class Trainer:
    """AdamW with warm-up and cosine decay, gradient averaging and clipping, and an average of the weights
    (EMA). The schedule follows the share of the stage's time that has passed."""

    def __init__(
        self, run: Run, module: nn.Module, rate: float, seconds: float, decay: float = 0.9995
    ) -> None:
        self.run, self.rate, self.seconds, self.decay = run, rate, seconds, decay
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=run.device.type == "cuda"
        )
        self.ema = [p.detach().clone() for p in self.parameters]
        self.steps, self.spent, self.smooth = 0, 0.0, 0.0
        self.clock = time.monotonic()

    @property
    def elapsed(self) -> float:
        return self.spent + time.monotonic() - self.clock

    def step(self, loss: Tensor) -> None:
        loss.backward()
        self.run.average(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        share = min(1.0, self.elapsed / self.seconds)
        rate = (
            self.rate * min(1, (self.steps + 1) / 300) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.decay, (self.steps + 1) / (self.steps + 20))
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
        self.steps += 1
        if self.steps % 100 == 0 or self.steps in (1, 10):
            value = float(loss.detach())
            self.smooth = value if self.steps <= 10 else 0.7 * self.smooth + 0.3 * value
            if self.steps % 500 == 0 or self.steps <= 100:
                self.run.say(
                    f"  step {self.steps}, {self.elapsed:.0f} of {self.seconds:.0f} s, loss {self.smooth:.4f}"
                )

    def finish(self) -> None:
        """Put the averaged weights into the module."""
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.ema)

    def state(self) -> dict:
        return {
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "steps": self.steps,
            "spent": self.elapsed,
        }

    def load(self, state: dict) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, state["parameters"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema, self.steps, self.spent = state["ema"], state["steps"], state["spent"]
        self.clock = time.monotonic()


# Stage 1: people


def start_rendering(run: Run, args: argparse.Namespace, tokenizer) -> list[BaseProcess]:
    """Processes that render people into WORK/people-RANK."""
    folder = run.work / f"people-{run.rank}"
    folder.mkdir(exist_ok=True)
    count = max(1, min(args.processes, (os.cpu_count() or 2) // run.ranks - 1))
    context = mp.get_context("spawn")
    processes = []
    for i in range(count):
        seed = args.seed * 100_000 + run.rank * 100 + i
        work = (
            folder,
            args.assets,
            tokenizer,
            run.device,
            seed,
            VIEWS,
            args.render_seconds,
            args.people // count,
        )
        processes.append(context.Process(target=shoot_into, args=work))
        processes[-1].start()
    return processes


def collect(run: Run, processes: list[BaseProcess]) -> Examples:
    """Everything that the processes have rendered, on the GPU."""
    for process in processes:
        process.join()
    failed = sum(process.exitcode != 0 for process in processes)
    run.say(f"{failed} of {len(processes)} rendering processes failed")
    paths = sorted((run.work / f"people-{run.rank}").glob("*.safetensors"))
    parts = [Examples(**load_file(path)) for path in paths]
    count, at = sum(len(part.faces) for part in parts), 0
    like = {name: x.new_empty(count, *x.shape[1:], device=run.device) for name, x in vars(parts[0]).items()}
    for part in parts:
        for name, values in vars(part).items():
            like[name][at : at + len(values)] = values.to(run.device)
        at += len(part.faces)
    examples = Examples(**like)
    for path in paths:
        path.unlink()
    run.say(f"rendered {len(examples.images)} people in {VIEWS} views on each rank")
    if run.rank == 0:
        rows = as_images(examples.images[:12].flatten(0, 1), examples.depth[:12].flatten(0, 1))
        save_sheet(run.out / "data.png", rows[:, :3], 20, 128)
        save_sheet(run.out / "depth.png", rows[:, 4:].expand(-1, 3, -1, -1), 20, 128)
        save_sheet(run.out / "maps.png", examples.maps[:12].flatten(0, 1)[:, :3] / 255, 20, 64)
        save_sheet(run.out / "faces.png", examples.faces[:64] / 255, 16, 64)
        save_sheet(run.out / "disturbed.png", disturb_faces(examples.faces[:64].float() / 255), 16, 64)
    return examples


def warm_up(run: Run, prior: Prior, task: DenoiserTask, people: int) -> None:
    """Compile the networks while others render."""
    batch, device = people * TOGETHER, run.device
    autoencoder_loss_compiled(prior.autoencoder, torch.rand(64, 5, SIZE, SIZE, device=device)).backward()
    run.say("autoencoder compiled")
    tokens = task.null.expand(batch, -1)
    latents, maps = torch.randn(batch, 16, 32, 32, device=device), torch.rand(batch, 4, 64, 64, device=device)
    task.loss(Batch(latents, maps, torch.rand(people, 3, 64, 64, device=device), tokens)).backward()
    prior.zero_grad(set_to_none=True)
    run.say("denoiser compiled")


# Stage 2: autoencoder


def degraded(images: Tensor) -> Tensor:
    """Some of the images [B,5,S,S] as renders of unfinished Gaussians may look: blurred, noisy, tinted."""
    b = len(images)
    small = F.interpolate(F.avg_pool2d(images, 4), scale_factor=4, mode="bilinear")
    noise = F.interpolate(torch.randn(b, 5, SIZE // 4, SIZE // 4, device=images.device), scale_factor=4)
    pick = torch.rand(b, 1, 1, 1, device=images.device)
    images = torch.where(pick < 0.08, small, images)
    images = torch.where((pick > 0.92) & (pick < 0.97), images + 0.05 * noise, images)
    gain = 0.8 + 0.4 * torch.rand(b, 3, 1, 1, device=images.device)
    tinted = torch.cat([images[:, :3] * gain, images[:, 3:]], 1)
    return torch.where(pick > 0.95, tinted, images).clamp(0, 1)


def autoencoder_loss(autoencoder: nn.Module, images: Tensor) -> Tensor:
    """images [B,5,S,S] in 0..1. Noise on the latents keeps the decoder smooth; edges count more."""
    with torch.autocast(images.device.type, torch.bfloat16):
        latents = autoencoder.encoder((images * 2 - 1).contiguous(memory_format=torch.channels_last))
    latents = latents.float()
    spread = latents.std((0, 2, 3), keepdim=True).detach()
    with torch.autocast(images.device.type, torch.bfloat16):
        out = autoencoder.decoder(latents + 0.06 * spread * torch.randn_like(latents))
    difference = out.float() - (images * 2 - 1)
    weights = torch.ones_like(images)
    weights[:, 3:4] = 0.7
    weights[:, 4:5] = 0.5 + 5 * images[:, 3:4]
    error = (weights * difference.abs()).mean()
    for axis in (2, 3):  # differences of neighbouring pixels
        error = error + 0.5 * (difference.diff(dim=axis).abs() * weights.narrow(axis, 1, SIZE - 1)).mean()
    pull = (latents.mean((0, 2, 3)).square() + (latents.std((0, 2, 3)) - 1).square()).mean()
    return error + 1e-3 * pull


autoencoder_loss_compiled = torch.compile(autoencoder_loss, dynamic=False)


def train_autoencoder(run: Run, prior: Prior, examples: Examples, seconds: float, batch: int) -> None:
    autoencoder = prior.autoencoder
    loss_of = autoencoder_loss_compiled if run.device.type == "cuda" else autoencoder_loss
    trainer = Trainer(run, autoencoder, 1.2e-3, seconds, decay=0.999)
    count = len(examples.images) * VIEWS
    images, depth = examples.images.flatten(0, 1), examples.depth.flatten(0, 1)
    deadline = time.monotonic() + seconds
    while trainer.steps % 20 or not run.over(deadline):
        rows = torch.randint(count, (batch,), device=run.device)
        trainer.step(loss_of(autoencoder, degraded(as_images(images[rows], depth[rows]))))
    trainer.finish()
    autoencoder.eval()
    with torch.no_grad():
        rows = torch.randint(count, (256,), device=run.device)
        wanted = as_images(images[rows], depth[rows])
        latents = autoencoder.encoder(wanted * 2 - 1)
        statistics = torch.stack([latents.mean((0, 2, 3)), latents.square().mean((0, 2, 3))])
        if run.ranks > 1:
            dist.all_reduce(statistics)
            statistics /= run.ranks
        autoencoder.shift.copy_(statistics[0][None, :, None, None])
        autoencoder.scale_.copy_((statistics[1] - statistics[0].square()).sqrt()[None, :, None, None])
        got = autoencoder.decode(autoencoder.encode(wanted))
    inside = wanted[:, 3:4] > 0.5
    psnr = -10 * torch.log10(((got - wanted)[:, :3].square() * inside).sum() / inside.sum() / 3)
    depth_error = ((got - wanted)[:, 4:].abs() * inside).sum() / inside.sum()
    run.say(f"autoencoder: {trainer.steps} steps, PSNR on people {psnr:.2f} dB, depth {depth_error:.4f}")
    if run.rank == 0:
        pairs = torch.stack([wanted[:24, :3], got[:24, :3]], 1).flatten(0, 1)
        save_sheet(run.out / "autoencoder.png", pairs, 12, 192)


@torch.no_grad()
def encode_all(prior: Prior, examples: Examples) -> Tensor:
    """Latents [P,V,16,32,32] float16."""
    parts = []
    for images, depth in zip(examples.images.split(16), examples.depth.split(16)):
        with torch.autocast(images.device.type, torch.bfloat16):
            latents = prior.autoencoder.encode(as_images(images.flatten(0, 1), depth.flatten(0, 1)))
        parts.append(latents.half().unflatten(0, images.shape[:2]))
    return torch.cat(parts)


# Stage 3: denoiser


@dataclass
class Batch:
    """G people in V views, flat views first: latents [G*V,16,32,32], maps [G*V,4,64,64] in 0..1, faces [G,3,F,F],
    tokens [G*V,T]."""

    latents: Tensor
    maps: Tensor
    faces: Tensor
    tokens: Tensor


@dataclass
class Latents:
    """Encoded examples of one rank: see `Examples`, with latents in place of images."""

    latents: Tensor
    maps: Tensor
    faces: Tensor
    tokens: Tensor

    def draw(self, people: int, views: int) -> Batch:
        device = self.latents.device
        rows = torch.randint(len(self.latents), (people,), device=device)
        columns = torch.rand(people, VIEWS, device=device).argsort(1)[:, :views]
        sentence = torch.randint(self.tokens.shape[1], (people, 1), device=device)
        at = rows[:, None]
        return Batch(
            self.latents[at, columns].float().flatten(0, 1),
            self.maps[at, columns].flatten(0, 1).float() / 255,
            self.faces[rows].float() / 255,
            self.tokens[at, sentence, columns].long().flatten(0, 1),
        )


def draw_timesteps(people: int, views: int, device: torch.device) -> Tensor:
    """Timesteps [people*views]: mostly the same for all views of a person, as in sampling; sometimes a few
    views are clean (0), which guide the others; sometimes all differ."""
    together = torch.randint(0, 1000, (people, 1), device=device).expand(people, views)
    kind = torch.rand(people, 1, device=device)
    clean = torch.rand(people, views, device=device) < torch.rand(people, 1, device=device) * 0.8
    timesteps = torch.where((kind < 0.3) & clean, 0, together)
    apart = torch.randint(0, 1000, (people, views), device=device)
    return torch.where(kind > 0.9, apart, timesteps).flatten()


class DenoiserTask(nn.Module):
    """Everything that the third stage trains, and its loss."""

    def __init__(self, prior: Prior, people: int) -> None:
        super().__init__()
        self.prior, self.people = prior, people
        self.unet, self.projection, self.faces = (
            prior.denoiser.unet,
            prior.image_projection,
            prior.image_encoder,
        )
        self.text = prior.text_encoder
        self.predict = torch.compile(predict, dynamic=False) if prior.device.type == "cuda" else predict
        self.null = prior.tokenize([""]).to(prior.device)

    def conditions(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Text embeddings, identity tokens and their weights, some of them dropped."""
        device, views = batch.latents.device, len(batch.latents) // self.people
        drop = torch.rand(self.people, 1, device=device).expand(-1, views).reshape(-1)
        tokens = torch.where((drop < 0.1)[:, None], self.null, batch.tokens)
        text = self.prior.embed_tokens(tokens)
        face = self.faces((disturb_faces(batch.faces) - 0.5) / 0.5).image_embeds
        face = face.repeat_interleave(views, 0) * ((drop > 0.02) & (drop < 0.92))[:, None]
        scale = torch.where(torch.rand_like(drop) < 0.1, 0.0, 0.5 + 0.5 * torch.rand_like(drop))
        return text, self.projection(face), scale

    def noised(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Timesteps, noisy latents, v targets and weights of the loss (none for clean views)."""
        timesteps = draw_timesteps(self.people, len(batch.latents) // self.people, batch.latents.device)
        alpha = self.prior.alphas(timesteps)
        noise = torch.randn_like(batch.latents)
        noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * batch.latents
        return timesteps, noisy, target, (timesteps > 4).float()[:, None, None, None]

    def loss(self, batch: Batch) -> Tensor:
        timesteps, noisy, target, weight = self.noised(batch)
        with torch.autocast(noisy.device.type, torch.bfloat16):
            v = self.predict(self.unet, noisy, batch.maps, timesteps, *self.conditions(batch), self.people)
        return (weight * (v.float() - target).square()).mean()


def predict(
    unet: nn.Module,
    noisy: Tensor,
    maps: Tensor,
    timesteps: Tensor,
    text: Tensor,
    identity: Tensor,
    scale: Tensor,
    people: int,
) -> Tensor:
    """The network's v [B,16,32,32]; the B / people views of each person attend to each other."""
    sample = torch.cat([noisy, F.pixel_unshuffle(maps, 2)], 1).contiguous(memory_format=torch.channels_last)
    attention = {
        "identity": identity,
        "identity_scale": scale,
        "key_views": KeyViews(people, together=True),
    }
    return unet(sample, timesteps, text, cross_attention_kwargs=attention, return_dict=False)[0]


def train_denoiser(
    run: Run, prior: Prior, task: DenoiserTask, data: Latents, seconds: float, people: int, rate: float
) -> bool:
    """Returns whether the stage is complete."""
    trainer = Trainer(run, prior, rate, seconds)
    state = run.work / "denoiser.pt"
    if state.exists():
        trainer.load(torch.load(state, map_location=run.device, weights_only=True))
    for p in trainer.parameters:  # the ranks start alike
        if run.ranks > 1:
            dist.broadcast(p.data, 0)
    deadline = time.monotonic() + seconds - trainer.spent
    while trainer.steps % 20 or not run.over(deadline):
        trainer.step(task.loss(data.draw(people, TOGETHER)))
    run.say(
        f"denoiser: {trainer.steps} steps of {people * TOGETHER * run.ranks} views, loss {trainer.smooth:.4f}"
    )
    complete = trainer.elapsed >= seconds - 2
    if run.rank == 0:
        torch.save(trainer.state(), state)
    trainer.finish()
    return complete


# Stage 4: guidance, distilled


def train_student(
    run: Run, prior: Prior, data: Latents, seconds: float, people: int, rate: float
) -> nn.Module:
    """A copy of the UNet that predicts what guidance makes of two predictions of the UNet."""
    teacher = prior.denoiser.unet.eval()
    student = copy.deepcopy(teacher).train().requires_grad_(True)
    prior.requires_grad_(False)
    student.requires_grad_(True)
    task = DenoiserTask(prior, people)
    null = prior.embed_tokens(task.null)

    def loss_of(batch: Batch) -> Tensor:
        timesteps, noisy, _, weight = task.noised(batch)
        with torch.no_grad(), torch.autocast(noisy.device.type, torch.bfloat16):
            views = len(noisy) // people
            text = prior.embed_tokens(batch.tokens)
            face = task.faces((disturb_faces(batch.faces) - 0.5) / 0.5).image_embeds.repeat_interleave(
                views, 0
            )
            identity = task.projection(face)
            scale = 0.5 + 0.5 * torch.rand(len(noisy), device=noisy.device)
            with_text = task.predict(
                teacher, noisy, batch.maps, timesteps, text, identity, scale, people
            ).float()
            empty = null.expand(len(noisy), -1, -1)
            without = task.predict(
                teacher, noisy, batch.maps, timesteps, empty, identity, scale, people
            ).float()
        alpha = prior.alphas(timesteps)
        clean = [alpha.sqrt() * noisy - (1 - alpha).sqrt() * v for v in (with_text, without)]
        guided = clean[1] + GUIDANCE * (clean[0] - clean[1])
        ratio = clean[0].std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True).clamp_min(1e-6)
        guided = guided * (RESCALE * ratio + 1 - RESCALE)
        target = (alpha.sqrt() * noisy - guided) / (1 - alpha).sqrt()
        with torch.autocast(noisy.device.type, torch.bfloat16):
            v = task.predict(student, noisy, batch.maps, timesteps, text, identity, scale, people)
        return (weight * (v.float() - target).square()).mean()

    trainer = Trainer(run, student, rate, seconds, decay=0.998)
    deadline = time.monotonic() + seconds
    while trainer.steps % 20 or not run.over(deadline):
        trainer.step(loss_of(data.draw(people, TOGETHER)))
    trainer.finish()
    run.say(f"student: {trainer.steps} steps, loss {trainer.smooth:.4f}")
    return student.eval()


# Looking at it


@torch.no_grad()
def preview(
    run: Run, prior: Prior, unet: nn.Module, photographer: Photographer, name: str, scale: float
) -> None:
    """Samples of new people below the true renders; scale 1: without guidance."""
    rng = random.Random(900_000)
    persons = [draw_person(rng) for _ in range(6)]
    examples, _, sentences = photographer.shoot(persons, dress(persons, photographer.assets), VIEWS)
    maps = examples.maps.flatten(0, 1).float() / 255
    text = prior.embed_tokens(examples.tokens[:, 0].long().flatten(0, 1))
    face = prior.image_encoder((examples.faces.float() / 255 - 0.5) / 0.5).image_embeds
    identity = prior.image_projection(face).repeat_interleave(VIEWS, 0)
    ones = torch.ones(len(maps), device=run.device)
    empty = prior.embed_tokens(prior.tokenize([""])).expand(len(maps), -1, -1)
    noisy = torch.randn(len(maps), 16, 32, 32, generator=torch.Generator().manual_seed(3)).to(run.device)
    timesteps = prior.ddim_timesteps(24).tolist()
    for t, previous in zip(timesteps, [*timesteps[1:], -1]):
        at = torch.full((len(maps),), t, device=run.device)
        alpha = prior.alphas(at)
        with torch.autocast(run.device.type, torch.bfloat16):
            v = predict(unet, noisy, maps, at, text, identity, ones, 6).float()
            if scale != 1:
                v0 = predict(unet, noisy, maps, at, empty, identity, ones, 6).float()
                v = v0 + scale * (v - v0)
        noise = alpha.sqrt() * v + (1 - alpha).sqrt() * noisy
        noisy = prior.ddim_step(noisy, noise, t, previous)
    got = prior.decode(noisy)
    truth = as_images(examples.images.flatten(0, 1), examples.depth.flatten(0, 1))
    rows = torch.stack([truth.unflatten(0, (6, VIEWS)), got.unflatten(0, (6, VIEWS))], 1).flatten(0, 2)
    save_sheet(run.out / f"{name}.png", rows[:, :3], VIEWS, 192)
    (run.out / "samples.txt").write_text("\n".join(s[0] for s in sentences) + "\n")


def save_sheet(path: Path, images: Tensor, columns: int, size: int) -> None:
    images = F.interpolate(images.float().cpu(), size=(size, size), mode="area").clamp(0, 1)
    columns = min(columns, len(images))
    rows = len(images) // columns
    grid = images[: rows * columns].unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
    pixels = (grid.reshape(rows * size, columns * size, -1).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(path.with_suffix(".jpg"), quality=88)


def save_parts(out: Path, name: str, tensors: dict[str, Tensor], limit: int = 15 << 20) -> None:
    """Tensors in files of at most `limit` bytes, NAME-0.safetensors and so on: matrices as int8 with a scale
    for each row (KEY.scale), the others as float16."""
    part: dict[str, Tensor] = {}
    index = 0
    for key, value in tensors.items():
        value = value.detach().float().cpu().contiguous()
        packed = {key: value.half()}
        if value.ndim > 1 and value.numel() > 4096:
            rows = value.flatten(1).abs().amax(1).clamp_min(1e-8) / 127
            scaled = value / rows.view(-1, *[1] * (value.ndim - 1))
            packed = {key: scaled.round().to(torch.int8).contiguous(), f"{key}.scale": rows.half()}
        if part and sum(x.nbytes for x in (*part.values(), *packed.values())) > limit:
            save_file(part, out / f"{name}-{index}.safetensors")
            part, index = {}, index + 1
        part |= packed
    save_file(part, out / f"{name}-{index}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="fast local folder for data and state (default: OUT/work)")
    parser.add_argument("--render-seconds", type=float, default=200)
    parser.add_argument("--people", type=int, default=12_000, help="most people of each rank")
    parser.add_argument("--autoencoder-seconds", type=float, default=150)
    parser.add_argument("--denoiser-seconds", type=float, default=800)
    parser.add_argument("--student-seconds", type=float, default=150)
    parser.add_argument("--processes", type=int, default=15, help="rendering processes of each rank, at most")
    parser.add_argument("--stop-after", type=float, default=math.inf)
    parser.add_argument("--batch", type=int, default=48, help="people in a batch of each rank")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    local = int(os.environ.get("LOCAL_RANK", 0))
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if ranks > 1:
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    work = args.work or args.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args.out, work, device, local, ranks, BEGAN + args.stop_after)
    torch.manual_seed(args.seed)
    prior = make_prior(args.text_encoder, device)
    run.say(f"{sum(p.numel() for p in prior.denoiser.unet.parameters()) / 1e6:.1f} M parameters in the UNet")
    torch.manual_seed(args.seed + 1 + local)
    prior.denoiser.unet.to(memory_format=torch.channels_last)
    prior.autoencoder.to(memory_format=torch.channels_last)
    task = DenoiserTask(prior, args.batch)
    photographer = Photographer(Assets.load(args.assets), prior.tokenizer, device, args.seed * 100_000 + 99)
    autoencoder_path, latents_path = work / "autoencoder.pt", work / f"latents-{local}.pt"
    if not latents_path.exists():
        persons = [draw_person(photographer.rng)]
        photographer.shoot(persons, dress(persons, photographer.assets), 1)  # compiles the renderer, once
        run.say("renderer compiled")
        processes = start_rendering(run, args, prior.tokenizer)
        if cuda:
            warm_up(run, prior, task, args.batch)
        examples = collect(run, processes)
        torch.manual_seed(args.seed)
        if ranks > 1:
            for p in prior.autoencoder.parameters():
                dist.broadcast(p.data, 0)
        torch.manual_seed(args.seed + 1 + local)
        train_autoencoder(run, prior, examples, args.autoencoder_seconds, 64 if cuda else 2)
        data = Latents(encode_all(prior, examples), examples.maps, examples.faces, examples.tokens)
        del examples
        torch.save({f.name: getattr(data, f.name) for f in fields(Latents)}, latents_path)
        if local == 0:
            torch.save(prior.autoencoder.state_dict(), autoencoder_path)
            save_parts(args.out, "autoencoder", prior.autoencoder.state_dict())
        run.say("encoded and saved")
    else:
        data = Latents(**torch.load(latents_path, map_location=device, weights_only=True))
        prior.autoencoder.load_state_dict(
            torch.load(autoencoder_path, map_location=device, weights_only=True)
        )
        run.say("data loaded")
    prior.autoencoder.requires_grad_(False).eval()
    complete = train_denoiser(run, prior, task, data, args.denoiser_seconds, args.batch, args.rate)
    prior.eval()
    if local == 0:
        unet = prior.denoiser.unet
        others = {
            k: v
            for k, v in prior.state_dict().items()
            if k.startswith(("image_", "text_encoder.encoder.layer."))
        }
        kept = {f"text_encoder.encoder.layer.{i}." for i in (4, 5)}
        others = {
            k: v for k, v in others.items() if k.startswith("image_") or any(k.startswith(x) for x in kept)
        }
        if not complete or args.student_seconds == 0:
            save_parts(args.out, "unet", unet.state_dict())
            save_parts(args.out, "others", others)
        preview(run, prior, unet, photographer, "teacher-1", 1.0)
        preview(run, prior, unet, photographer, "teacher-2.5", 2.5)
        run.say("previews written")
    if ranks > 1:
        dist.barrier()
    if complete and args.student_seconds:
        student = train_student(run, prior, data, args.student_seconds, args.batch, args.rate * 0.3)
        if local == 0:
            save_parts(args.out, "student", student.state_dict())
            save_parts(args.out, "others", others)
            preview(run, prior, student, photographer, "student", 1.0)
    if local == 0:
        entry = {"ranks": ranks, "gpu": torch.cuda.get_device_name() if cuda else "cpu", **vars(args)}
        (args.out / "training.json").write_text(json.dumps(entry, indent=1, default=str) + "\n")
    run.say("done")
    if ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
