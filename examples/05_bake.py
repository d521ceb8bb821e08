"""Bake highlights into explicit functions of the view direction, and export.

Writes baked.safetensors (four anisotropic spherical Gaussians, ASGs, per Gaussian: a few lines of shader
code) and baked.ply (spherical harmonics to degree 3, for any viewer of 3DGS files).
"""

import argparse
from pathlib import Path

import torch
from ball import glossy_ball
from PIL import Image

import specularip as sip

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("avatar", nargs="?", help="run folder or .safetensors file; without one, a glossy ball")
parser.add_argument("--out", type=Path, default=Path("out/05"))
parser.add_argument("--count", type=int, default=1000, help="Gaussians of the ball")
args = parser.parse_args()

avatar, distance = (sip.load(args.avatar), 2.4) if args.avatar else (glossy_ball(args.count), 1.4)
args.out.mkdir(parents=True, exist_ok=True)
camera = sip.Cameras.orbit(20, 10, distance, width=240, height=240)
images = [avatar.render(camera).image]
for kind in ("asg", "sh3"):
    suffix = {"asg": "safetensors", "sh3": "ply"}[kind]
    file = sip.bake(avatar, kind).export(args.out / f"baked.{suffix}")
    images.append(sip.load(file).render(camera).image)
    psnr = -10 * (images[-1] - images[0]).square().mean().log10()
    print(f"{file}: {psnr:.1f} dB from the avatar's own picture")
Image.fromarray((torch.cat(images, 2)[0] * 255).byte().numpy()).save(args.out / "avatar-asg-sh3.png")
print(args.out / "avatar-asg-sh3.png")
