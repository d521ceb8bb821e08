"""tools/compact with MakeHuman's assets: dressed people are whole, and their renders what the prior expects.

The assets are not in this repository: SPECULARIP_COMPACT_ASSETS names the file that `tools/compact/assets.py`
writes.
"""

from __future__ import annotations

import os
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "compact"))

from assets import Assets
from dressing import PersonMesh, dress
from mesh_render import BACKGROUND, Renderer
from people import draw_person

from specularip.body.anny import AnnyModel
from specularip.body.coordinate_map import body_map
from specularip.cameras import Cameras

VARIABLE = "SPECULARIP_COMPACT_ASSETS"
SEED = 0  # the fixture `seed` sets it
pytestmark = [
    pytest.mark.usefixtures("seed"),
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"needs MakeHuman's assets: {VARIABLE} is not set"),
]
SIZE = 32


@pytest.fixture(scope="module")
def assets() -> Assets:
    return Assets.load(Path(os.environ[VARIABLE]), "cpu")


@pytest.fixture(scope="module")
def people(assets: Assets, seed: int) -> list[PersonMesh]:
    rng = random.Random(seed)
    return dress([draw_person(rng) for _ in range(2)], assets)


def test_dressed_people_are_whole(people: list[PersonMesh]) -> None:
    for mesh in people:
        count, faces = len(mesh.vertices), len(mesh.faces)
        assert mesh.normals.shape == mesh.tangents.shape == (count, 3) and mesh.uv.shape == (faces, 3, 2)
        assert mesh.vertices.isfinite().all() and mesh.uv.isfinite().all(), SEED
        assert 0 <= mesh.faces.min() and mesh.faces.max() < count
        assert len(mesh.part) == faces and 0 <= mesh.part.min() and mesh.part.max() < len(mesh.parts)
        lengths = mesh.normals[mesh.faces.unique()].norm(dim=-1)
        assert torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3), SEED
        assert mesh.body.shape == (len(AnnyModel.load().regions), 3)
        # Clothes stay near the body, of which hats and hair are the farthest.
        reach = mesh.vertices.abs().amax(0) - mesh.body.abs().amax(0)
        assert reach.max() < 0.35 * mesh.height, (SEED, reach)
        assert {"skin", "eye"} <= {part.name for part in mesh.parts}


def test_a_person_does_not_depend_on_the_others(assets: Assets, people: list[PersonMesh]) -> None:
    alone = dress([draw_person(random.Random(SEED))], assets)[0]
    assert torch.equal(alone.faces, people[0].faces), SEED
    assert torch.allclose(alone.vertices, people[0].vertices, atol=1e-5), SEED


def test_hair_and_brows_follow_a_shifted_head(assets: Assets) -> None:
    person = replace(draw_person(random.Random(SEED)), hair_style="short", pieces=[], pose=(0.0,) * 7)
    shift = torch.zeros(1, len(assets.mean), 3)
    shift[:, :, 1] = -0.01
    plain, moved = dress([person], assets)[0], dress([person], assets, shift)[0]
    assert torch.equal(plain.faces, moved.faces), SEED
    gone = moved.vertices - plain.vertices
    assert torch.allclose(gone, shift[0, :1].expand_as(gone), atol=1e-5), SEED
    assert torch.allclose(moved.body - plain.body, shift[0, assets.package], atol=1e-5), SEED


def test_renders_and_body_maps(assets: Assets, people: list[PersonMesh]) -> None:
    renderer, meshes = Renderer(assets, "cpu"), people[:1]
    height, target = meshes[0].height, torch.zeros(2, 3)
    cameras = Cameras.orbit([0.0, 120.0], 5.0, 2.2 * height, 35.0, SIZE, SIZE)
    images = renderer.images(meshes, [cameras], [target], SIZE)
    assert images.shape == (2, 5, SIZE, SIZE) and 0 <= images.min() and images.max() <= 1
    rgb, alpha, depth = images.split([3, 1, 1], 1)
    empty = alpha == 0
    assert 0.05 < (alpha == 1).float().mean() < 0.9
    assert torch.allclose(rgb[empty.expand_as(rgb)], torch.tensor(BACKGROUND), atol=1e-4)
    assert (depth[empty] == 0.5).all() and (depth[~empty] - 0.5).abs().max() < 0.3
    maps = renderer.body_maps(meshes, [cameras], [target], SIZE)
    expected = body_map(meshes[0].body, AnnyModel.load().faces, height, cameras, target)
    assert (maps - expected).abs().mean() < 1e-3, SEED
