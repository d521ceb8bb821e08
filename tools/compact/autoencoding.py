"""The autoencoder's training: the rendered images, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from data import SIZE, Examples, as_images
from optimisation import Run, Trainer
from safetensors.torch import load_file
from torch import Tensor, nn

from specularip.diffusion.prior import Prior

MOST_IMAGES = 40_000
"""Images that are kept on a GPU: 16 GB, and twice that for a moment."""
RATE = 1.2e-3
MEASURED = 256
"""Images of each rank from which the latents' means and variances are taken."""


def load_images(paths: list[Path], device: torch.device) -> tuple[Tensor, Tensor]:
    """Images [N,4,S,S] and depth [N,S,S] of rendered people, as in `Examples`, flat."""
    images, depth, count = [], [], 0
    for path in paths:
        examples = Examples(**load_file(path))
        images.append(examples.images.flatten(0, 1).to(device))
        depth.append(examples.depth.flatten(0, 1).to(device))
        count += len(images[-1])
        if count >= MOST_IMAGES:
            break
    return torch.cat(images), torch.cat(depth)


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


def train_autoencoder(run: Run, prior: Prior, paths: list[Path], seconds: float, batch: int) -> bool:
    """Returns whether the stage is complete; the autoencoder then holds averaged weights."""
    autoencoder = prior.autoencoder
    images, depth = load_images(paths, run.device)
    loss_of = autoencoder_loss
    if run.device.type == "cuda":
        loss_of = torch.compile(autoencoder_loss, dynamic=False)
        loss_of(autoencoder, torch.rand(batch, 5, SIZE, SIZE, device=run.device)).backward()
        autoencoder.zero_grad(set_to_none=True)
        run.say("autoencoder compiled")
    path = run.work / "autoencoder-training.pt"
    trainer = Trainer(run, autoencoder, path, rate=RATE, seconds=seconds, ema=0.999)

    def loss() -> Tensor:
        rows = torch.randint(len(images), (batch,), device=run.device)
        return loss_of(autoencoder, degraded(as_images(images[rows], depth[rows])))

    complete = trainer.train(loss, between=lambda: None, keep=lambda: None)
    trainer.finish()
    normalise(run, autoencoder, images, depth)
    run.say(f"autoencoder: {trainer.steps} steps, {describe_quality(autoencoder, images, depth)}")
    return complete


@torch.no_grad()
def normalise(run: Run, autoencoder: nn.Module, images: Tensor, depth: Tensor) -> None:
    """Let every channel of the latents have mean 0 and variance 1, over all ranks."""
    rows = torch.randint(len(images), (MEASURED,), device=run.device)
    latents = torch.cat(
        [autoencoder.encoder(as_images(images[r], depth[r]) * 2 - 1).float() for r in rows.split(32)]
    )
    mean, square = run.mean(torch.stack([latents.mean((0, 2, 3)), latents.square().mean((0, 2, 3))]))
    autoencoder.shift.copy_(mean[None, :, None, None])
    autoencoder.scale_.copy_((square - mean.square()).clamp_min(1e-6).sqrt()[None, :, None, None])


@torch.no_grad()
def describe_quality(autoencoder: nn.Module, images: Tensor, depth: Tensor) -> str:
    """How well images are kept where there are people, in words."""
    rows = torch.randint(len(images), (64,), device=images.device)
    wanted = as_images(images[rows], depth[rows])
    got = autoencoder.decode(autoencoder.encode(wanted))
    inside = wanted[:, 3:4] > 0.5
    psnr = -10 * torch.log10(((got - wanted)[:, :3].square() * inside).sum() / inside.sum() / 3)
    depth_error = ((got - wanted)[:, 4:].abs() * inside).sum() / inside.sum()
    return f"PSNR on people {psnr:.2f} dB, depth {depth_error:.4f}"
