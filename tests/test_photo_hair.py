"""The hair that photos show: of the average head with painted hair, and of the shipped portrait."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from painted_heads import BLUE, SKIN, average_head, photo_of, portrait_camera
from portraits import portrait

from specularip.body import AnnyModel
from specularip.body.dense_head import DenseHead
from specularip.cameras import Cameras
from specularip.faces.hair import COLORS
from specularip.faces.head_fit import fit_head
from specularip.faces.landmarks import find_faces
from specularip.faces.photo_hair import PhotoHair, photo_hair
from specularip.faces.projection import FaceAreas

Color = tuple[float, float, float]
NAMED: dict[str, Color] = {words.split()[0]: color for words, color in COLORS}
SILENT = "A woman in a red satin dress"


def photo_with_hair(
    color: Color, down: float | None = None, wall: Color = BLUE, azimuth_deg: float = 0.0
) -> tuple[np.ndarray, Cameras]:
    """A photo of the average head with a cap of short hair.

    down: the height in metres above the mouth to which hair behind the head hangs; None: there is none.
    """
    areas, template = FaceAreas.load(), DenseHead.load().template
    camera = portrait_camera(AnnyModel.load().template, azimuth_deg)
    cap = (areas.outside > 0.008) & (areas.height > 0)
    photo = photo_of(torch.where(cap[:, None], torch.tensor(color), torch.tensor(SKIN)), camera, wall)
    if down is not None:
        mouth = float(template[(areas.height.abs() < 0.003) & (areas.outside < 0), 2].mean())
        middle = float(template[:, 1].median())
        corners = torch.tensor([[-0.12, middle, mouth + 0.09], [0.12, middle, mouth + down]])
        (left, top), (right, bottom) = camera.project(corners)[0][0].int().tolist()
        empty = (photo == np.rint(255 * np.array(wall))).all(2)
        behind = np.zeros_like(empty)
        behind[top:bottom, left:right] = True
        photo[empty & behind] = np.rint(255 * np.array(color))
    return photo, camera


def found(photo: np.ndarray, camera: Cameras, text: str = SILENT) -> PhotoHair | None:
    return photo_hair(text, photo, average_head(camera), 0)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("light", [0.85, 1.1])
def test_the_colour_of_short_hair_is_named(name: str, light: float) -> None:
    color = tuple(min(1.0, light * value) for value in NAMED[name])
    hair = found(*photo_with_hair(color))  # type: ignore[arg-type]
    assert hair is not None and hair.words == f"short {name} hair"
    assert hair.color.tolist() == pytest.approx(color, abs=0.01)


@pytest.mark.parametrize("azimuth_deg", [-25.0, 25.0])
def test_heads_that_are_turned(azimuth_deg: float) -> None:
    hair = found(*photo_with_hair(NAMED["brown"], azimuth_deg=azimuth_deg))
    assert hair is not None and hair.words == "short brown hair"


def test_a_scalp_with_the_skins_colour_is_bald() -> None:
    camera = portrait_camera(AnnyModel.load().template)
    photo = photo_of(torch.tensor(SKIN).repeat(len(DenseHead.load().corners), 1), camera)
    hair = found(photo, camera)
    assert hair is not None and hair.words == "a bald head"
    assert hair.color.tolist() == pytest.approx(SKIN, abs=0.01)


@pytest.mark.parametrize(
    ("down", "words"),
    [(0.02, "short brown hair"), (-0.04, "a brown bob"), (-0.12, "long brown hair")],
)
def test_how_far_the_hair_hangs_down(down: float, words: str) -> None:
    hair = found(*photo_with_hair(NAMED["brown"], down))
    assert hair is not None and hair.words == words


def test_a_wall_of_the_hairs_colour_is_no_hair() -> None:
    hair = found(*photo_with_hair(NAMED["brown"], wall=(0.30, 0.18, 0.11)))
    assert hair is not None and hair.words == "short brown hair"


@pytest.mark.parametrize(
    "text",
    [
        "a woman with red hair",
        "A Blonde in a red coat",
        "a bald man",
        "a woman in a hijab",
        "a man with a long ponytail",
        "a red-haired boy",
        "two redhead and brunette twins, a brunette",
        "an astronaut with a helmet",
        "a monk with a shaved head",
    ],
)
def test_the_text_goes_before_the_photo(text: str) -> None:
    photo, camera = photo_with_hair(NAMED["black"])
    assert found(photo, camera, text) is None
    assert found(photo, camera, "a chair, a bundle and a hoodlum in black") is not None


def test_hair_outside_of_the_photo_is_not_known() -> None:
    photo, camera = photo_with_hair(NAMED["black"])
    landmark = camera.project(AnnyModel.load().template[AnnyModel.load().eyeballs].mean(1))[0][0]
    top = int(landmark[:, 1].mean()) - 25
    camera.Ks[:, 1, 2] -= top
    cut = Cameras(camera.viewmats, camera.Ks, camera.width, camera.height - top)
    assert found(photo[top:], cut) is None


def test_the_portrait() -> None:
    photo = np.asarray(portrait())
    (face,) = find_faces(photo)
    head = fit_head([face], [(photo.shape[1], photo.shape[0])])
    hair = photo_hair("a woman in a blue suit", photo, head, 0)
    assert hair is not None and hair.words == "short blonde hair"
    red, green, blue = hair.color.tolist()
    assert red > green > blue + 0.05
