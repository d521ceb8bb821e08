"""Posed images for the fit: an avatar photographed from all sides, written in NeRF-synthetic's layout."""

import json
import math
from pathlib import Path

import torch
from PIL import Image

import specularip as sip


def photograph(avatar: sip.Avatar, folder: Path, size: int = 128, fov_deg: float = 40.0) -> None:
    """Write 32 training and 4 test views, RGBA, with transforms_train.json and transforms_test.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, views, offset in (("train", 32, 0.0), ("test", 4, 15.0)):
        azimuths = offset + torch.arange(views) * 360 / views
        elevations = torch.tensor([-20.0, 10.0, 40.0, 0.0]).repeat(views // 4)
        cameras = sip.Cameras.orbit(azimuths, elevations, 1.5, fov_deg, size, size)
        frame = avatar.render(cameras, background=0.0)
        rgba = (torch.cat([frame.image, frame.alpha], -1) * 255).round().byte().numpy()
        # Camera to world, with OpenGL's axes (y up, z backward) where ours are OpenCV's.
        poses = cameras.viewmats.inverse() * torch.tensor([1.0, -1.0, -1.0, 1.0])
        frames = []
        for k in range(views):
            Image.fromarray(rgba[k]).save(folder / f"{split}_{k:02}.png")
            frames.append({"file_path": f"{split}_{k:02}", "transform_matrix": poses[k].tolist()})
        table = {"camera_angle_x": math.radians(fov_deg), "colour": "premultiplied", "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(table))
