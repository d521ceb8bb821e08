"""The avatar: rendered layers, saving and loading, and errors for damaged files."""

import json
import os
from dataclasses import fields

import pytest
import torch
from avatars import COUNT, random_avatar
from safetensors.torch import load_file, save_file

from specularip.avatar import Avatar, load, shade
from specularip.avatar_file import FILE_NAME
from specularip.body import anny_body
from specularip.cameras import Cameras
from specularip.errors import UserError
from specularip.gaussians import Binding, Gaussians, field_specs
from specularip.raster import rasterize
from specularip.specular import LATENTS


def views(count: int = 2, size: int = 40) -> Cameras:
    return Cameras.orbit(torch.rand(count) * 360, torch.rand(count) * 40 - 20, 2.0, 45.0, size + 8, size)


def test_frame_layers_are_consistent(seed):
    avatar, cameras, ground = random_avatar(), views(), torch.rand(3)
    frame = avatar.render(cameras, ground)
    for name, channels in (("image", 3), ("alpha", 1), ("depth", 1), ("normal", 3), ("specular", 3)):
        layer = getattr(frame, name)
        assert layer.shape == (2, 40, 48, channels) and layer.dtype == torch.float32, name
        assert torch.isfinite(layer).all() and not layer.requires_grad, f"seed {seed}: {name}"
    matte = Avatar(avatar.gaussians).render(cameras, ground)
    assert torch.equal(matte.specular, torch.zeros_like(matte.specular))
    assert torch.allclose(frame.image, (matte.image + frame.specular).clamp(0, 1), atol=1e-5), seed
    assert float(frame.specular.max()) > 0.05, f"seed {seed}: the scene has no highlight"
    empty = frame.alpha[..., 0] == 0
    assert empty.any() and torch.allclose(
        frame.image[empty], ground.expand(int(empty.sum()), 3), atol=1e-6
    ), seed
    length = frame.normal.norm(dim=-1)
    assert torch.allclose(length[~empty], torch.ones(()), atol=1e-3), f"seed {seed}: {length[~empty].min()}"
    assert not length[empty].any() and not frame.depth[..., 0][empty].any()
    grey = avatar.render(cameras, 0.25)
    assert torch.allclose(grey.image[empty], torch.tensor(0.25)), seed
    with pytest.raises(ValueError, match="background"):
        avatar.render(cameras, [0.1, 0.2])


def test_shade_matches_render_and_is_differentiable(seed):
    avatar, cameras = random_avatar(), views()
    cloud, head = avatar.gaussians.requires_grad_(), avatar.head
    colors, specular = shade(cloud, head, cameras, 1.0)
    assert colors.shape == specular.shape == (2, COUNT, 3)
    assert torch.allclose(colors - specular, cloud.diffuse.expand_as(colors), atol=1e-6)
    half_colors, half = shade(cloud, head, cameras, 0.5)
    assert torch.allclose(half, specular / 2, atol=1e-6) and torch.allclose(
        half_colors + half, colors, atol=1e-6
    )
    for no_head, gain in ((None, 1.0), (head, 0.0)):
        assert not shade(cloud, no_head, cameras, gain)[1].any()
    drawn = rasterize(
        cloud.means, cloud.quats, cloud.scales, cloud.opacities, colors, cameras.viewmats, cameras.Ks, 48, 40
    )
    assert torch.allclose(drawn.image.clamp(0, 1), avatar.render(cameras, 0.0).image, atol=1e-5), seed
    drawn.image.square().sum().backward()
    for name, tensor in cloud.parameters().items():
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all() and tensor.grad.any(), (
            f"{seed}: {name}"
        )
    for name, tensor in head.named_parameters():
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all() and tensor.grad.any(), (
            f"{seed}: {name}"
        )


@pytest.mark.parametrize("with_head", [True, False])
def test_prepared_avatar_renders_the_same(seed, with_head):
    avatar, cameras = random_avatar(with_head), views()
    prepared = avatar.prepare()
    for background in (0.0, 0.6, [0.1, 0.2, 0.3]):
        frame = avatar.render(cameras, background)
        for camera in range(2):  # one by one, like a viewer
            image = prepared.image(cameras[camera], background)
            assert torch.allclose(image[0], frame.image[camera], atol=1e-6), seed
    assert not any(
        value.requires_grad for value in vars(prepared).values() if isinstance(value, torch.Tensor)
    )
    with pytest.raises(ValueError, match="background"):
        prepared.image(cameras, [0.1, 0.2])


def test_indexing_cameras():
    cameras = views(3)
    for index in (0, 2, -1):
        assert torch.equal(cameras[index].viewmats, cameras[[index]].viewmats)
        assert torch.equal(cameras[index].Ks, cameras[[index]].Ks)
    with pytest.raises(IndexError):
        cameras[3]
    origins = (cameras.viewmats[:, :3, :3] @ cameras.positions[..., None])[..., 0]
    assert torch.allclose(origins, -cameras.viewmats[:, :3, 3], atol=1e-5)


def assert_same(first: Avatar, second: Avatar) -> None:
    for name, tensor in first.gaussians.tensors().items():
        assert torch.equal(tensor.detach(), second.gaussians.tensors()[name]), name
    assert (first.head is None) == (second.head is None)
    if first.head is not None and second.head is not None:
        assert first.head.config == second.head.config
        for name, tensor in first.head.state_dict().items():
            assert torch.equal(tensor, second.head.state_dict()[name]), name
    assert first.provenance == second.provenance
    assert (first.binding is None) == (second.binding is None)
    if first.binding is not None and second.binding is not None:
        assert first.binding.joint_names == second.binding.joint_names
        assert first.binding.joint_parents == second.binding.joint_parents
        assert torch.equal(first.binding.joints, second.binding.joints)


@pytest.mark.parametrize("with_head", [True, False])
def test_save_and_load(seed, with_head, tmp_path):
    avatar = random_avatar(with_head)
    avatar.gaussians.requires_grad_()
    assert avatar.save(tmp_path / "run") == tmp_path / "run" / FILE_NAME
    assert_same(avatar, load(tmp_path / "run"))
    assert_same(avatar, load(tmp_path / "run" / FILE_NAME))
    avatar.binding = None
    avatar.save(tmp_path / "sub" / "one.safetensors")
    again = Avatar.load(tmp_path / "sub" / "one.safetensors")
    assert_same(avatar, again)
    cameras = views(1)
    # Not bit for bit: the order of sums in matrix products depends on memory alignment.
    assert torch.allclose(avatar.render(cameras).image, again.render(cameras).image, atol=1e-5), seed
    assert sorted(p.name for p in tmp_path.rglob("*")) == [FILE_NAME, "one.safetensors", "run", "sub"]


def test_ply_has_harmonics_or_the_diffuse_colours(seed, tmp_path):
    avatar = random_avatar()
    baked, plain = (
        load(avatar.export(tmp_path / "a.ply")),
        load(avatar.export(tmp_path / "b.ply", bake=False)),
    )
    assert baked.head is None and torch.allclose(baked.gaussians.means, avatar.gaussians.means)
    assert torch.equal(baked.colors.coefficients, avatar.baked("sh3").colors.coefficients), seed
    assert plain.colors is None
    expected = avatar.gaussians.diffuse.clamp(1 / 512, 511 / 512)
    assert torch.allclose(plain.gaussians.diffuse, expected, atol=1e-4), seed
    assert plain.render(views(1)).image.shape == (1, 40, 48, 3)


def damage(tensors: dict, header: dict, kind: str) -> None:
    """Damage one thing in a valid avatar."""
    match kind:
        case "is missing":
            del tensors["gaussians.quats"]
        case "head.attention.qkv.weight is missing":
            del tensors["head.attention.qkv.weight"]
        case "NaN":
            tensors["gaussians.means"][3, 1] = float("nan")
        case "infinite":
            tensors["head.raw_ambient"][0] = float("inf")
        case "float16":
            tensors["gaussians.latents"] = tensors["gaussians.latents"].half()
        case "int32":
            tensors["gaussians.regions"] = tensors["gaussians.regions"].int()
        case r"not \[150\]":
            tensors["gaussians.opacity_logits"] = tensors["gaussians.opacity_logits"][:-1].clone()
        case r"not \[150, 34\]":
            tensors["gaussians.latents"] = tensors["gaussians.latents"][:, :5].clone()
        case "no Gaussians":
            for name in [n for n in tensors if n.startswith("gaussians.")]:
                tensors[name] = tensors[name][:0].clone()
        case "format 99":
            header["format"] = 99
        case "provenance":
            header["provenance"] = [1]
        case "configuration":
            header["head"]["colour"] = 1
        case "lights and token must be":
            header["head"]["lights"] = 10**9
        case "lights is not of type int":
            header["head"]["lights"] = True
        case "attention is not of type bool":
            header["head"]["attention"] = 1
        case "radiance must be":
            header["head"]["radiance"] = -1
        case "earlier version":
            header["format"] = 2
        case "names and parents":
            header["binding"]["joint_names"].pop()
        case "parents that do not exist":
            header["binding"]["joint_parents"][2] = 17
        case "does not have":
            tensors["gaussians.bind_joints"][0, 0] = 3
        case "joints is missing":
            del tensors["binding.joints"]
        case _:
            raise AssertionError(kind)


KINDS = [
    "is missing",
    "head.attention.qkv.weight is missing",
    "NaN",
    "infinite",
    "float16",
    "int32",
    r"not \[150\]",
]
KINDS += [
    r"not \[150, 34\]",
    "no Gaussians",
    "format 99",
    "provenance",
    "configuration",
    "lights and token must be",
]
KINDS += ["lights is not of type int", "attention is not of type bool", "radiance must be", "earlier version"]
KINDS += ["names and parents", "parents that do not exist", "does not have", "joints is missing"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_avatars_raise_one_clear_line(kind, seed, tmp_path):
    path = random_avatar().save(tmp_path / "a.safetensors")
    tensors = load_file(path)
    header = json.loads(metadata_of(path))
    damage(tensors, header, kind)
    save_file(tensors, path, {"specularip": json.dumps(header)})
    with pytest.raises(UserError, match=kind) as caught:
        load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def metadata_of(path) -> str:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]["specularip"]


def test_other_files_raise(seed, tmp_path):
    path = random_avatar().save(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:5], b"", bytes(torch.randint(256, (300,)).tolist())):
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged or cut short"):
            load(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="no specularip header"):
        load(path)
    save_file({"weight": torch.zeros(3)}, path, {"specularip": "{"})
    with pytest.raises(UserError, match="its header is damaged"):
        load(path)
    (tmp_path / "a.obj").write_text("v 0 0 0")
    with pytest.raises(UserError, match="give a run folder"):
        load(tmp_path / "a.obj")
    with pytest.raises(UserError, match="no avatar at"):
        load(tmp_path / "none.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="finished run folder"):
        load(tmp_path / "empty")


def test_saving_fails_cleanly(seed, tmp_path):
    avatar = random_avatar()
    with pytest.raises(UserError, match="use a folder"):
        avatar.save(tmp_path / "a.obj")
    (tmp_path / "file").write_text("")
    for target in ("file/a.safetensors", "file/folder"):
        with pytest.raises(UserError, match="cannot write"):
            avatar.save(tmp_path / target)
    with pytest.raises(UserError, match="cannot write"):
        avatar.export(tmp_path / "file" / "a.ply", bake=False)
    avatar.provenance = {"bad": object()}
    before = Avatar(avatar.gaussians).save(tmp_path / "keep.safetensors").read_bytes()
    with pytest.raises(TypeError):
        avatar.save(tmp_path / "keep.safetensors")
    assert (tmp_path / "keep.safetensors").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["file", "keep.safetensors"]


def test_binding_checks_its_lengths():
    with pytest.raises(ValueError, match="joint_parents"):
        Binding(["a", "b"], [-1], torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"joints \[2,3\]"):
        Binding(["a", "b"], [-1, 0], torch.zeros(3, 3))


def test_field_specs_describe_gaussians():
    gaussians = random_avatar().gaussians
    assert [f.name for f in fields(Gaussians)] == list(field_specs(LATENTS))
    for name, spec in field_specs(LATENTS).items():
        tensor = getattr(gaussians, name)
        assert tensor.shape == (COUNT, *spec.shape) and tensor.dtype == spec.dtype, name


def test_files_of_36_joints_get_the_whole_skeleton(tmp_path):
    body = anny_body()
    samples = body.sample_surface(400, torch.Generator().manual_seed(0))
    gaussians = random_avatar().gaussians.select(torch.arange(400) % COUNT)
    gaussians.means = samples.points
    gaussians.bind_joints = torch.zeros(400, 4, dtype=torch.int64)
    old = Binding(list(body.joint_names[:36]), list(body.joint_parents[:36]), body.joints[:36])
    file = Avatar(gaussians, binding=old).save(tmp_path / "a.safetensors")
    assert load(file).binding.joint_names == old.joint_names, "today's files are read as they are"
    file.write_bytes(file.read_bytes().replace(b'\\"format\\": 4', b'\\"format\\": 3'))
    assert load(file).binding.joint_names == list(body.joint_names)
