"""Views of a simple dressed person joined with a painted face, and Gaussians that show that face."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from painted_heads import SKIN, smooth_skin
from torch import Tensor

from specularip.body import Body, anny_body
from specularip.body.dense_head import DenseHead
from specularip.body.regions import HAND, HEAD, LOWER_ARM, NECK, TORSO
from specularip.cameras import Cameras, Views
from specularip.faces.projection import FaceAreas, Painted, luminance
from specularip.raster.mesh import rasterize_mesh, render_attributes
from specularip.stages import fixed_face
from specularip.stages.fixed_face import fix_face
from specularip.stages.fusion import DEPTH_GAIN, DepthViews, depth_views
from specularip.stages.guide import draw
from specularip.stages.initial_state import AvatarState, initial_state
from specularip.stages.photo_face import PhotoFace, photo_face
from specularip.stages.photo_join import joined
from specularip.stages.settings import FusionConfig, SeidConfig
from specularip.stages.view_colors import observe, weighted_median
from specularip.stages.view_start import start_views
from specularip.training.step import FIXED

SIZE, GREY = 128, 0.6
FUSION = FusionConfig()
CLOTHES, HAIR = (0.10, 0.35, 0.30), (0.12, 0.08, 0.06)
TONE = torch.tensor([0.82, 0.74, 0.70])
"""The photo's skin over that of the views."""
TEXT = "a person in a green suit"


@dataclass(frozen=True)
class Scene:
    """What the prior drew: images [V,5,S,S], decoded; and the body's regions [V,S,S] at the pixels, -1 where
    there is none."""

    body: Body
    views: Views
    images: Tensor
    decoded: DepthViews
    regions: Tensor

    def join(self, face: PhotoFace, text: str = TEXT) -> tuple[PhotoFace, Tensor]:
        return joined(face, self.images, self.decoded, self.body, text, FUSION)

    def shown(self, images: Tensor, region: int) -> Tensor:
        """Colours [n,3] in images of what is wholly of one region."""
        whole = (self.regions == region)[:, None].float()
        whole = 1 - torch.nn.functional.max_pool2d(1 - whole, 3, 1, 1)
        return images[:, :3].permute(0, 2, 3, 1)[whole[:, 0] > 0.5]


def scene(hand: Tensor | None = None) -> Scene:
    """A person in a suit that leaves head, neck, forearms and hands bare, with a cap of hair."""
    body = anny_body()
    views = start_views(body.height, SIZE)
    skin = torch.tensor(SKIN)
    colors = torch.tensor(CLOTHES).repeat(len(body.regions), 1)
    colors[(body.regions <= NECK) | (body.regions == LOWER_ARM)] = skin
    colors[body.regions == HAND] = skin if hand is None else hand
    eyes = float(body.keypoints[14:16, 2].mean())
    colors[(body.regions == HEAD) & (body.vertices[:, 2] > eyes + 0.06)] = torch.tensor(HAIR)
    drawn, alpha = render_attributes(body.vertices, body.faces, colors, views.cameras, 2)
    seen = rasterize_mesh(body.vertices, body.faces, views.cameras)
    code = 0.5 + DEPTH_GAIN * (seen.depth / views.distances[:, None, None] - 1)
    code = torch.where(seen.depth > 0, code, 0.5)
    rgb = drawn + GREY * (1 - alpha[:, None])
    images = torch.cat([rgb, alpha[:, None], code[:, None]], 1)
    decoded = depth_views(images, views.cameras, views.targets, GREY, FUSION)
    regions = body.regions[body.faces[seen.triangles.long().clamp_min(0), 0]]
    return Scene(body, views, images, decoded, torch.where(seen.triangles >= 0, regions, -1))


def face_of(body: Body, colors: Tensor, known: float = 1.0, text: str = TEXT) -> PhotoFace:
    areas = FaceAreas.load()
    painted = Painted(colors, known * areas.face, known * areas.around)
    return photo_face(painted, body, 1.0, text, False, None)


@pytest.fixture(scope="module")
def person() -> Scene:
    return scene()


@pytest.fixture(scope="module")
def photo_skin() -> Tensor:
    return smooth_skin(torch.Generator().manual_seed(3)) * TONE


@pytest.fixture(scope="module")
def face(person: Scene, photo_skin: Tensor) -> PhotoFace:
    return face_of(person.body, photo_skin)


@pytest.fixture(scope="module")
def result(person: Scene, face: PhotoFace) -> Tensor:
    return person.join(face)[1]


def median(colors: Tensor) -> Tensor:
    return colors.median(0).values


def test_skin_takes_the_tone_of_the_photo(person: Scene, result: Tensor) -> None:
    for region in (NECK, LOWER_ARM, HAND):
        shown = person.shown(result, region)
        assert len(shown) > 20
        assert torch.allclose(median(person.shown(person.images, region)), torch.tensor(SKIN), atol=0.01)
        assert torch.allclose(median(shown), torch.tensor(SKIN) * TONE, atol=0.04), region


def test_clothes_hair_background_and_shape_do_not_change(person: Scene, result: Tensor) -> None:
    assert result.shape == person.images.shape and bool(result.isfinite().all())
    before, after = (person.shown(images, TORSO) for images in (person.images, result))
    suit = (before - torch.tensor(CLOTHES)).abs().amax(1) < 0.02
    assert int(suit.sum()) > 1000
    assert float((after - before)[suit].abs().max()) < 0.01
    crown = (person.images[:, :3] - torch.tensor(HAIR)[:, None, None]).abs().amax(1) < 0.02
    assert int(crown.sum()) > 1000
    assert float((result - person.images)[:, :3].abs().amax(1)[crown].quantile(0.95)) < 0.01
    empty = person.images[:, 3] == 0
    assert float((result - person.images).abs().amax(1)[empty].max()) < 1e-5
    assert float((result - person.images)[:, 3].abs().max()) < 0.5
    assert float((result - person.images)[:, 3].abs().mean()) < 1e-3


def test_the_tone_at_the_faces_rim_is_that_of_the_face(person: Scene) -> None:
    """A face whose left is lighter than its right: the temples follow, so that no edge remains."""
    dense, areas = DenseHead.load(), FaceAreas.load()
    side = torch.tanh(dense.template[:, :1] / 0.02)
    images = person.join(face_of(person.body, torch.tensor(SKIN) * TONE * (1 + 0.12 * side)))[1]
    decoded = depth_views(images, person.views.cameras, person.views.targets, GREY, FUSION)
    positions = dense.at(person.body.vertices)
    colors, squareness = observe(decoded, positions, dense.at(person.body.vertex_normals), FUSION)
    shown = luminance(weighted_median(colors, squareness)) / luminance(torch.tensor(SKIN) * TONE)
    rim = (areas.outside.abs() < 0.004) & (areas.height > 0.02) & (areas.height < 0.08)
    rim &= squareness.sum(0) > 0
    for sign in (-1, 1):
        temple = rim & (sign * dense.template[:, 0] > 0.04)
        assert int(temple.sum()) > 100
        assert float(shown[temple].median()) == pytest.approx(1 + 0.12 * sign, abs=0.04)


def test_the_face_is_drawn_over_the_views(person: Scene, face: PhotoFace, result: Tensor) -> None:
    front = person.views.azimuth_deg.abs() < 61
    colors, weight, depth = face.drawn(face.colors, face.known, person.views.cameras)
    whole = (weight[:, 0] > 0.99) & front[:, None, None]
    assert int(whole.sum()) > 1000
    shown = result.permute(0, 2, 3, 1)[whole]
    assert float((shown[:, :3] - colors.permute(0, 2, 3, 1)[whole]).abs().max()) < 0.02
    assert float((shown[:, 3] - 1).abs().max()) < 0.02
    code = 0.5 + DEPTH_GAIN * (depth[:, 0] / person.views.distances[:, None, None] - 1)
    assert float((shown[:, 4] - code[whole]).abs().max()) < 0.01


def test_the_face_is_not_drawn_over_views_from_behind(person: Scene, face: PhotoFace) -> None:
    images = torch.full_like(person.images, 0.3)
    over = face.over(images, person.views.cameras, person.views.distances)
    changed = (over != images).flatten(1).any(1)
    azimuth = person.views.azimuth_deg.abs()
    assert not changed[azimuth > 91].any()
    close = torch.tensor([framing.name != "lower" for framing in person.views.framings])
    assert bool(changed[close & (azimuth < 61)].all())


def test_images_without_depth_take_the_face_too(person: Scene, face: PhotoFace) -> None:
    front = torch.tensor([0, 12, 15])
    cameras = person.views.cameras[front]
    images = torch.full((3, 4, 64, 64), 0.3)
    over = face.over(images, cameras)
    colors, weight, _ = face.drawn(face.colors, face.known, cameras.resized(64, 64))
    assert over.shape == images.shape and int((weight > 0.99).sum()) > 300
    layer = torch.cat([colors, torch.ones_like(weight)], 1)
    assert torch.allclose(over, images + weight * (layer - images), atol=1e-5)


def test_values_are_read_on_the_surface_only(person: Scene, face: PhotoFace) -> None:
    values = face.positions.clone()
    rows = torch.arange(0, len(values), 501)
    assert float((face.at(face.positions[rows], values) - values[rows]).abs().max()) < 2e-3
    away = face.positions[rows] + torch.tensor([0.0, -0.2, 0.0])
    assert not face.at(away, values).any()


@pytest.mark.parametrize("text", [TEXT, "a person in a suit and leather gloves"])
def test_bare_hands_follow_even_if_they_have_another_colour(photo_skin: Tensor, text: str) -> None:
    """The prior often draws them darker or redder."""
    darker = scene(torch.tensor(SKIN) * torch.tensor([0.75, 0.66, 0.64]))
    before = median(darker.shown(darker.images, HAND))
    after = median(darker.shown(darker.join(face_of(darker.body, photo_skin), text)[1], HAND))
    target = torch.tensor(SKIN) * TONE
    assert float((before - target).abs().max()) > 0.05
    near = float((after - target).abs().max()) < 0.03
    assert near == ("gloves" not in text)


def test_hands_that_look_like_no_skin_stay(photo_skin: Tensor) -> None:
    blue = torch.tensor([0.1, 0.2, 0.7])
    gloved = scene(blue)
    after = gloved.join(face_of(gloved.body, photo_skin))[1]
    assert torch.allclose(median(gloved.shown(after, HAND)), blue, atol=0.01)


def redrawn(person: Scene, where: Tensor, color: Tensor, nearer: float = 0.0) -> Scene:
    """The same with another colour [3] at pixels [V,S,S], where something lies `nearer` metres above the
    skin."""
    images = person.images.clone()
    images[:, :3] = torch.where(where[:, None], color[:, None, None], images[:, :3])
    images[:, 4] -= where * nearer * DEPTH_GAIN / person.views.distances[:, None, None]
    decoded = depth_views(images, person.views.cameras, person.views.targets, GREY, FUSION)
    return replace(person, images=images, decoded=decoded)


@pytest.mark.parametrize(("nearer", "follows"), [(0.0, True), (0.06, False)])
def test_a_suit_of_the_skins_colour_is_told_by_its_distance(
    person: Scene, face: PhotoFace, nearer: float, follows: bool
) -> None:
    skin = torch.tensor(SKIN)
    beige = redrawn(person, person.regions == TORSO, skin, nearer)
    after = median(beige.shown(beige.join(face)[1], TORSO))
    assert torch.allclose(after, skin * TONE if follows else skin, atol=0.03)


@pytest.mark.parametrize(("nearer", "follows"), [(0.0, True), (0.04, False)])
def test_under_the_jaw_the_face_goes_on_over_stubble_but_not_over_a_beard(
    person: Scene, face: PhotoFace, nearer: float, follows: bool
) -> None:
    cameras = person.views.cameras
    colors, likely, _ = face.drawn(face.colors, face.likely, cameras)
    _, known, _ = face.drawn(face.colors, face.known, cameras)
    jaw = (likely > 0.9)[:, 0] & (known < 0.01)[:, 0] & person.decoded.solid
    assert int(jaw.sum()) > 100
    dark = torch.tensor([0.2, 0.2, 0.2])
    bearded = redrawn(person, jaw, dark, nearer)
    shown = bearded.join(face)[1].permute(0, 2, 3, 1)[jaw][:, :3]
    expected = median(colors.permute(0, 2, 3, 1)[jaw]) if follows else dark
    assert torch.allclose(median(shown), expected, atol=0.06)


@pytest.mark.parametrize(("color", "stays"), [((0.55, 0.5, 0.6), False), (HAIR, True)])
def test_a_forehead_that_no_photo_shows_is_skin_or_a_fringe(
    person: Scene, face: PhotoFace, color: tuple[float, float, float], stays: bool
) -> None:
    areas = FaceAreas.load()
    forehead = (areas.around > 0.9) & (areas.core < 0.1) & (areas.outside < 0)
    hidden = replace(face, known=torch.where(forehead, 0.0, face.known))
    drawn, weight, _ = face.drawn(face.colors, forehead.float(), person.views.cameras)
    where = (weight > 0.9)[:, 0] & person.decoded.solid
    assert int(where.sum()) > 30
    shown = redrawn(person, where, torch.tensor(color)).join(hidden)[1].permute(0, 2, 3, 1)[where][:, :3]
    expected = torch.tensor(color) if stays else median(drawn.permute(0, 2, 3, 1)[where])
    assert torch.allclose(median(shown), expected, atol=0.06)


def test_a_face_without_hue_takes_that_of_the_views(person: Scene, photo_skin: Tensor) -> None:
    grey = luminance(photo_skin)[:, None].expand(-1, 3)
    face, images = person.join(replace(face_of(person.body, grey), grey=True))
    known = face.known > 0.9
    hue = face.colors[known] / luminance(face.colors[known])[:, None]
    expected = torch.tensor(SKIN) / luminance(torch.tensor(SKIN))
    assert torch.allclose(median(hue), expected, atol=0.03)
    assert torch.allclose(luminance(face.colors[known]), luminance(grey[known]), atol=0.01)
    plain = person.join(face_of(person.body, grey))[0]
    assert torch.equal(plain.colors, grey)
    neck = median(person.shown(images, NECK))
    assert float(neck[0]) > float(neck[2]) + 0.1


def test_hair_takes_the_photos_colour(person: Scene, face: PhotoFace, result: Tensor) -> None:
    red = torch.tensor([0.18, 0.08, 0.05])
    tinted = person.join(replace(face, hair=red))[1]
    crown = (person.images[:, :3] - torch.tensor(HAIR)[:, None, None]).abs().amax(1) < 0.02
    crown &= (result - person.images)[:, :3].abs().amax(1) < 0.01
    shown = tinted.permute(0, 2, 3, 1)[crown][:, :3]
    assert torch.allclose(median(shown), red, atol=0.01)
    for region in (NECK, LOWER_ARM, TORSO):
        assert torch.allclose(person.shown(tinted, region), person.shown(result, region), atol=0.02)
    # No more than MOST_TINT: black hair does not become white.
    white = person.join(replace(face, hair=torch.ones(3)))[1].permute(0, 2, 3, 1)[crown][:, :3]
    assert float(luminance(median(white))) < 2 * float(luminance(torch.tensor(HAIR)))


def test_a_face_of_which_too_little_is_known_changes_nothing(person: Scene, photo_skin: Tensor) -> None:
    face = face_of(person.body, photo_skin, known=0.0)
    same, images = person.join(face)
    assert same is face and torch.equal(images, person.images)


@pytest.fixture(scope="module")
def state(person: Scene) -> AvatarState:
    """Grey Gaussians on the body, some 4 mm apart on the face."""
    return initial_state(person.body, SeidConfig(points=20_000), 0)


def fixed(state: AvatarState, face: PhotoFace, corrections: int) -> dict[str, Tensor]:
    """The state's parameters and tie after `fix_face`; the state is as before."""
    before = {name: value.detach().clone() for name, value in state.params.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_face, "CORRECTIONS", corrections)
        fix_face(state, face)
    after = {name: value.detach().clone() for name, value in state.params.items()}
    after[FIXED] = state.ties[FIXED].clone()
    with torch.no_grad():
        for name, value in before.items():
            state.params[name].copy_(value)
        state.ties[FIXED] = torch.zeros_like(state.ties[FIXED])
    return after


def missed(state: AvatarState, face: PhotoFace, colors: Tensor) -> float:
    """Mean error of the face in views between those that the corrections use."""
    middle = face.positions[face.known > 0.5].mean(0)
    cameras = Cameras.orbit([-15.0, 20.0], 0.0, 0.75, 26.0, 256, 256, middle)
    wanted, weight, _ = face.drawn(face.colors, face.known, cameras)
    with torch.no_grad():
        shown = replace(state.gaussians, color_logits=colors)
        raster, _ = draw(shown, state.shared, cameras, GREY)
    error = (raster.image.permute(0, 3, 1, 2) - wanted).abs() * weight
    return float(error.sum() / weight.sum() / 3)


def test_fixed_gaussians_show_the_face(state: AvatarState, face: PhotoFace) -> None:
    start = missed(state, face, state.params["color_logits"].detach())
    plain, corrected = (missed(state, face, fixed(state, face, n)["color_logits"]) for n in (0, 2))
    assert corrected < 0.6 * plain < 0.6 * start, (start, plain, corrected)
    assert corrected < 0.03


def test_the_face_is_fixed_and_the_body_is_not(state: AvatarState, face: PhotoFace, person: Scene) -> None:
    after = fixed(state, face, 1)
    means = state.params["means"].detach()
    expected = face.at(means, face.known[:, None])[:, 0]
    assert torch.equal(after[FIXED], (fixed_face.RIM_FIXED * expected).clamp(0, 1))
    nose = (means - person.body.keypoints[0]).norm(dim=1) < 0.02
    assert int(nose.sum()) > 30 and float(after[FIXED][nose].quantile(0.1)) > 0.95
    regions = state.ties["regions"]
    assert not after[FIXED][regions > NECK].any()
    untouched = after[FIXED] == 0
    for name, value in state.params.items():
        rows = untouched if name == "color_logits" else slice(None)
        assert torch.equal(after[name][rows], value.detach()[rows]), name


def test_what_is_little_known_is_partly_fixed(state: AvatarState, person: Scene, photo_skin: Tensor) -> None:
    face = face_of(person.body, photo_skin)
    whole, little = (fixed(state, replace(face, known=share * face.known), 0) for share in (1.0, 0.2))
    middle = face.at(state.params["means"].detach(), face.known[:, None])[:, 0] > 0.99
    assert torch.allclose(little[FIXED][middle], torch.tensor(0.2 * fixed_face.RIM_FIXED), atol=0.01)
    old = state.params["color_logits"].detach()
    share = (little["color_logits"] - old)[middle] / (whole["color_logits"] - old)[middle]
    assert float(share.median()) == pytest.approx(0.2, abs=0.01)
