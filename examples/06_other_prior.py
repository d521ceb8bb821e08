"""Another diffusion prior: any folder in diffusers' layout. Without one, the folder of the shipped prior.

The folder holds model_index.json, unet/, text_encoder/, tokenizer/ and scheduler/, and optionally vae/ or
autoencoder/, controlnet/, image_encoder/ and ip_adapter/; what the prior can do follows from them.
A prior that draws no depth starts from bare skin: it needs the settings of `presets.sd15`, or hundreds of
steps.
With the shipped prior it takes as long as 01; `--quick` gives a very rough avatar in half a minute.
"""

import argparse
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import specularip as sip
from specularip.presets import preset_config

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("prior", nargs="?", default=files("specularip") / "assets" / "compact")
parser.add_argument("--image", default=Path(__file__).with_name("eileen_collins.jpg"))
parser.add_argument("--out", default="out/06")
parser.add_argument("--device", default="cpu", help="cpu or cuda, for the whole run")
parser.add_argument("--quick", action="store_true")
args = parser.parse_args()

config = preset_config("compact")
prior = replace(config.prior, path=str(args.prior))
guidance = replace(config.guidance, scale=2.0)  # what suits one prior need not suit another
config = replace(config, prior=prior, guidance=guidance, device=args.device)
if args.quick:
    start = replace(config.start, ddim_steps=4, scale=1.0, fit=replace(config.start.fit, steps=20))
    seid = replace(config.seid, steps=5, points=6000, render_size=128, views_per_step=2)
    scr = replace(config.scr, orbit_views=4, refine_steps=1, fit_steps=4)
    config = replace(config, start=start, seid=seid, scr=scr, turntable_frames=30, turntable_size=240)
text = "A man in a green cotton t-shirt and blue jeans"
avatar = sip.generate(text, args.image, out=args.out, config=config, overwrite=True)
print(f"{args.out}: {len(avatar.gaussians)} Gaussians, from the prior in {config.prior.path}")
