"""Hair colours in sentences."""

import pytest
import torch

from specularip.faces.alignment import framed_by_hair
from specularip.faces.hair import names_hair, told_hair

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
        ("a man without any hair", (0.5, 0.5, 0.5)),
        ("a woman with not red but blue hair", (0.20, 0.35, 0.75)),
        ("a woman, no blonde hair, brown hair", (0.28, 0.17, 0.10)),
        ("ＢＬＯＮＤＥ woman, not a brunette", (0.80, 0.65, 0.40)),
    ],
)
def test_the_colour_that_the_text_names(text, color):
    assert told_hair(text, SKIN).tolist() == pytest.approx(color)


@pytest.mark.parametrize(
    "text",
    [
        "A woman in a red satin dress",
        "a woman with long hair in a black coat",
        "a black dress and long hair",
        "a woman in a red dress long hair",
        "a man named Brown with hair",
        "a woman named Ginger in a ginger coat",
        "a brown camel hair coat and a blue hair band",
        "a man with no facial hair",
        "a man with no grey hair",
        "a man, not bald, in a bald eagle t-shirt",
    ],
)
def test_other_colours_are_not_the_hairs(text):
    assert told_hair(text, SKIN) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a woman with hair in a bun", True),
        ("a ginger man", True),
        ("a bald man", True),
        ("a man without hair", True),
        ("Bob in a suit", False),
        ("a man in a camel hair coat", False),
        ("a woman without grey hair", False),
    ],
)
def test_whether_the_text_speaks_of_hair(text, named):
    assert names_hair(text) is named


def test_the_text_goes_before_the_photo():
    framed = framed_by_hair(SKIN, told_hair("grey hair", SKIN))
    assert framed[:, 0, 0].tolist() == pytest.approx((0.55, 0.55, 0.56))
    assert torch.equal(framed[:, 48, 48], SKIN[:, 48, 48])
