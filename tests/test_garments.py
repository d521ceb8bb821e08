"""The garments that tools/compact draws: closed, finite, the same every time, and where they should be."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from specularip.body.anny import AnnyModel
from specularip.body.phenotype import Phenotype

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "compact"))
garments = pytest.importorskip("garments")

CUT = dict.fromkeys(("length", "sleeve", "flare", "folds", "neck", "loose", "variant", "phase"), 0.5)


@dataclass
class Piece:
    garment: str
    rgb: tuple[float, float, float] = (0.2, 0.3, 0.7)
    material: str = "cotton"
    cut: dict[str, float] = field(default_factory=lambda: dict(CUT))


@pytest.fixture(scope="module")
def frame() -> "garments.BodyFrame":
    body = AnnyModel.load("cpu").body(Phenotype(gender=1.0, cupsize=0.8))
    return garments.BodyFrame(
        body.vertices,
        body.vertex_normals,
        body.faces,
        body.regions,
        body.joints,
        body.joint_names,
        body.height,
    )


@pytest.mark.parametrize("name", sorted(garments.DRAWN))
def test_garment_is_a_mesh(name: str, frame: "garments.BodyFrame") -> None:
    meshes, again = garments.build(Piece(name), frame), garments.build(Piece(name), frame)
    assert meshes
    for mesh, same in zip(meshes, again, strict=True):
        count = len(mesh.vertices)
        assert len(mesh.faces) > 0
        assert 0 <= mesh.faces.min() and mesh.faces.max() < count
        assert mesh.uv.shape == (len(mesh.faces), 3, 2)
        assert (
            len(mesh.tangents)
            == len(mesh.anchors)
            == len(mesh.other_anchors)
            == len(mesh.other_share)
            == count
        )
        assert mesh.vertices.isfinite().all() and mesh.uv.isfinite().all() and mesh.tangents.isfinite().all()
        assert torch.equal(mesh.vertices, same.vertices)
        # Cloth stays near the body.
        assert (mesh.vertices.amax(0) < frame.vertices.amax(0) + 0.25).all()
        assert (mesh.vertices.amin(0) > frame.vertices.amin(0) - 0.25).all()


@pytest.mark.parametrize("name", ["dress", "mini dress", "gown", "coat", "sweater", "t-shirt", "blouse"])
@pytest.mark.parametrize("neck", [0.0, 0.4, 0.65, 0.8, 1.0])
def test_chest_is_covered(name: str, neck: float, frame: "garments.BodyFrame") -> None:
    """At the height of the breasts no skin is left in front."""
    meshes = garments.build(Piece(name, cut=CUT | {"neck": neck, "sleeve": 0.1}), frame)
    hidden = torch.stack([mesh.hidden for mesh in meshes]).any(0)
    shapes = sys.modules["garment_shapes"]
    place = torch.from_numpy(shapes.template().vertices)
    chest = (place[:, 2] > 0.24) & (place[:, 2] < 0.36) & (place[:, 1] < -0.06) & (place[:, 0].abs() < 0.12)
    chest &= frame.regions == 2
    assert hidden[chest].all()


def test_normals_point_outwards(frame: "garments.BodyFrame") -> None:
    """The volume that a garment encloses is positive."""
    for name in ("boots", "skirt", "sweater", "beanie", "gloves"):
        mesh = garments.build(Piece(name), frame)[0]
        a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
        centre = mesh.vertices.mean(0)
        assert (torch.linalg.cross(b - a, c - a) * (a - centre)).sum() > 0, name
