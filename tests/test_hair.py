"""Hair colours in sentences."""

import pytest
import torch

from specularip.faces.alignment import framed_by_hair
from specularip.faces.hair import told_hair

SKIN = torch.full((3, 96, 96), 0.5)


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("An old woman with grey hair in a green coat", (0.55, 0.55, 0.56)),
        ("a red-haired girl in a blue dress", (0.60, 0.24, 0.10)),
        ("A woman with a white bob, wearing a black coat", (0.88, 0.87, 0.85)),
        ("a boy with a Black curly afro", (0.05, 0.045, 0.05)),
        ("a blonde in a red coat", (0.80, 0.65, 0.40)),
        ("a bald man in a black suit", (0.5, 0.5, 0.5)),
        ("a man with a shaved head", (0.5, 0.5, 0.5)),
    ],
)
def test_the_colour_that_the_text_names(text, color):
    assert told_hair(text, SKIN).tolist() == pytest.approx(color)


@pytest.mark.parametrize(
    "text",
    ["A woman in a red satin dress", "a woman with long hair in a black coat", "a black dress and long hair"],
)
def test_other_colours_are_not_the_hairs(text):
    assert told_hair(text, SKIN) is None


def test_the_text_goes_before_the_photo():
    framed = framed_by_hair(SKIN, told_hair("grey hair", SKIN))
    assert framed[:, 0, 0].tolist() == pytest.approx((0.55, 0.55, 0.56))
    assert torch.equal(framed[:, 48, 48], SKIN[:, 48, 48])
