"""Gaussians that are not in the rest pose: posed, written and read with the stance of their skeleton."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from avatars import random_avatar
from torch.nn import functional as F

from specularip import load
from specularip.avatar import Avatar
from specularip.errors import UserError
from specularip.export.glb import write_glb
from specularip.export.glb_skeleton import read_clips
from specularip.export.gltf import Document
from specularip.motion.clip import Clip
from specularip.motion.skinning import joint_transforms
from specularip.posable import Posable
from specularip.viewer.pack import unpack


def rotations(count: int) -> torch.Tensor:
    return F.normalize(torch.tensor([1.0, 0, 0, 0]) + 0.4 * torch.randn(count, 4), dim=-1)


def standing(with_head: bool = False) -> Avatar:
    avatar = random_avatar(with_head)
    assert avatar.binding is not None
    return replace(avatar, binding=replace(avatar.binding, stance=rotations(3)))


def rigidly_bound(avatar: Avatar) -> Avatar:
    """Bound to one joint each: a pose and back again is then exact."""
    weights = torch.tensor([1.0, 0, 0, 0]).repeat(len(avatar.gaussians), 1)
    return replace(avatar, gaussians=replace(avatar.gaussians, bind_weights=weights))


def test_in_its_stance_nothing_moves(seed):
    binding = standing().binding
    skin = joint_transforms(binding, binding.stance)
    assert torch.allclose(skin, torch.eye(4).expand_as(skin), atol=1e-5), seed


def test_poses_are_those_of_the_avatar_at_rest(seed):
    """An avatar, and the same one brought into a stance: a pose of one is that pose of the other."""
    resting = rigidly_bound(random_avatar(with_head=False))
    stance, pose, shift = rotations(3), rotations(3), torch.randn(3)
    posed = resting.posed(stance)
    again = replace(posed, binding=replace(resting.binding, stance=stance))
    expected, found = resting.posed(pose, shift), again.posed(pose, shift)
    assert torch.allclose(found.gaussians.means, expected.gaussians.means, atol=1e-5), seed
    assert torch.allclose(found.gaussians.rotations, expected.gaussians.rotations, atol=1e-4), seed


def test_posable_knows_the_stance(seed):
    avatar = rigidly_bound(standing())
    names = tuple(avatar.binding.joint_names)
    turns, shift = rotations(3), torch.randn(3)
    clip = Clip("still", 24.0, names, turns[None], shift[None])
    posable = Posable(avatar)
    found = posable.posed(posable.bones(clip)[0])
    assert torch.allclose(found.means, avatar.posed(turns, shift).gaussians.means, atol=1e-5), seed


def test_the_file_keeps_it(seed, tmp_path):
    avatar = standing(with_head=True)
    path = avatar.save(tmp_path)
    assert torch.equal(load(path).binding.stance, avatar.binding.stance), seed
    resting = replace(avatar, binding=replace(avatar.binding, stance=None))
    assert load(resting.save(tmp_path / "b.safetensors")).binding.stance is None


def test_a_stance_of_no_rotations_is_refused(seed, tmp_path):
    avatar = standing()
    none = replace(avatar.binding, stance=torch.zeros(3, 4))
    path = replace(avatar, binding=none).save(tmp_path)
    with pytest.raises(UserError, match="rotations that are none"):
        load(path)


def test_a_stance_needs_a_rotation_for_each_joint():
    with pytest.raises(ValueError, match="stance must be"):
        replace(random_avatar(False).binding, stance=rotations(2))


def test_gltf_rests_in_the_stance_and_keeps_the_motion(seed, tmp_path):
    avatar = standing()
    turns = torch.stack([rotations(3) for _ in range(4)])
    # The clip does not mention the knee, which is then in its rest pose.
    clip = Clip("some", 10.0, ("root", "hip"), turns[:, :2], torch.randn(4, 3))
    path = tmp_path / "a.glb"
    write_glb(path, avatar.gaussians, binding=avatar.binding, clips=[clip])
    found = load(path)
    assert torch.allclose(found.binding.joints, avatar.binding.joints, atol=1e-5), seed
    alike = (found.binding.stance * avatar.binding.stance).sum(-1).abs()
    assert torch.allclose(alike, torch.ones(3), atol=1e-5), seed
    (motion,) = read_clips(path)
    on, wanted = motion.on(found.binding), clip.on(avatar.binding)
    ours = joint_transforms(avatar.binding, wanted.rotations, wanted.translation)
    theirs = joint_transforms(found.binding, on.rotations, on.translation)
    assert torch.allclose(ours, theirs, atol=1e-4), seed
    # As any program evaluates the file: at rest, the skin moves nothing.
    document = Document(path)
    skin = document.item("skins", 0)
    world = document.world_matrices()
    inverse = document.array(skin["inverseBindMatrices"], "MAT4")
    moves = np.stack([world[joint] for joint in skin["joints"]]) @ inverse
    assert np.abs(moves - np.eye(4)).max() < 1e-5


def test_the_viewers_pack_has_it(seed):
    avatar = standing()
    _, columns = unpack(avatar.packed())
    assert np.allclose(columns["stance"], avatar.binding.stance, atol=1e-6), seed
    _, columns = unpack(random_avatar(False).packed())
    assert "stance" not in columns
