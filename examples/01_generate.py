"""An avatar from a sentence and a photo of a face.

Writes a run folder: avatar.safetensors, avatar.ply, turntable.mp4, preview.png, report.json. Two to five
minutes, depending on the CPU; `--quick` changes some settings and makes a very rough one in half a minute.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import specularip as sip
from specularip.presets import preset_config

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("text", nargs="?", default="A woman in a red satin dress")
parser.add_argument("--image", default=Path(__file__).with_name("eileen_collins.jpg"))
parser.add_argument("--out", default="out/01")
parser.add_argument("--quick", action="store_true")
args = parser.parse_args()

config = preset_config("compact")  # all settings: nested frozen dataclasses
if args.quick:
    start = replace(config.start, ddim_steps=4, scale=1.0, fit=replace(config.start.fit, steps=20))
    seid = replace(config.seid, steps=5, points=6000, render_size=128, views_per_step=2)
    scr = replace(config.scr, orbit_views=4, refine_steps=1, fit_steps=4)
    config = replace(config, start=start, seid=seid, scr=scr, turntable_frames=30, turntable_size=240)
avatar = sip.generate(args.text, args.image, out=args.out, config=config, seed=0, overwrite=True)

camera = sip.Cameras.orbit(azimuth_deg=30, elevation_deg=5, distance=2.4, width=512, height=512)
frame = avatar.render(camera)  # .image, .alpha, .depth, .normal, .specular: [B,H,W,...], float32
print(f"{args.out}: {len(avatar.gaussians)} Gaussians; see preview.png and turntable.mp4")
print(f"highlights add up to {float(frame.specular.max()):.2f} to a pixel, seen from azimuth 30°")
