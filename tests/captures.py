"""Posed images on disk: random pixels, cameras on an orbit."""

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from specularip.cameras import Cameras

WIDTH, HEIGHT, FOV_X = 24, 18, 0.7


def opengl_poses(cameras: Cameras) -> list[list[list[float]]]:
    poses = np.linalg.inv(cameras.viewmats.double().numpy())
    poses[:, :3, 1:3] *= -1
    return poses.tolist()


def orbit(count: int = 5) -> Cameras:
    fov_y = 2 * math.atan(math.tan(FOV_X / 2) * HEIGHT / WIDTH)
    azimuth = [360 * index / count for index in range(count)]
    return Cameras.orbit(azimuth, 10.0, 2.0, math.degrees(fov_y), WIDTH, HEIGHT)


def write(folder: Path, split: str = "train", count: int = 5, **keys: object) -> dict:
    """A small data set: random pixels, cameras on an orbit. Returns the table of the JSON."""
    rng = np.random.default_rng(count)
    folder.mkdir(exist_ok=True)
    (folder / split).mkdir()
    frames = []
    for index, pose in enumerate(opengl_poses(orbit(count))):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / split / f"r_{index}.png")
        frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose})
    table = {"camera_angle_x": FOV_X, **keys, "frames": frames}
    save(folder, table, split)
    return table


def save(folder: Path, table: object, split: str = "train") -> None:
    (folder / f"transforms_{split}.json").write_text(json.dumps(table))
