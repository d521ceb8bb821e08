"""Photos painted on the head: of heads in known colours, before known cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from painted_heads import SKIN, average_head, landmarks_in, photo_of, places, portrait_camera, smooth_skin
from portraits import portrait
from torch import Tensor
from torch.nn import functional as F

from specularip.body import AnnyModel, anny_body
from specularip.body.dense_head import DenseHead
from specularip.body.mesh import vertex_normals
from specularip.cameras import Cameras
from specularip.faces.head_fit import fit_head
from specularip.faces.landmarks import find_faces
from specularip.faces.projection import BROWS, FaceAreas, Painted, _seen, luminance, paint, skin_model
from specularip.stages.photo_face import PhotoFace, photo_face

DARK = (0.10, 0.07, 0.05)
BROW_HEIGHT = float(places(AnnyModel.load().template)[list(BROWS[0] + BROWS[1]), 2].max())


def camera_at(azimuth_deg: float) -> Cameras:
    return portrait_camera(AnnyModel.load().template, azimuth_deg)


def painted(colors: list[Tensor], azimuths_deg: list[float]) -> Painted:
    """From photos of the average head in colours [D,3], before a blue wall."""
    cameras = [camera_at(azimuth) for azimuth in azimuths_deg]
    faces = [landmarks_in(camera, AnnyModel.load().template) for camera in cameras]
    return paint([photo_of(*one) for one in zip(colors, cameras)], faces, average_head(*cameras))


def plain_skin() -> Tensor:
    return torch.tensor(SKIN).repeat(len(DenseHead.load().corners), 1)


def normals() -> Tensor:
    model, dense = AnnyModel.load(), DenseHead.load()
    return F.normalize(dense.at(vertex_normals(model.template, model.faces)), dim=-1)


def spot(x: float, z: float, radius: float) -> Tensor:
    """The vertices [D] of the face's skin within a circle, seen from the front."""
    template = DenseHead.load().template
    across = (template[:, [0, 2]] - torch.tensor([x, z])).norm(dim=1)
    return (across < radius) & (template[:, 1] < -0.1) & ~DenseHead.load().eyeball


def test_what_a_photo_shows_comes_back(generator: torch.Generator, seed: int) -> None:
    colors = smooth_skin(generator)
    result = painted([colors], [0.0])
    clear = result.known > 0.95
    face = FaceAreas.load().face
    assert int((clear & (face == 1)).sum()) > 0.5 * int((face == 1).sum())
    assert not result.known[face == 0].any()
    assert float(result.known.min()) >= 0 and float(result.known.max()) <= 1
    assert float((result.colors - colors)[clear].abs().mean()) < 0.01, seed
    assert float((result.colors - colors)[clear].abs().quantile(0.99)) < 0.03, seed
    shuffled = colors[torch.randperm(len(colors), generator=generator)]
    assert float((result.colors - shuffled)[clear].abs().mean()) > 0.015  # the colours do differ


def test_the_camera_says_where_the_photo_shows_what(generator: torch.Generator, seed: int) -> None:
    """Expression, size of the photo and place in it do not matter."""
    colors, template = smooth_skin(generator, 250.0), AnnyModel.load().template
    head = average_head(camera_at(0.0))
    smiling = replace(head, expressions=3 * torch.randn(head.expressions.shape, generator=generator))
    camera = portrait_camera(template, -15.0, 10.0, size=900, fov_deg=44.0)
    camera.Ks[:, 0, 2] += 150
    wide = replace(smiling, cameras=(Cameras(camera.viewmats, camera.Ks, 1100, 900),))
    vertices = wide.vertices(0)
    photo = photo_of(colors, wide.cameras[0], vertices=vertices)
    assert photo.shape == (900, 1100, 3)
    result = paint([photo], [landmarks_in(wide.cameras[0], vertices)], wide)
    clear = result.known > 0.95
    clear &= DenseHead.load().template[:, 0] < 0.02  # what the camera sees itself
    assert int(clear.sum()) > 5000, seed
    assert float((result.colors - colors)[clear].abs().mean()) < 0.009, seed


def test_the_hidden_side_is_the_mirror_image(generator: torch.Generator, seed: int) -> None:
    colors, dense = smooth_skin(generator), DenseHead.load()
    result = painted([colors], [35.0])  # from the person's left
    towards = F.normalize(camera_at(35.0).positions - dense.template, dim=-1)
    hidden = ((towards * normals()).sum(1) < 0.2) & (FaceAreas.load().face == 1) & (normals()[:, 1] < 0)
    hidden &= dense.template[:, 0] < -0.005
    filled = hidden & (result.known > 0.85)
    assert int(filled.sum()) > 0.5 * int(hidden.sum())
    mirrored = colors[dense.mirror]
    missed = (result.colors - mirrored)[filled].abs()
    assert float(missed.mean()) < 0.012, seed
    assert float((result.colors - colors)[filled].abs().mean()) > 2 * float(missed.mean()), seed
    assert float(result.known[filled].max()) < 0.95


def crossed(starts: Tensor, ends: Tensor, corners: Tensor) -> Tensor:
    """Whether a triangle, corners [F,3,3], crosses the line between points [n,3], by Moeller and Trumbore."""
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    result = []
    for start, end in zip(starts, ends):
        along = end - start
        p = torch.linalg.cross(along.expand_as(ac), ac)
        scale = 1 / (ab * p).sum(1)
        offset = start - a
        u = (offset * p).sum(1) * scale
        q = torch.linalg.cross(offset, ab)
        v, t = (q * along).sum(1) * scale, (q * ac).sum(1) * scale
        result.append(((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < 1)).any())
    return torch.stack(result)


def test_what_the_head_itself_hides_is_not_seen() -> None:
    """From the side, the nose hides what faces the camera behind it."""
    model, dense = AnnyModel.load(), DenseHead.load()
    camera = camera_at(55.0)
    photo, face = photo_of(plain_skin(), camera), landmarks_in(camera, model.template)
    _, known = _seen(photo, face, average_head(camera), 0)
    towards = F.normalize(camera.positions - dense.template, dim=-1)
    rows = ((towards * normals()).sum(1) > 0.35) & (FaceAreas.load().face > 0)
    rows = (rows & (dense.template[:, 0] < 0.03)).nonzero()[::8, 0]
    starts = dense.template[rows] + 0.008 * towards[rows]
    hidden = crossed(starts, camera.positions.expand_as(starts), model.template[model.faces])
    assert int(hidden.sum()) > 50 and float(known[rows[hidden]].mean()) < 0.15
    assert float(known[rows[~hidden]].mean()) > 0.5


@pytest.mark.parametrize("azimuth_deg", [0.0, 20.0, 40.0])
@pytest.mark.parametrize("shift", [-2.0, 0.0, 2.0])
def test_nothing_of_the_background_enters(azimuth_deg: float, shift: float) -> None:
    """Even if the fit is two pixels off, some 5 % of the distance of the eyes. Nor does the black of what is
    not seen."""
    camera = camera_at(azimuth_deg)
    face = landmarks_in(camera, AnnyModel.load().template)
    photo = photo_of(plain_skin(), camera)
    camera.Ks[:, 0, 2] += shift
    result = paint([photo], [face], average_head(camera))
    assert float((result.colors - torch.tensor(SKIN)).abs().max()) < 0.015


def test_each_place_is_taken_from_the_photo_that_shows_it_best() -> None:
    template = DenseHead.load().template
    stripes = torch.sin(2 * torch.pi * template[:, 2:] / 0.02).sign()
    skin = plain_skin()
    striped = skin * (1 + 0.12 * stripes * torch.tensor([1.0, -0.5, 0.0]))
    result = painted([skin, striped], [-40.0, 40.0])
    pattern, found = striped - skin, result.colors - skin
    areas = FaceAreas.load()
    cheeks = (areas.face == 1) & (areas.height > 0.0) & (areas.height < 0.05) & (template[:, 0].abs() > 0.025)
    shares = []
    for side in (-1, 1):
        rows = cheeks & (template[:, 0].sign() == side)
        shares.append(float((found * pattern)[rows].sum() / pattern[rows].square().sum()))
    assert shares[0] < 0.35 and shares[1] > 0.65, shares
    middle = (areas.face == 1) & (template[:, 0].abs() < 0.005) & (normals()[:, 1] < -0.8)
    assert 0.3 < float((found * pattern)[middle].sum() / pattern[middle].square().sum()) < 0.7


def test_all_photos_take_the_tone_of_the_first() -> None:
    skin = plain_skin()
    result = painted([skin, 0.9 * skin * torch.tensor([1.1, 1.0, 0.9])], [-30.0, 30.0])
    shown = result.known > 0.5
    assert float((result.colors - skin)[shown].abs().max()) < 0.02


def test_a_fringe_over_the_forehead_is_left_out() -> None:
    template, skin = DenseHead.load().template, torch.tensor(SKIN)
    fringe = template[:, 2] > BROW_HEIGHT + 0.006
    colors = torch.where(fringe[:, None], torch.tensor(DARK), plain_skin())
    result = painted([colors], [0.0])
    areas = FaceAreas.load()
    on_forehead = fringe & (areas.face == 1)
    assert int(on_forehead.sum()) > 300
    assert float(result.known[on_forehead].max()) < 0.1
    assert float(result.known[painted([plain_skin()], [0.0]).known > 0.95].mean()) > 0.6
    assert float((result.colors - skin).abs().max()) < 0.06


def test_a_dark_spot_within_the_skin_stays() -> None:
    height = BROW_HEIGHT + 0.009  # where a fringe might be
    on_forehead = spot(0.004, height, 0.005)
    areas = FaceAreas.load()
    assert int(on_forehead.sum()) > 20 and float(areas.core[on_forehead].max()) < 0.5
    colors = torch.where(on_forehead[:, None], torch.tensor(DARK), plain_skin())
    result = painted([colors], [0.0])
    assert float(result.known[on_forehead].min()) > 0.9
    core = spot(0.004, height, 0.0025)
    assert float(luminance(result.colors[core]).mean()) < 0.5 * float(luminance(torch.tensor(SKIN)))


def test_light_from_the_side_is_evened_out() -> None:
    template, skin = DenseHead.load().template, plain_skin()
    lit = skin * torch.exp(0.35 * normals()[:, :1] - 0.15)
    x, _, z = places(AnnyModel.load().template)[50].tolist()  # on a cheek
    mole = spot(x, z, 0.005)
    lit[mole] *= 0.6
    result = painted([lit], [0.0])
    sides = [(result.known > 0.95) & (side * template[:, 0] > 0.02) & ~mole for side in (-1, 1)]

    def ratio(colors: Tensor) -> float:
        right, left = (float(luminance(colors[rows]).log().mean()) for rows in sides)
        return left - right

    assert ratio(lit) > 0.2 and abs(ratio(result.colors)) < 0.15 * ratio(lit)
    assert float(result.colors[sides[0] | sides[1]].std(0).max()) < 0.02
    whole = sides[0] | sides[1]
    assert torch.allclose(result.colors[whole].mean(0), lit[whole].mean(0), rtol=0.1)
    # What is darker than its surroundings, not shaded, stays so.
    core = spot(x, z, 0.003)
    assert float(luminance(result.colors[core]).mean()) < 0.75 * float(luminance(result.colors[whole]).mean())


def test_skin_is_told_from_other_colours(generator: torch.Generator, seed: int) -> None:
    skin = torch.tensor(SKIN) * (1 + 0.04 * torch.randn(600, 3, generator=generator))
    wall = torch.rand(200, 3, generator=generator) * torch.tensor([0.2, 0.3, 1.0])
    likely = skin_model(torch.cat([wall, skin]))
    assert float(likely(skin).mean()) > 0.9, seed
    for factor in (0.8, 1.15):
        assert float(likely(factor * torch.tensor(SKIN))) > 0.8, seed
    others = torch.tensor([[0.05, 0.1, 0.95], DARK, [0.2, 0.7, 0.2], [0.9, 0.9, 0.95], [0.8, 0.1, 0.1]])
    assert not likely(others).any(), seed
    assert likely(others.reshape(5, 1, 3)).shape == (5, 1)


def test_grey_photos_are_painted() -> None:
    photo = np.asarray(portrait())
    (face,) = find_faces(photo)
    head = fit_head([face], [(photo.shape[1], photo.shape[0])])
    grey = np.asarray(portrait().convert("L").convert("RGB"))
    colored, result = (paint([pixels], [face], head) for pixels in (photo, grey))
    clear = (result.known > 0.95) & (colored.known > 0.95)
    assert int(clear.sum()) > 8000
    assert torch.allclose(
        result.colors, result.colors.mean(1, keepdim=True).expand_as(result.colors), atol=2e-3
    )
    assert float((result.colors[clear, 0] - luminance(colored.colors[clear])).abs().mean()) < 0.03


@pytest.fixture(scope="module")
def plain() -> Painted:
    return painted([plain_skin()], [0.0])


def worn(plain: Painted, text: str, weight: float = 1.0) -> PhotoFace:
    return photo_face(plain, anny_body(), weight, text, False, None)


def test_the_weight_of_the_photos_scales_what_they_determine(plain: Painted) -> None:
    whole, half = worn(plain, "a woman in a coat"), worn(plain, "a woman in a coat", 0.5)
    assert torch.equal(whole.known, plain.known) and torch.equal(whole.likely, plain.likely)
    assert torch.allclose(half.known, 0.5 * whole.known) and torch.allclose(half.likely, 0.5 * whole.likely)
    assert torch.equal(half.colors, plain.colors)
    assert torch.allclose(whole.positions, DenseHead.load().at(anny_body().vertices))


@pytest.mark.parametrize(
    "text", ["a man in a Red Hat", "a woman in a hijab and coat", "a boy in a baseball cap"]
)
def test_hats_keep_the_forehead(plain: Painted, text: str) -> None:
    face, bare = worn(plain, text), worn(plain, "a man")
    eyes = float(anny_body().keypoints[14:16, 2].mean())
    above, below = face.positions[:, 2] > eyes + 0.035, face.positions[:, 2] < eyes + 0.02
    assert float(bare.known[above].max()) > 0.9
    assert not face.known[above].any()
    assert torch.equal(face.known[below], bare.known[below])


@pytest.mark.parametrize(
    "text", ["a bearded man", "an old man with a long white Beard", "a man with stubble"]
)
def test_beards_of_the_text_are_not_painted_over(plain: Painted, text: str) -> None:
    face, bare = worn(plain, text), worn(plain, "a man")
    nose = float(anny_body().keypoints[0, 2])
    below, above = face.positions[:, 2] < nose - 0.025, face.positions[:, 2] > nose - 0.01
    assert float(bare.known[below].max()) > 0.9 and float(bare.likely[below].max()) > 0.9
    assert torch.allclose(face.known[below], 0.5 * bare.known[below])
    assert not face.likely[below].any()
    assert torch.equal(face.known[above], bare.known[above])


@pytest.mark.parametrize("text", ["a chatty woman in a capable suit", "a crowned king with whiskered cats"])
def test_parts_of_words_are_no_hats(plain: Painted, text: str) -> None:
    face = worn(plain, text)
    assert torch.equal(face.known, plain.known)
