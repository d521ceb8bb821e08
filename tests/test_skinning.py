"""Skinning, and the appearance that turns with it: against rigid motions, plain sums, and reflection."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from avatars import random_avatar
from bodies import bound_avatar
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.colors import Asgs, HarmonicColors
from specularip.colors.harmonics import harmonics_3
from specularip.errors import UserError
from specularip.gaussians import Binding, Expressions, rotation_matrices
from specularip.motion.appearance import tangent_angles, turned_latents, turned_quadratic
from specularip.motion.clip import Clip
from specularip.motion.clips import CLIPS, built_in
from specularip.motion.colors import posed_colors, turned_harmonics
from specularip.motion.dispatch import pose
from specularip.motion.posing import Posed, Rest, pose_reference
from specularip.motion.quaternions import about, from_matrices, matrices, multiply, rotate, slerp
from specularip.motion.skinning import Blend, joint_transforms, levels, skin_points
from specularip.posable import Posable
from specularip.specular import LATENTS, Light, Surface, specular_reference
from specularip.specular.shading import RESIDUAL, harmonics, tangent_frames

pytestmark = pytest.mark.usefixtures("seed")
BLENDS: tuple[Blend, ...] = ("linear", "dual")


def random_quats(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, 4, dtype=torch.float64), dim=-1)


def tree() -> Binding:
    """Ten joints with two roots; some parents come after their children."""
    parents = [3, -1, 1, 1, 0, 7, 5, -1, 4, 4]
    return Binding([str(j) for j in range(10)], parents, torch.randn(10, 3))


def test_quaternions() -> None:
    a, b, v = random_quats(200), random_quats(200), torch.randn(200, 3, dtype=torch.float64)
    assert torch.allclose(matrices(multiply(a, b)), matrices(a) @ matrices(b))
    assert torch.allclose(rotate(a, v), (matrices(a) @ v[..., None])[..., 0])
    assert torch.allclose(matrices(from_matrices(matrices(a))), matrices(a))
    half = slerp(a, b, torch.full((200,), 0.5, dtype=torch.float64))
    assert torch.allclose((half * a).sum(-1).abs(), (half * b).sum(-1).abs())
    third = slerp(
        a[:1], multiply(about(v.new_tensor([0.0, 0, 1]), v.new_tensor(0.9)), a[:1]), v.new_tensor([1 / 3])
    )
    turned = multiply(about(v.new_tensor([0.0, 0, 1]), v.new_tensor(0.3)), a[:1])
    assert torch.allclose((third * turned).sum(-1).abs(), v.new_ones(1))


def test_joint_transforms_against_recursion() -> None:
    binding = tree()
    rotations, translation = random_quats(2, 10), torch.randn(2, 3, dtype=torch.float64)
    found = joint_transforms(binding, rotations, translation)
    joints = binding.joints.double().numpy()

    def world(batch: int, j: int) -> np.ndarray:
        parent, local = binding.joint_parents[j], np.eye(4)
        local[:3, :3] = rotation_matrices(rotations[batch, j][None])[0].numpy()
        if parent < 0:
            local[:3, 3] = joints[j] + translation[batch].numpy()
            return local
        local[:3, 3] = joints[j] - joints[parent]
        return world(batch, parent) @ local

    for batch in range(2):
        for j in range(10):
            rest = np.eye(4)
            rest[:3, 3] = -joints[j]
            assert np.allclose(found[batch, j].numpy(), world(batch, j) @ rest)


def test_bad_skeletons() -> None:
    with pytest.raises(ValueError, match="circle"):
        levels([-1, 2, 1])
    with pytest.raises(ValueError, match=r"\[\.\.\.,10,4\]"):
        joint_transforms(tree(), random_quats(9))


def posing_case(count: int = 300) -> tuple[Rest, Tensor]:
    """Random Gaussians on a random skeleton in a random pose; float32."""
    rest = Rest(
        means=torch.randn(count, 3),
        quats=F.normalize(torch.randn(count, 4), dim=-1),
        normals=F.normalize(torch.randn(count, 3), dim=-1),
        tangents=torch.randn(count, 3),
        latents=torch.randn(count, LATENTS),
        bind_joints=torch.randint(0, 10, (count, 4), dtype=torch.int32),
        bind_weights=torch.rand(count, 4).softmax(1) * torch.tensor([1.0, 1.0, 1.0, 0.0]),
    )
    weights = rest.bind_weights / rest.bind_weights.sum(1, keepdim=True)
    tangents = tangent_frames(rest.normals, rest.latents[:, 2:3])[0]
    rest = replace(rest, bind_weights=weights, tangents=tangents)
    # Turns up to 60°: half turns have no middle.
    axes = F.normalize(torch.randn(10, 3), dim=-1)
    return rest, joint_transforms(tree(), about(axes, torch.rand(10) * math.pi / 3), torch.randn(3))


def assert_posed(found: Posed, rest: Rest, transforms: Tensor, blend: Blend) -> None:
    """Against float64; angles where tangents are well defined."""
    wide = Rest(**{k: v.double().cpu() if v.is_floating_point() else v.cpu() for k, v in vars(rest).items()})
    truth = pose_reference(wide, transforms.double().cpu(), blend, wide.means)
    for name, some, wanted in zip(Posed._fields, found, truth):
        difference = some.double().cpu() - wanted
        if name == "latents":
            difference[:, 2] = torch.sin(0.5 * difference[:, 2])
            difference = difference[truth.normals[:, 2].abs() < 0.999]
        assert difference.abs().max() < 2e-5, name


@pytest.mark.parametrize("blend", BLENDS)
def test_kernel_against_plain_tensors(blend: Blend) -> None:
    rest, transforms = posing_case()
    assert_posed(pose(rest, transforms, blend), rest, transforms, blend)
    without = replace(rest, latents=rest.latents[:, :0])
    assert pose(without, transforms, blend).latents.shape == (300, 0)


@pytest.mark.gpu(needs="triton")
@pytest.mark.parametrize("blend", BLENDS)
def test_cuda_kernel_against_plain_tensors(blend: Blend) -> None:
    rest, transforms = posing_case(5000)
    rest = Rest(**{name: tensor.cuda() for name, tensor in vars(rest).items()})
    assert_posed(pose(rest, transforms.cuda(), blend), rest, transforms, blend)


@pytest.mark.parametrize("blend", BLENDS)
def test_points_bound_to_one_joint_move_rigidly(blend: Blend) -> None:
    _, transforms = posing_case()
    transforms = transforms.double()
    points, joints = torch.randn(50, 3, dtype=torch.float64), torch.randint(0, 10, (50, 1)).expand(50, 4)
    moved, turns = skin_points(points, joints, torch.full((50, 4), 0.25).double(), transforms, blend)
    mine = transforms[joints[:, 0]]
    assert torch.allclose(moved, (mine[:, :3, :3] @ points[..., None])[..., 0] + mine[:, :3, 3])
    assert torch.allclose(matrices(turns), mine[:, :3, :3], atol=1e-6)


def test_dual_quaternions_keep_the_volume_of_a_twisted_limb() -> None:
    binding = Binding(["a", "b"], [-1, 0], torch.tensor([[0.0, 0, 0], [0, 0, -1.0]]))
    rotations = torch.stack([about(torch.tensor([0.0, 0, 1]), torch.tensor(angle)) for angle in (0.0, 3.0)])
    ring = torch.stack(
        [torch.linspace(0, 6, 20).cos(), torch.linspace(0, 6, 20).sin(), torch.full((20,), -1.0)], 1
    )
    joints, weights = torch.tensor([[0, 1]]).expand(20, 2), torch.full((20, 2), 0.5)
    radius = {
        blend: skin_points(ring, joints, weights, joint_transforms(binding, rotations), blend)[0][:, :2].norm(
            dim=1
        )
        for blend in BLENDS
    }
    assert radius["linear"].max() < 0.1 and (radius["dual"] - 1).abs().max() < 1e-4


def test_turned_latents_are_the_same_functions_turned() -> None:
    """f'(v) = f(R⁻¹ v), for all that depends on a direction v."""
    latents, turns = torch.randn(100, LATENTS, dtype=torch.float64), random_quats(100)
    normals = F.normalize(torch.randn(100, 3, dtype=torch.float64), dim=-1)
    turned, turn = turned_latents(latents, normals, turns), matrices(turns)
    view = F.normalize(torch.randn(100, 3, dtype=torch.float64), dim=-1)
    before = (turn.mT @ view[..., None])[..., 0]

    def residual(latents: Tensor, view: Tensor) -> Tensor:
        slow = torch.cat([view, harmonics(view)[..., 4:]], -1)
        return torch.einsum("nj,ncj->nc", slow, latents[:, RESIDUAL:].reshape(-1, 3, 8))

    assert torch.allclose(residual(turned, view), residual(latents, before))
    hidden, seen = ((some[:, 7:10] * v).sum(1) for some, v in ((turned, view), (latents, before)))
    assert torch.allclose(hidden, seen)
    tangent, bitangent = tangent_frames(normals, latents[:, 2:3])
    found = tangent_frames((turn @ normals[..., None])[..., 0], turned[:, 2:3])
    for old, new in zip((tangent, bitangent), found):
        assert torch.allclose((turn @ old[..., None])[..., 0], new)
    same = [0, 1, 3, 4, 5, 6]
    assert torch.equal(turned[:, same], latents[:, same])


def turned_light(light: Light, turn: Tensor) -> Light:
    """The light after a rotation [3,3]; its ambient by least squares over directions."""
    directions = F.normalize(torch.randn(200, 3, dtype=torch.float64), dim=-1).to(light.ambient)
    ambient = torch.linalg.lstsq(harmonics(directions), harmonics(directions @ turn) @ light.ambient).solution
    return light._replace(axes=light.axes @ turn.T, ambient=ambient)


def test_turning_body_light_and_camera_changes_nothing() -> None:
    """In float64: colours of the posed Gaussians under the turned light, from the turned camera."""
    avatar = random_avatar()
    cloud, head, binding = avatar.gaussians, avatar.head, avatar.binding
    assert head is not None and binding is not None
    with torch.no_grad():
        shading = head.prepare(cloud.latents, cloud.diffuse)
    rest = Rest.of(cloud, shading.latents)
    rest = Rest(**{k: v.double() if v.is_floating_point() else v for k, v in vars(rest).items()})
    light = Light(*(tensor.double() for tensor in shading.light))
    rotations = F.pad(torch.zeros(3, 3, dtype=torch.float64), (1, 0), value=1.0)
    rotations[0] = random_quats()
    transforms = joint_transforms(binding, rotations, torch.randn(3, dtype=torch.float64))
    turn, shift = transforms[0, :3, :3], transforms[0, :3, 3]
    centres = torch.tensor([[1.0, 2.0, 0.5], [-2.0, 0.3, 1.0]], dtype=torch.float64)
    posed = pose(rest, transforms)
    diffuse = shading.diffuse.double()
    before = specular_reference(Surface(rest.latents, diffuse, rest.normals, rest.means), light, centres)
    surface = Surface(posed.latents, diffuse, posed.normals, posed.means)
    after = specular_reference(surface, turned_light(light, turn), centres @ turn.T + shift)
    assert before.std() > 0.01 and torch.allclose(before, after, atol=1e-9)


def test_turned_picture() -> None:
    """The same through `Avatar.posed`, its copy without attention, and the rasteriser, in float32."""
    avatar = random_avatar()
    head, binding = avatar.head, avatar.binding
    assert head is not None and binding is not None
    with torch.no_grad():
        head.raw_ambient[1:] = 0.02 * torch.randn(8, 3)
    rotations = F.pad(torch.zeros(3, 3), (1, 0), value=1.0)
    rotations[0] = random_quats().float()
    shift = torch.tensor([0.3, -0.2, 0.5])
    transform = joint_transforms(binding, rotations, shift)[0].double()
    camera = Cameras.orbit(20, 10, 2.0, 45, 96, 96)
    moved = replace(camera, viewmats=(camera.viewmats.double() @ transform.inverse()).float())
    posed = avatar.posed(rotations, shift)
    assert posed.head is not None and posed.head.attention is None
    with torch.no_grad():
        light = head.prepare(avatar.gaussians.latents, avatar.gaussians.diffuse).light
        turned = turned_light(light, transform[:3, :3].float())
        posed.head.axes.copy_(turned.axes)
        posed.head.raw_ambient.copy_(turned.ambient * head.raw_ambient[0, 0] / light.ambient[0, 0])
    before, after = avatar.render(camera), posed.render(moved)
    assert before.specular.abs().max() > 0.1
    for name in ("image", "alpha", "specular"):
        assert (getattr(before, name) - getattr(after, name)).abs().max() < 2e-4, name


def test_highlight_moves_as_mirrors_do() -> None:
    """One glossy Gaussian under one lamp that stays: the brightest view is the reflection about the turned
    normal."""
    latents = torch.zeros(1, LATENTS, dtype=torch.float64)
    latents[:, :2] = -2.0
    normal, lamp = (
        torch.tensor([[0.0, -1.0, 0.0]]).double(),
        F.normalize(torch.tensor([[0.3, -1.0, 0.8]]).double()),
    )
    turns = about(torch.tensor([[0.0, 0.0, 1.0]]).double(), torch.tensor([0.35]).double())
    light = Light(lamp, torch.tensor([1e-3]).double(), torch.ones(1, 3).double(), torch.zeros(9, 3).double())
    turned = rotate(turns, normal)
    centres = F.normalize(torch.randn(40_000, 3, dtype=torch.float64), dim=-1)
    surface = Surface(
        turned_latents(latents, normal, turns), torch.zeros(1, 3).double(), turned, torch.zeros(1, 3).double()
    )
    shown = specular_reference(surface, light, 100 * centres)[:, 0].mean(-1)
    mirrored = 2 * (lamp * turned).sum() * turned[0] - lamp[0]
    assert (centres[shown.topk(50).indices].mean(0) - mirrored).norm() < 0.03
    unturned = 2 * (lamp * normal).sum() * normal[0] - lamp[0]
    assert (unturned - mirrored).norm() > 0.3


def test_quadratic_harmonics_keep_their_length() -> None:
    coefficients, turns = torch.randn(50, 5, dtype=torch.float64), matrices(random_quats(50))
    found = turned_quadratic(coefficients, turns)
    assert torch.allclose(found.norm(dim=1), coefficients.norm(dim=1))
    back = turned_quadratic(found, turns.mT)
    assert torch.allclose(back, coefficients)


def test_turned_spherical_harmonics() -> None:
    coefficients, turns = torch.randn(20, 16, 3, dtype=torch.float64), random_quats(20)
    view = F.normalize(torch.randn(20, 3, dtype=torch.float64), dim=-1)
    found = torch.einsum("nj,njc->nc", harmonics_3(view), turned_harmonics(coefficients, turns))
    before = (matrices(turns).mT @ view[..., None])[..., 0]
    assert torch.allclose(found, torch.einsum("nj,njc->nc", harmonics_3(before), coefficients))
    colors = posed_colors(HarmonicColors(coefficients), turns)
    assert isinstance(colors, HarmonicColors)
    assert torch.equal(colors.coefficients, turned_harmonics(coefficients, turns))


def test_lobes_of_asgs_reflect_lights_that_stay() -> None:
    count = 20
    normals = F.normalize(torch.randn(count, 3), dim=-1)
    quats = random_quats(count).float()
    lights = F.normalize(torch.tensor([0.2, -0.1, 1.0]) + 0.3 * torch.randn(count, 1, 3), dim=-1)
    shapes = torch.tensor([40.0, 0.0, 40.0]).expand(count, 1, 3)
    colors = Asgs(quats, torch.zeros(count, 10, 3), lights, shapes, torch.full((count, 1, 3), 0.02))
    turns = about(normals, 0.5 * torch.rand(count))
    posed = posed_colors(colors, turns)
    assert isinstance(posed, Asgs)
    lamps = rotate(quats, lights[:, 0])
    normals = rotate(multiply(turns, quats), torch.tensor([0.0, 0.0, 1.0]))
    mirrored = 2 * (lamps * normals).sum(-1, keepdim=True) * normals - lamps
    near = F.normalize(mirrored + 0.1 * torch.randn(5000, count, 3), dim=-1)
    shown = posed(near).mean(-1)
    brightest = near[shown.argmax(0), torch.arange(count)]
    assert (brightest - mirrored).norm(dim=-1).max() < 0.02
    still = posed_colors(colors, torch.tensor([1.0, 0, 0, 0]).expand(count, 4))
    assert torch.allclose(still(near[:9]), colors(near[:9]), atol=1e-5)


def test_facial_actions_move_only_their_gaussians() -> None:
    avatar = random_avatar()
    offsets = torch.randn(2, 3, 3)
    avatar.expressions = Expressions(("smile", "eyeBlinkLeft"), torch.tensor([5, 9, 70]), offsets)
    still = F.pad(torch.zeros(3, 3), (1, 0), value=1.0)
    posed = avatar.posed(still, expressions=torch.tensor([0.5, 1.0]))
    moved = posed.gaussians.means - avatar.gaussians.means
    assert torch.allclose(moved[[5, 9, 70]], 0.5 * offsets[0] + offsets[1], atol=1e-5)
    others = torch.ones(len(moved), dtype=torch.bool)
    others[[5, 9, 70]] = False
    assert moved[others].abs().max() < 1e-5


@pytest.mark.parametrize("name", list(CLIPS))
def test_rest_returns_after_a_cycle(name: str) -> None:
    posable = Posable(bound_avatar(200))
    clip = built_in(name, posable.binding)
    cycle = clip.at(torch.tensor([0.4, 0.4 + clip.seconds, 0.4 + 3 * clip.seconds], dtype=torch.float64))
    first, *later = (posable.posed(pose) for pose in posable.transforms(cycle))
    for posed in later:
        assert (posed.means - first.means).abs().max() < 1e-5
    still = Clip("rest", 30.0, (), torch.zeros(1, 0, 4), torch.zeros(1, 3))
    posed = posable.posed(posable.transforms(still)[0])
    for found, wanted in ((posed.means, posable.rest.means), (posed.normals, posable.rest.normals)):
        assert (found - wanted).abs().max() < 1e-5


def test_posable_renders_what_posed_avatars_do() -> None:
    avatar = bound_avatar(400)
    posable = Posable(avatar, "dual")
    clip = built_in("walk", posable.binding)
    camera = Cameras.orbit(30, 5, 2.5, 45, 80, 80)
    fast = posable.posed(posable.transforms(clip)[5]).render(camera)
    slow = avatar.posed(clip.rotations[5], clip.translation[5], blend="dual").render(camera)
    assert (fast.image - slow.image).abs().max() < 1e-4 and fast.specular.abs().max() > 0.02
    assert (slow.image - avatar.render(camera).image).abs().max() > 0.3


def test_avatars_without_skeleton() -> None:
    avatar = replace(random_avatar(), binding=None)
    with pytest.raises(UserError, match="no skeleton"):
        avatar.posed(torch.zeros(3, 4))
    with pytest.raises(UserError, match="no skeleton"):
        Posable(avatar)


def test_tangent_angles_invert_tangent_frames() -> None:
    normals, angles = F.normalize(torch.randn(50, 3), dim=-1), torch.rand(50, 1) * 6 - 3
    found = tangent_angles(normals, tangent_frames(normals, angles)[0])
    assert torch.allclose(found, angles[:, 0], atol=1e-4)
