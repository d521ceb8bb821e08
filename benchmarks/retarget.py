"""docs/retarget.png and results/retarget.json: motions made by program, on SMPL-X's joints and on Anny's.

    python benchmarks/retarget.py

The sheet shows SMPL-X's skeleton in grey, by forward kinematics of the file's own numbers, Anny's over it in
colour, hips on hips, and below the default body, posed by linear blend skinning. The figures are angles
between corresponding bones over all frames, mean and largest in degrees: of SMPL-X, and of skeletons like
CMU's and Mixamo's with random rotations.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from runs import ROOT

from specularip.body import Body, anny_body
from specularip.body.mesh import vertex_normals
from specularip.cameras import Cameras
from specularip.files import write_json, write_png
from specularip.gaussians import Binding
from specularip.motion.clip import Clip
from specularip.motion.kinematics import forward_kinematics
from specularip.motion.quaternions import rotate
from specularip.motion.read import read_motion
from specularip.motion.retarget import retarget
from specularip.motion.skeletons import parts_of
from specularip.raster.mesh import render_attributes

sys.path.insert(0, str(ROOT / "tests"))
import motion_files as made

KINDS = ("walk", "arms", "squat", "twist")
FRAMES, COLUMNS = 60, 6
WIDTH, HEIGHT, FINER = 200, 250, 3
COLORS = {"L": (220, 90, 30), "R": (40, 110, 200), "": (30, 140, 80)}
GREY = (165, 165, 165)
SMPL_HIPS, SMPL_KNEE, SMPL_ANKLE = (1, 2), 4, 7


def main() -> None:
    body = anny_body()
    binding = Binding(list(body.joint_names), list(body.joint_parents), body.joints)
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            poses, moved = made.smpl_motion(kind, 55, FRAMES)
            capture = read_motion(made.write_amass(Path(folder) / f"{kind}.npz", poses, moved))
            clip = retarget(capture, binding)
            parents, joints = made.smpl_skeleton(55)
            _, theirs = made.place_joints(parents, joints, made.turns_of(poses), moved)
            figures[f"SMPL-X, {kind}"] = angles(capture.joint_names, theirs, clip, binding)
            rows += sheet_rows(body, binding, clip, parents, theirs)
        for name, bones in (("CMU", made.CMU), ("Mixamo", made.MIXAMO)):
            parents, joints = made.rest_positions(bones)
            turns, moved = made.random_turns(FRAMES, len(bones), seed=1), np.zeros((FRAMES, 3))
            path = Path(folder) / f"{name}.bvh"
            path.write_text(made.bvh_text(bones, turns, moved))
            capture = read_motion(path)
            _, theirs = made.place_joints(parents, joints, turns, moved)
            clip = retarget(capture, binding)
            figures[f"{name}, random"] = angles(capture.joint_names, made.from_y_up(theirs), clip, binding)
    for name, found in figures.items():
        print(f"{name:16}", *(f"{part} {mean:.3f} (≤ {worst:.3f})" for part, (mean, worst) in found.items()))
    write_json(ROOT / "benchmarks" / "results" / "retarget.json", figures)
    write_png(ROOT / "docs" / "retarget.png", np.concatenate(rows))


def angles(
    names: tuple[str, ...], theirs: np.ndarray, clip: Clip, binding: Binding
) -> dict[str, tuple[float, float]]:
    _, ours = forward_kinematics(binding.joint_parents, binding.joints, clip.rotations, clip.translation)
    parts, our_parts = parts_of(names, "")[1], parts_of(binding.joint_names, "")[1]
    return made.bone_angles(parts, theirs, our_parts, ours.double().numpy())


def sheet_rows(
    body: Body, binding: Binding, clip: Clip, parents: list[int], theirs: np.ndarray
) -> list[np.ndarray]:
    """Two rows of the sheet: skeletons, and the body below."""
    turns, ours = forward_kinematics(binding.joint_parents, binding.joints, clip.rotations, clip.translation)
    names = binding.joint_names
    hips, knee, ankle = [names.index(f"upperleg01.{side}") for side in "LR"], "lowerleg01.L", "foot.L"
    our_leg = body.joints[[hips[0], names.index(knee), names.index(ankle)]].diff(dim=0).norm(dim=1).sum()
    their_leg = np.linalg.norm(
        np.diff(theirs[0, [SMPL_HIPS[0], SMPL_KNEE, SMPL_ANKLE]], axis=0), axis=1
    ).sum()
    scaled = torch.from_numpy(theirs).float() * (float(our_leg) / their_leg)
    middle = ours[:, hips].mean(1, keepdim=True)
    scaled = scaled - scaled[:, SMPL_HIPS].mean(1, keepdim=True) + middle
    skeletons, bodies = [], []
    for frame in range(0, len(clip), len(clip) // COLUMNS):
        target = (float(middle[frame, 0, 0]), float(middle[frame, 0, 1]), 0.1)
        camera = Cameras.orbit(35.0, 8.0, 6.0, 22.0, WIDTH, HEIGHT, target)
        image = Image.new("RGB", (WIDTH * FINER, HEIGHT * FINER), "white")
        draw = ImageDraw.Draw(image)
        colors = [COLORS[name.partition(".")[2]] for name in names]
        draw_bones(draw, camera, scaled[frame], parents, [GREY] * len(parents), 4 * FINER)
        draw_bones(draw, camera, ours[frame], binding.joint_parents, colors, int(1.5 * FINER))
        skeletons.append(np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)))
        bodies.append(draw_body(body, turns[frame], ours[frame], camera))
    return [np.concatenate(skeletons, 1), np.concatenate(bodies, 1)]


def draw_bones(
    draw: ImageDraw.ImageDraw,
    camera: Cameras,
    places: torch.Tensor,
    parents: list[int],
    colors: list[tuple[int, int, int]],
    width: int,
) -> None:
    pixels = (camera.project(places)[0][0] * FINER).tolist()
    for joint, parent in enumerate(parents):
        x, y = pixels[joint]
        radius = width * 0.8
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colors[joint])
        if parent >= 0:
            draw.line((x, y, *pixels[parent]), fill=colors[joint], width=width)


def draw_body(body: Body, turns: torch.Tensor, places: torch.Tensor, camera: Cameras) -> np.ndarray:
    """The body posed by linear blend skinning, in grey under a light from the upper left."""
    local = body.vertices[:, None] - body.joints[body.skin_joints]
    moved = rotate(turns[body.skin_joints], local) + places[body.skin_joints]
    vertices = (body.skin_weights[..., None] * moved).sum(1)
    light = torch.nn.functional.normalize(torch.tensor([0.2, -1.0, 0.8]), dim=0)
    shade = (0.35 + 0.55 * (vertex_normals(vertices, body.faces) @ light).clamp_min(0))[:, None]
    images, coverage = render_attributes(vertices, body.faces, shade, camera, supersample=2)
    pixels = images[0, 0] + (1 - coverage[0])
    return (pixels.clamp(0, 1) * 255).byte()[..., None].expand(-1, -1, 3).numpy()


if __name__ == "__main__":
    main()
