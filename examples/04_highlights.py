"""Highlights that move: an avatar rendered from several sides, with its specular layer.

Writes a strip of frames, the specular layer alone below. A few seconds on a CPU.
"""

import argparse
from pathlib import Path

import torch
from ball import glossy_ball
from PIL import Image

import specularip as sip
from specularip.avatar import shade

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("avatar", nargs="?", help="run folder or avatar file; without one, a glossy ball")
parser.add_argument("--out", type=Path, default=Path("out/04.png"))
parser.add_argument("--size", type=int, default=240)
args = parser.parse_args()

avatar, distance = (sip.load(args.avatar), 2.4) if args.avatar else (glossy_ball(), 1.4)
cameras = sip.Cameras.orbit([-40, -20, 0, 20, 40], 10, distance, width=args.size, height=args.size)
frame = avatar.render(cameras, background=0.3)  # .image, .alpha, .depth, .normal, .specular: [B,H,W,...]
rows = [torch.cat(list(layer.clamp(0, 1)), 1) for layer in (frame.image, frame.specular)]
args.out.parent.mkdir(parents=True, exist_ok=True)
Image.fromarray((torch.cat(rows) * 255).byte().numpy()).save(args.out)

# The same step by step, differentiable: the head shades each Gaussian for each camera, then rasterise.
cloud = avatar.gaussians.requires_grad_()
colors, specular = shade(cloud, avatar.head, cameras)  # [B,N,3] each
view = cameras.viewmats, cameras.Ks, cameras.width, cameras.height
image = sip.rasterize(cloud.means, cloud.quats, cloud.scales, cloud.opacities, colors, *view).image
image.mean().backward()
print(f"{args.out}: gradient of the mean colour by the latents, {cloud.latents.grad.norm():.2g}")
