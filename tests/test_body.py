"""The body prior: Anny's shapes, regions and skinning, surface samples, phenotypes from text."""

import math

import pytest
import torch

from specularip.body import PHENOTYPE_NAMES, AnnyModel, Phenotype, anny_body, phenotype_from_text
from specularip.body.regions import FOOT, HAND, HEAD, HIPS, NAMES, TORSO
from specularip.body.skeleton import KEYPOINT_NAMES


@pytest.fixture(scope="module")
def model():
    return AnnyModel.load()


def random_phenotypes(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, len(PHENOTYPE_NAMES), generator=torch.Generator().manual_seed(seed))


def test_bodies_have_human_sizes(model, seed):
    adult = anny_body()
    child, woman, man = (anny_body(phenotype_from_text(text)) for text in ("a child", "a woman", "a man"))
    assert 1.6 < adult.height < 1.8
    assert 0.95 < child.height < 1.45 < woman.height < man.height < 1.95
    vertices = random_phenotypes(16, seed)
    vertices = model.vertices(vertices)
    middle = (vertices[..., 2].amax(1) + vertices[..., 2].amin(1)) / 2
    assert middle.abs().max() < 1e-4, seed
    assert torch.isfinite(vertices).all(), seed


def test_faces_minus_y_in_a_pose():
    body = anny_body()
    at = {name: body.keypoints[i] for i, name in enumerate(KEYPOINT_NAMES)}
    assert at["nose"][1] < at["right_ear"][1] - 0.05, "the nose is in front, on -y"
    assert at["left_shoulder"][0] > 0.1 > -0.1 > at["right_shoulder"][0], "+x is the person's left"
    for side in ("left", "right"):
        arm = at[f"{side}_wrist"] - at[f"{side}_shoulder"]
        assert 30 < math.degrees(math.atan2(-arm[2], abs(arm[0]))) < 65
    order = ("nose", "neck", "left_hip", "left_knee", "left_ankle")
    heights = [float(at[name][2]) for name in order]
    assert heights == sorted(heights, reverse=True)
    joints = dict(zip(body.joint_names, body.joints))
    assert (joints["wrist.L"] - at["left_wrist"]).norm() < 0.04
    assert (joints["lowerleg01.R"] - at["right_knee"]).norm() < 0.06


def test_bodies_are_symmetric(model, seed):
    """Swapping left and right gives the same body."""
    phenotypes = random_phenotypes(4, seed)
    keypoints = model.keypoints(model.vertices(phenotypes))
    swapped = [n.replace("left", "?").replace("right", "left").replace("?", "right") for n in KEYPOINT_NAMES]
    swap = [KEYPOINT_NAMES.index(name) for name in swapped]
    mirrored = keypoints[:, swap] * torch.tensor([-1.0, 1, 1])
    assert (mirrored - keypoints).abs().max() < 2e-3, seed


def test_batch_equals_singles(model, seed):
    phenotypes = random_phenotypes(3, seed)
    vertices, joints = model.evaluate(phenotypes)
    for i in range(3):
        alone = model.evaluate(phenotypes[i : i + 1])
        torch.testing.assert_close(alone[0][0], vertices[i], atol=1e-5, rtol=0, msg=str(seed))
        torch.testing.assert_close(alone[1][0], joints[i], atol=1e-5, rtol=0, msg=str(seed))


def test_phenotypes_change_height_and_volume(model):
    def volume(**values):
        body = anny_body(Phenotype(**values))
        a, b, c = body.vertices[body.faces].unbind(1)
        return float((torch.linalg.cross(a, b) * c).sum() / 6)

    assert 0.03 < volume() < 0.13, "about 70 litres, and faces turn outward"
    assert volume(weight=1.0) > 1.2 * volume(weight=0.0)
    assert anny_body(Phenotype(height=0.8)).height > anny_body(Phenotype(height=0.2)).height + 0.2


@pytest.mark.parametrize(
    "gender, age, height",
    [(0, 0.33, 1.4554), (0, 0.67, 1.9084), (1, 0.67, 1.7685), (1, 1.0, 1.7557), (0.5, 0.0, 0.6643)],
)
def test_heights_match_anny(gender, age, height):
    """Reference heights of anny 0.6.2 with all other phenotypes at 0.5, to 2 mm."""
    even = dict.fromkeys(("african", "asian", "caucasian"), 0.5)
    assert anny_body(Phenotype(gender, age, height=0.5, **even)).height == pytest.approx(height, abs=2e-3)


def test_regions_and_skinning():
    body = anny_body()
    centre = torch.stack([body.vertices[body.regions == k].mean(0) for k in range(len(NAMES))])
    assert centre[HEAD, 2] > centre[TORSO, 2] > centre[HIPS, 2] > centre[FOOT, 2]
    assert body.vertices[body.regions == HAND, 0].abs().min() > 0.25
    assert body.skin_weights.min() >= 0
    torch.testing.assert_close(body.skin_weights.sum(1), torch.ones(len(body.vertices)))
    assert body.skin_joints.max() < len(body.joints) == len(body.joint_parents)
    assert all(parent < i for i, parent in enumerate(body.joint_parents)), "parents come first"
    of_hand = torch.tensor(
        [
            name.startswith(("wrist", "finger", "metacarpal")) and name.endswith("L")
            for name in body.joint_names
        ]
    )
    left_hand = (body.regions == HAND) & (body.vertices[:, 0] > 0)
    assert of_hand[body.skin_joints[left_hand, 0]].float().mean() > 0.95


def test_surface_samples(seed):
    body = anny_body()
    seeds = (seed, seed, seed + 1)
    one, two, other = (body.sample_surface(6000, torch.Generator().manual_seed(s)) for s in seeds)
    assert torch.equal(one.points, two.points) and not torch.equal(one.points, other.points), seed
    torch.testing.assert_close(one.normals.norm(dim=1), torch.ones(6000))
    torch.testing.assert_close(one.bind_weights.sum(1), torch.ones(6000))
    # Points lie on their triangles, and their areas add up to that of the body.
    corners = body.vertices[body.faces[one.faces]]
    torch.testing.assert_close((corners * one.barycentric[..., None]).sum(1), one.points, atol=1e-6, rtol=0)
    a, b, c = body.vertices[body.faces].unbind(1)
    area = float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum() / 2)
    assert 1.4 < area < 2.6
    assert float(one.spacing.square().sum()) == pytest.approx(area, rel=0.03)


def test_region_weights_change_the_density_of_samples(seed):
    body = anny_body()
    plain = body.sample_surface(8000, torch.Generator().manual_seed(seed))
    more = body.sample_surface(8000, torch.Generator().manual_seed(seed), {"head": 4.0, "hand": 0.0})
    heads = [(s.regions == HEAD).float().mean() for s in (plain, more)]
    assert heads[1] > 2.5 * heads[0], seed
    assert (more.regions == HAND).float().mean() < 0.003, seed
    spacing = [float(s.spacing[s.regions == HEAD].median()) for s in (plain, more)]
    assert spacing[1] < 0.65 * spacing[0], seed
    with pytest.raises(ValueError, match="unknown regions"):
        body.sample_surface(10, region_weights={"wing": 1.0})
    with pytest.raises(ValueError, match="no surface"):
        body.sample_surface(10, region_weights=[0.0] * 10)
    with pytest.raises(ValueError, match="n must"):
        body.sample_surface(0)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A woman in a red satin dress", {"gender": 1.0, "height": 0.4, "age": 0.7}),
        ("a man wearing a blue suit", {"gender": 0.0}),
        ("a person in a coat", {"gender": 0.5, "age": 0.7, "weight": 0.5}),
        ("a boy in a green tee", {"gender": 0.0, "age": 0.36}),
        ("two girls", {"gender": 1.0, "age": 0.36}),
        ("a Japanese kimono on a person", {"asian": 1 / 3}),
        ("a male in a red suit", {"gender": 0.0}),
        ("a woman, tall and slim, in a short dress", {"height": 0.48, "weight": 0.12}),
        ("a man in a jacket and strong boots", {"muscle": 0.5}),
        ("an asian woman", {"asian": 1.0, "african": 0.0}),
        ("a young athletic female dancer", {"gender": 1.0, "age": 0.65, "muscle": 0.95}),
        ("a teenage boy", {"gender": 0.0, "age": 0.54}),
        ("he was old and heavy, in a coat", {"gender": 0.0, "age": 1.0, "weight": 1.0}),
        ("A teenage girl with a backpack", {"gender": 1.0}),
        ("a child", {"age": 0.36, "gender": 0.5}),
        ("an elderly lady in wool", {"gender": 1.0, "age": 1.0}),
        ("an old man", {"gender": 0.0, "age": 1.0}),
        ("a middle-aged woman", {"age": 0.83}),
        ("a middle aged woman", {"age": 0.83}),
        ("a man in an old leather jacket", {"age": 0.7}),
        ("a muscular man with short hair", {"muscle": 0.95, "height": 0.4}),
        ("a woman in a short dress and a short skirt", {"height": 0.4}),
        ("a short woman in a long dress", {"height": 0.31}),
        ("a short, overweight man", {"height": 0.31, "weight": 1.0, "gender": 0.0}),
        ("a tall slim woman", {"height": 0.48, "weight": 0.12}),
        ("a tall, dark-haired man", {"height": 0.48}),
        ("a person with tall boots", {"height": 0.4}),
        ("she is tall and athletic", {"gender": 1.0, "height": 0.48, "muscle": 0.95}),
        ("a heavy coat on a woman", {"weight": 0.5}),
        ("a woman in slim trousers and a thin scarf", {"weight": 0.5}),
        ("a heavy man", {"weight": 1.0}),
        ("a skinny teenager, he wears shorts", {"weight": 0.12, "gender": 0.0, "age": 0.54}),
        ("", {"gender": 0.5}),
        ("Ein Mensch", {"gender": 0.5}),
    ],
)
def test_phenotype_from_text(text, expected):
    check_phenotype(text, expected)


def check_phenotype(text, expected):
    phenotype = phenotype_from_text(text)
    got = {name: getattr(phenotype, name) for name in expected}
    assert got == pytest.approx(expected), phenotype.matched


WOMAN, MAN, CHILD, OLD, AVERAGE = {"gender": 1.0}, {"gender": 0.0}, {"age": 0.36}, {"age": 1.0}, {}


@pytest.mark.parametrize(
    "text, expected",
    [
        # Colours, cloths and garments that are named after people
        ("A woman in a baby blue dress", WOMAN),
        ("A man in a baby pink shirt", MAN),
        ("baby blue dress, blonde woman", WOMAN),
        ("a person in a grandpa sweater", AVERAGE),
        ("a woman in boyfriend jeans and dad sneakers", WOMAN),
        ("a person in monk strap shoes", AVERAGE),
        ("a person in a prince of Wales check", AVERAGE),
        ("a person with mother-of-pearl buttons", AVERAGE),
        ("a person with mother of pearl buttons", AVERAGE),
        ("a queen-size person in a nun costume", AVERAGE),
        ("a woman dressed as a king", WOMAN),
        ("a woman with a boy haircut", WOMAN),
        ("a child-like woman", WOMAN),
        ("princess dress", AVERAGE),
        ("woman red dress", WOMAN),
        # Possessives
        ("a woman's silk dress", WOMAN),
        ("a woman in a men's coat", WOMAN),
        ("a man with a lady's watch, in his sister's dress", MAN),
        ("A woman in the King's red coat", WOMAN),
        ("King's red coat", AVERAGE),
        ("a skinny woman in an old man's coat", WOMAN | {"weight": 0.12}),
        ("Anika in her mother's dress", WOMAN),
        ("a man with his wife", MAN),
        ("a woman holding a baby", WOMAN),
        # Adjectives of things
        ("a person in skin-tight skinny jeans, nude heels, a tall hat and a fat belt", AVERAGE),
        ("a woman in an old rose dress", WOMAN),
        ("a short sleeved, slim fit shirt in strong colours on a man", MAN),
        ("a short haired woman", WOMAN),
        ("a woman whose hair is short", WOMAN),
        ("his coat is heavy, he is tall", MAN | {"height": 0.48}),
        ("the woman in the red dress is tall", WOMAN | {"height": 0.48}),
        ("a man in athletic shoes and muscular armour", MAN),
        ("an old bearded man", MAN | OLD),
        ("a short, dark-skinned man", MAN | {"height": 0.31}),
        # Names
        ("Mr. Young in a coat", MAN),
        ("a person named King in a coat", AVERAGE),
        ("John Young in a coat", AVERAGE),
        # Denials
        ("an adult woman, not elderly", WOMAN),
        ("a man, neither tall nor slim", MAN),
        ("a man who isn’t old", MAN),
        ("a not very old man", MAN),
        ("a non-binary person", AVERAGE),
        ("a non-muscular man", MAN),
        ("a less muscular man", MAN),
        ("a man with the face of a boy", MAN),
        ("a 3d model of a man", MAN),
        ("a portrait of a senior man", MAN | OLD),
        ("a Queen t-shirt on a man", MAN),
        ("a person, not a man", AVERAGE),
        ("not an old woman but a young man", MAN | {"age": 0.65}),
        ("a girl without a mother", WOMAN | CHILD),
        # Ages in numbers
        ("a 70-year-old man", MAN | OLD),
        ("a woman in her sixties", WOMAN | {"age": 0.9575}),
        ("a woman in her mid-40s", WOMAN | {"age": 0.7975}),
        ("a man aged 30", MAN),
        ("a man who is 40, in a suit", MAN | {"age": 0.765}),
        ("12-year-old girl", WOMAN | {"age": 0.432}),
        ("a forty-five-year-old person", {"age": 0.7975}),
        ("a six months old baby", {"age": 0.025}),
        ("a person in a 20-year-old coat", AVERAGE),
        ("a man in a 1960s suit", MAN),
        ("a woman, 45, in a suit", WOMAN | {"age": 0.7975}),
        ("a man over 70", MAN | OLD),
        ("a woman, aged about 50, in red", WOMAN | {"age": 0.83}),
        # Forms of words
        ("She’s in jeans", WOMAN),
        ("a policewoman", WOMAN),
        ("A FIREMAN AND A SALESMAN", MAN),
        ("a German in red", AVERAGE),
        ("Ａ ｗｏｍａｎ ｉｎ ｒｅｄ", WOMAN),
        ("an élderly young-looking wómán", WOMAN | OLD),
    ],
)
def test_what_words_are_said_of(text, expected):
    """All that the text does not say of the person keeps its default."""
    defaults = {name: getattr(Phenotype(), name) for name in PHENOTYPE_NAMES}
    check_phenotype(text, defaults | expected)


def test_phenotype_lists_the_matched_words():
    assert phenotype_from_text("A 70-year-old POLICEWOMAN").matched == ("70-year-old", "policewoman")
    assert phenotype_from_text("A tall old woman in a short red dress").matched == ("tall", "old", "woman")
    assert phenotype_from_text("red velvet").matched == ()


def test_phenotype_shape_is_checked(model):
    with pytest.raises(ValueError, match=r"phenotypes must be \[B,11\]"):
        model.vertices(torch.rand(2, 6))
