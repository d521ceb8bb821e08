"""The denoiser's training, and that of its student, which needs no guidance."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from data import FACE_SIZE, MAP_SIZE, disturb_faces
from latents import Batch, Latents
from networks import TRAINED_TEXT_LAYERS
from optimisation import Run, Trainer
from torch import Tensor, nn

from specularip.diffusion.attention import KeyViews
from specularip.diffusion.prior import Prior

CLEAN_SHARE, APART_SHARE = 0.2, 0.05
"""Shares of the people of whom some views are clean, and of whom all views are noisy by different amounts."""
NO_TEXT, NO_FACE, NEITHER = 0.10, 0.08, 0.02
"""Shares of the people without text, without a face, and (part of both) without either."""
RESCALE = 0.5
"""How far the guided estimate's standard deviation is pulled back (Lin et al., 2024, section 3.4)."""


def draw_timesteps(people: int, views: int, device: torch.device) -> Tensor:
    """Timesteps [people*views]: mostly the same for all views of a person, as in sampling; sometimes a few
    views are clean (0), which guide the others; sometimes all differ. Over the people they are spread evenly,
    one in each of `people` equal intervals."""
    strata = torch.randperm(people, device=device) + torch.rand(people, device=device)
    together = (strata * (1000 / people)).long().clamp(max=999)[:, None].expand(people, views)
    kind = torch.rand(people, 1, device=device)
    clean = torch.rand(people, views, device=device) < torch.rand(people, 1, device=device) * 0.8
    timesteps = torch.where((kind < CLEAN_SHARE) & clean, 0, together)
    apart = torch.randint(0, 1000, (people, views), device=device)
    return torch.where(kind > 1 - APART_SHARE, apart, timesteps).flatten()


class DenoiserTask(nn.Module):
    """Everything that the denoiser's stage trains, and its loss.

    The squared error of v counts alike at all timesteps. In terms of the clean latents this is a weight of
    SNR + 1 (Salimans & Ho, 2022), and 1 where all is noise, at which sampling starts and decides on the
    person; min-SNR's weights for v would be 0 there (Hang et al., 2023, on schedules that end above an SNR
    of 0). Views that are shown clean do not count.
    """

    def __init__(self, prior: Prior, people: int, together: int) -> None:
        super().__init__()
        self.prior, self.people, self.together = prior, people, together
        self.unet, self.projection, self.faces = (
            prior.denoiser.unet,
            prior.image_projection,
            prior.image_encoder,
        )
        self.text = prior.text_encoder
        self.predict = torch.compile(predict, dynamic=False) if prior.device.type == "cuda" else predict
        self.null = prior.tokenize([""]).to(prior.device)

    @property
    def pretrained(self) -> tuple[nn.Parameter, ...]:
        """What is not new: the upper layers of the text encoder."""
        return tuple(self.text.encoder.layer[-TRAINED_TEXT_LAYERS:].parameters())

    def face_tokens(self, batch: Batch) -> Tensor:
        """Embeddings [G*V,E] of the faces as in photos."""
        embeds = self.faces((disturb_faces(batch.faces) - 0.5) / 0.5).image_embeds
        return embeds.repeat_interleave(self.together, 0)

    def conditions(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Text embeddings, identity tokens and their weights, some of them dropped."""
        drop = torch.rand(self.people, 1, device=batch.latents.device).expand(-1, self.together).reshape(-1)
        text = self.prior.embed_tokens(torch.where((drop < NO_TEXT)[:, None], self.null, batch.tokens))
        shown = (drop < NO_TEXT - NEITHER) | (drop > NO_TEXT - NEITHER + NO_FACE)
        face = self.face_tokens(batch) * shown[:, None]
        scale = torch.where(torch.rand_like(drop) < 0.1, 0.0, 0.5 + 0.5 * torch.rand_like(drop))
        return text, self.projection(face), scale

    def noised(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Timesteps, noisy latents, v targets, and weights of the loss with mean 1, 0 for clean views."""
        timesteps = draw_timesteps(self.people, self.together, batch.latents.device)
        alpha = self.prior.alphas(timesteps)
        noise = torch.randn_like(batch.latents)
        noisy = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * batch.latents
        weight = (timesteps > 4).float()[:, None, None, None]
        return timesteps, noisy, target, weight / weight.mean().clamp_min(0.1)

    def loss(self, batch: Batch) -> Tensor:
        timesteps, noisy, target, weight = self.noised(batch)
        with torch.autocast(noisy.device.type, torch.bfloat16):
            v = self.predict(self.unet, noisy, batch.maps, timesteps, *self.conditions(batch), self.people)
        return (weight * (v.float() - target).square()).mean()

    def rehearse(self) -> None:
        """The loss of random numbers and its gradient: compiles the networks."""
        batch, device = self.people * self.together, self.prior.device
        channels, size = self.prior.latent_channels, self.prior.latent_size
        latents = torch.randn(batch, channels, size, size, device=device)
        maps = torch.rand(batch, 4, MAP_SIZE, MAP_SIZE, device=device)
        faces = torch.rand(self.people, 3, FACE_SIZE, FACE_SIZE, device=device)
        self.loss(Batch(latents, maps, faces, self.null.expand(batch, -1))).backward()
        self.prior.zero_grad(set_to_none=True)


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
    run: Run,
    task: DenoiserTask,
    data: Latents,
    seconds: float,
    rate: float,
    between: Callable[[], None],
    keep: Callable[[], None],
) -> bool:
    """Returns whether the stage is complete; the prior then holds averaged weights."""
    path = run.work / "denoiser.pt"
    trainer = Trainer(run, task.prior, path, rate=rate, seconds=seconds, slow=task.pretrained)
    complete = trainer.train(lambda: task.loss(data.draw(task.people, task.together)), between, keep)
    trainer.finish()
    views = task.people * task.together * run.ranks
    run.say(f"denoiser: {trainer.steps} steps of {views} views, loss {trainer.smooth:.4f}")
    run.say(f"{len(data)} people on each rank")
    return complete


class Guided:
    """What a student learns: v of the teacher with classifier-free guidance of the text by `guidance`, whose
    contrast is pulled back by `RESCALE`."""

    def __init__(self, task: DenoiserTask, guidance: float) -> None:
        self.task, self.guidance = task, guidance
        self.null = task.prior.embed_tokens(task.null)

    @torch.no_grad()
    def target(
        self, noisy: Tensor, maps: Tensor, timesteps: Tensor, conditions: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        task, (text, identity, scale) = self.task, conditions
        empty = self.null.expand(len(noisy), -1, -1)
        alpha = task.prior.alphas(timesteps)
        with torch.autocast(noisy.device.type, torch.bfloat16):
            v = [
                task.predict(task.unet, noisy, maps, timesteps, t, identity, scale, task.people)
                for t in (text, empty)
            ]
        clean, without = (alpha.sqrt() * noisy - (1 - alpha).sqrt() * x.float() for x in v)
        guided = without + self.guidance * (clean - without)
        ratio = clean.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True).clamp_min(1e-6)
        guided = guided * (RESCALE * ratio + 1 - RESCALE)
        return (alpha.sqrt() * noisy - guided) / (1 - alpha).sqrt()


def train_student(
    run: Run,
    task: DenoiserTask,
    data: Latents,
    seconds: float,
    rate: float,
    guidance: float,
    between: Callable[[], None],
    keep: Callable[[nn.Module], None],
) -> nn.Module:
    """A copy of the UNet that predicts what guidance makes of two predictions of the UNet (Meng et al., "On
    distillation of guided diffusion models", 2023, first stage, at one scale). keep: called with it."""
    task.prior.requires_grad_(False)
    student = copy.deepcopy(task.unet).requires_grad_(True)
    teacher = Guided(task, guidance)

    def loss() -> Tensor:
        batch = data.draw(task.people, task.together)
        timesteps, noisy, _, weight = task.noised(batch)
        with torch.no_grad(), torch.autocast(noisy.device.type, torch.bfloat16):
            scale = 0.5 + 0.5 * torch.rand(len(noisy), device=noisy.device)
            conditions = (
                task.prior.embed_tokens(batch.tokens),
                task.projection(task.face_tokens(batch)),
                scale,
            )
        target = teacher.target(noisy, batch.maps, timesteps, conditions)
        with torch.autocast(noisy.device.type, torch.bfloat16):
            v = task.predict(student, noisy, batch.maps, timesteps, *conditions, task.people)
        return (weight * (v.float() - target).square()).mean()

    loss().backward()  # compiles the networks for this
    student.zero_grad(set_to_none=True)
    path = run.work / "student.pt"
    trainer = Trainer(run, student, path, rate=rate, seconds=seconds, ema=0.985, warm_up=60)
    trainer.train(loss, between, lambda: keep(student))
    trainer.finish()
    run.say(f"student: {trainer.steps} steps, loss {trainer.smooth:.4f}")
    return student
