"""An avatar from posed images: a folder in NeRF-synthetic's layout.

Without a folder it first photographs a glossy ball (see capture.py for the layout). Writes a run folder; its
preview.png shows four views. Half a minute on a CPU for the ball; two minutes for 20,000 Gaussians, 1,500
iterations and images of 400 x 400 pixels.
"""

import argparse
import json
from pathlib import Path

from ball import glossy_ball
from capture import photograph

import specularip as sip

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("data", nargs="?", type=Path, help="folder with transforms_train.json and its images")
parser.add_argument("--out", type=Path, default=Path("out/02"))
parser.add_argument("--iterations", type=int, default=600)
parser.add_argument("--points", type=int, default=4000)
args = parser.parse_args()

if args.data is None:
    args.data = Path("out/ball")
    photograph(glossy_ball(), args.data)
config = sip.FitConfig(iterations=args.iterations, points=args.points)
avatar = sip.fit(args.data, args.out, config=config, seed=0, overwrite=True)  # on a GPU where there is one
print(f"{args.out}: {len(avatar.gaussians)} Gaussians")
report = json.loads((args.out / "report.json").read_text())  # settings, versions, timings, and metrics
print("on the test views:", report["metrics"])
