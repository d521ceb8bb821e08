"""Rasterise and differentiate any Gaussians: random ones in a plane are fitted to a picture.

Writes the start, the result and the picture side by side. Twenty seconds on a CPU."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import specularip as sip

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--image", default=Path(__file__).with_name("eileen_collins.jpg"))
parser.add_argument("--out", type=Path, default=Path("out/03.png"))
parser.add_argument("--steps", type=int, default=300)
args = parser.parse_args()

size, count = 192, 4000
picture = np.asarray(Image.open(args.image).convert("RGB").resize((size, size)))
target = torch.from_numpy(picture / np.float32(255))[None]  # [1,H,W,3]
view = torch.eye(4)[None], torch.tensor([[[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]]]), size, size

torch.manual_seed(0)
means = torch.cat([torch.rand(count, 2) - 0.5, torch.ones(count, 1)], 1).requires_grad_()
rest = [torch.randn(count, 4), torch.full((count, 3), -4.5), torch.zeros(count), torch.zeros(count, 3)]
quats, log_scales, opacities, colors = (tensor.requires_grad_() for tensor in rest)
optimizer = torch.optim.Adam([{"params": [means], "lr": 1e-3}, {"params": rest, "lr": 3e-2}])
images = []
for _ in range(args.steps):
    image = sip.rasterize(means, quats, log_scales.exp(), opacities.sigmoid(), colors.sigmoid(), *view).image
    images = [*images[:1], image.detach()]  # the first and the last
    optimizer.zero_grad()
    (image - target).abs().mean().backward()
    optimizer.step()
args.out.parent.mkdir(parents=True, exist_ok=True)
Image.fromarray((torch.cat([*images, target], 2)[0] * 255).byte().numpy()).save(args.out)
print(f"{args.out}: {-10 * (images[-1] - target).square().mean().log10():.1f} dB after {args.steps} steps")
