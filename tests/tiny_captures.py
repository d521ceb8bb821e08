"""A capture of a few small images, for `fit`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_capture(folder: Path, count: int = 6, size: int = 32) -> Path:
    """`count` cameras in a circle around a reddish disc that is darker at its rim."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = []
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    distance = np.hypot(x, y)
    for index in range(count):
        angle = index * 2 * np.pi / count
        position = np.array([2 * np.sin(angle), -2 * np.cos(angle), 0])
        z = position / 2
        right = np.cross([0, 0, 1], z)
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(z, right), z, position], 1)
        pixels = np.zeros((size, size, 4), np.uint8)
        shade = np.clip(1.2 - distance, 0, 1)[..., None]
        pixels[..., :3] = shade * [220, 90, 60]
        pixels[..., 3] = 255 * (distance < 0.6)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        frames.append({"file_path": f"{index}", "transform_matrix": pose.tolist()})
    table = {"camera_angle_x": 0.7, "frames": frames}
    (folder / "transforms_train.json").write_text(json.dumps(table))
    return folder
