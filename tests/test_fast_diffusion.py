"""The fast denoiser and autoencoder against the plain ones, and each operation against its definition."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closeness import relative
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from tiny_prior import latent_prior, pixel_prior
from torch import Tensor

from specularip.diffusion.adapter import attach_identity
from specularip.diffusion.attention import KeyViews
from specularip.diffusion.autoencoder import VaeAutoencoder
from specularip.diffusion.denoiser import DenoiserInputs, PoseFeatures, UNetDenoiser
from specularip.diffusion.fast import ops
from specularip.diffusion.fast.accelerate import accelerate, supports
from specularip.diffusion.fast.features import Features, Part
from specularip.diffusion.fast.layers import EntryConvolution, Upsampling, convolve, mirrored
from specularip.diffusion.fast.vae import Downsampling
from specularip.diffusion.prior import Prior
from specularip.kernels.cuda_graphs import GraphCache

pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prior, Prior]:
    """The same random prior, plain and fast. Norms get random weights: fresh ones hide a forgotten factor."""
    folder: Path = tmp_path_factory.mktemp("prior")
    plain = latent_prior(folder)
    generator = torch.Generator().manual_seed(5)
    for parameter in plain.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return plain, accelerate(copy.deepcopy(plain))


def branches(prior: Prior, views: int, count: int, seed: int = 0) -> DenoiserInputs:
    """Random inputs for `count` branches of `views` views."""
    g = torch.Generator().manual_seed(seed)
    size, total = prior.image_size, views * count
    return DenoiserInputs(
        noisy=torch.randn(views, 4, prior.latent_size, prior.latent_size, generator=g),
        timesteps=torch.randint(0, 1000, (views,), generator=g),
        text=torch.randn(total, 7, 24, generator=g),
        pose=torch.rand(views, 3, size, size, generator=g),
        identity=torch.randn(total, 4, 24, generator=g),
        identity_scale=torch.rand(total, generator=g),
    )


def repeated(inputs: DenoiserInputs, count: int) -> DenoiserInputs:
    """The same with every evaluation a view of its own."""
    shared = {k: torch.cat([getattr(inputs, k)] * count) for k in ("noisy", "timesteps", "pose")}
    return replace(inputs, **shared)


def first_views(inputs: DenoiserInputs, views: int, count: int, pose: PoseFeatures) -> DenoiserInputs:
    """Of `branches`, the first views, with their `pose`."""
    noisy, timesteps = inputs.noisy[:views], inputs.timesteps[:views]
    tensors = (inputs.text, inputs.identity, inputs.identity_scale)
    text, identity, scale = (t.unflatten(0, (count, -1))[:, :views].flatten(0, 1) for t in tensors)
    return DenoiserInputs(noisy, timesteps, text, pose, identity, scale)


def test_accelerate_refuses_other_architectures() -> None:
    prior = pixel_prior()
    assert not supports(prior)
    with pytest.raises(ValueError, match="Stable Diffusion"):
        accelerate(prior)


def test_accelerated_prior_shares_its_networks(tmp_path: Path) -> None:
    plain = latent_prior(tmp_path)
    names = [name for name, _ in plain.named_parameters()]
    fast = accelerate(plain)
    assert not supports(fast) and fast.scheduler is plain.scheduler
    assert fast.denoiser.unet is plain.denoiser.unet and fast.autoencoder.vae is plain.autoencoder.vae
    assert {id(p) for p in fast.parameters()} == {id(p) for p in plain.parameters()}
    assert [name.replace("plain.", "") for name in fast.state_dict() if "plain." in name] == [
        name for name in names if name.startswith(("denoiser.", "autoencoder."))
    ]


def test_moved_weights_are_packed_again(tmp_path: Path) -> None:
    plain = latent_prior(tmp_path)
    fast = accelerate(copy.deepcopy(plain)).double()
    plain.double()
    inputs = branches(plain, 2, 2)
    with torch.no_grad():
        assert relative(fast.denoiser(inputs), plain.denoiser(repeated(inputs, 2))) < 1e-5
        images = torch.rand(1, 3, 16, 16)
        assert relative(fast.encode_image(images), plain.encode_image(images)) < 1e-5


def test_encode_and_its_gradient(priors: tuple[Prior, Prior]) -> None:
    plain, fast = priors
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    results = []
    for prior in (plain, fast):
        leaf = images.clone().requires_grad_()
        latents = prior.encode_image(leaf)
        (grad,) = torch.autograd.grad(latents, leaf, weight)
        results.append((latents.detach(), grad))
    assert relative(results[1][0], results[0][0]) < 1e-5
    assert relative(results[1][1], results[0][1]) < 1e-5


@pytest.mark.parametrize("factor", [1e-12, 1e9])
def test_gradient_is_linear_at_any_scale(priors: tuple[Prior, Prior], factor: float) -> None:
    """Half precision in the backward pass must not show, whatever the scale of the loss."""
    _, fast = priors
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weight = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    (one,) = torch.autograd.grad(fast.encode_image(images), images, weight)
    (other,) = torch.autograd.grad(fast.encode_image(images), images, weight * factor)
    assert relative(other / factor, one) < 1e-5


def test_larger_images(priors: tuple[Prior, Prior]) -> None:
    plain, fast = priors
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    latents = plain.encode_image(images, 32)
    assert relative(fast.encode_image(images, 32), latents) < 1e-5
    assert relative(fast.decode(latents), plain.decode(latents)) < 1e-5


def test_decode(priors: tuple[Prior, Prior]) -> None:
    plain, fast = priors
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert relative(fast.decode(latents), plain.decode(latents)) < 1e-5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sharing_between_branches_changes_no_result(priors: tuple[Prior, Prior], count: int) -> None:
    plain, fast = priors
    inputs = branches(plain, 2, count)
    with torch.no_grad():
        truth = plain.denoiser(repeated(inputs, count))
        assert relative(fast.denoiser(inputs), truth) < 1e-5
        assert relative(fast.denoiser(repeated(inputs, count)), truth) < 1e-5


def first_evaluations(inputs: DenoiserInputs, count: int) -> DenoiserInputs:
    """Without the last evaluations: those of the last branch for the last views."""
    shortened = {k: getattr(inputs, k)[:count] for k in ("text", "identity", "identity_scale")}
    return replace(inputs, **shortened)


def test_the_last_branch_may_leave_out_views(priors: tuple[Prior, Prior]) -> None:
    plain, fast = priors
    inputs = branches(plain, 3, 3)
    with torch.no_grad():
        truth = plain.denoiser(repeated(inputs, 3))
        for prior in (plain, fast):
            for count in (6, 7, 8):
                found = prior.denoiser(first_evaluations(inputs, count))
                assert len(found) == count and relative(found, truth[:count]) < 1e-5


def test_without_identity(priors: tuple[Prior, Prior]) -> None:
    plain, fast = priors
    inputs = replace(branches(plain, 2, 1), identity=None, identity_scale=None)
    with torch.no_grad():
        assert relative(fast.denoiser(inputs), plain.denoiser(inputs)) < 1e-5


def test_key_views(priors: tuple[Prior, Prior]) -> None:
    plain, fast = priors
    outcomes = []
    for prior in (plain, fast):
        store: dict[str, tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            keys = repeated(branches(plain, 3, 2), 2)
            prior.denoiser(replace(keys, key_views=KeyViews(2, record=True, store=store)))
            near, weights = torch.tensor([[0, 1], [2, 0]]), torch.tensor([[0.3, 0.15], [0.2, 0.25]])
            shared = KeyViews(2, neighbours=near, weights=weights, store=store)
            others = repeated(branches(plain, 2, 2, 3), 2)
            outcomes.append(prior.denoiser(replace(others, key_views=shared)))
    assert relative(outcomes[1], outcomes[0]) < 1e-5


def test_encoded_poses(priors: tuple[Prior, Prior]) -> None:
    plain, fast = priors
    inputs = branches(plain, 6, 2)  # more than one batch of POSES_AT_ONCE
    assert plain.encode_pose(inputs.pose) is inputs.pose
    with torch.no_grad():
        truth = fast.denoiser(inputs)
        pose = fast.encode_pose(inputs.pose)
        assert isinstance(pose, PoseFeatures) and len(pose) == 6 and fast.encode_pose(pose) is pose
        assert relative(fast.denoiser(replace(inputs, pose=pose)), truth) < 1e-6
        found = fast.denoiser(first_views(inputs, 2, 2, pose[:2]))
        assert relative(found, truth.unflatten(0, (2, 6))[:, :2].flatten(0, 1)) < 1e-5
        larger = replace(inputs, noisy=torch.randn(6, 4, 16, 16))
        pose = fast.encode_pose(inputs.pose, 16)
        assert isinstance(pose, PoseFeatures)
        assert relative(fast.denoiser(replace(larger, pose=pose)), fast.denoiser(larger)) < 1e-6
        for wrong in (fast.encode_pose(inputs.pose, 8), pose[:2], pose[:1]):
            with pytest.raises(ValueError, match="other latents"):
                fast.denoiser(replace(larger, pose=wrong))
    with pytest.raises(ValueError, match="images"):
        plain.denoiser(replace(inputs, pose=pose))


def test_gradients_go_through_the_plain_denoiser(priors: tuple[Prior, Prior]) -> None:
    _, fast = priors
    inputs = branches(fast, 1, 1)
    inputs.noisy.requires_grad_()
    fast.denoiser(inputs).sum().backward()
    assert inputs.noisy.grad is not None


# Operations between convolutions


def features(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 5, 6, 24, generator=g, dtype=torch.float64).float() + 0.5
    return x, torch.randn(24, generator=g), torch.randn(24, generator=g), torch.randn(2, 24, generator=g)


def test_group_norm_with_a_folded_shift() -> None:
    x, weight, bias, shift = features()
    leaf = (x + shift.repeat(2, 1)[:, None, None]).requires_grad_()
    truth = F.silu(F.group_norm(leaf.permute(0, 3, 1, 2), 6, weight, bias, 1e-5)).permute(0, 2, 3, 1)
    norm = ops.coefficients(Features(x), weight, bias, 6, 1e-5, shift)
    assert relative(ops.normalize(x, norm), truth) < 1e-5
    grad, residual = torch.randn_like(x), torch.randn_like(x)
    (wanted,) = torch.autograd.grad(truth, leaf, grad)
    got = ops.normalize_backward(x, grad, norm, residual=residual)
    assert relative(got, wanted + residual) < 1e-5


def test_join_sums_and_concatenates() -> None:
    x, weight, _, _ = features()
    other = torch.randn(2, 5, 6, 24)
    joined = ops.join([Part(x, other, weight), Part(other[..., :8])])
    truth = torch.cat([x + other.repeat(2, 1, 1, 1) + weight, other[..., :8].repeat(2, 1, 1, 1)], -1)
    assert relative(joined.x, truth) < 1e-6
    assert joined.sums is not None
    wanted = torch.stack([truth.sum((1, 2)), truth.square().sum((1, 2))], 1)
    assert relative(joined.sums.sum(1), wanted) < 1e-5


def test_mirrored_convolution_is_the_gradient() -> None:
    x = torch.randn(2, 6, 5, 8, requires_grad=True)
    weight = torch.randn(16, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    out = convolve(x, weight)
    grad = torch.randn_like(out)
    assert relative(convolve(grad, mirrored(weight)), torch.autograd.grad(out, x, grad)[0]) < 1e-5


def test_downsampling_and_its_gradient() -> None:
    conv = torch.nn.Conv2d(8, 8, 3, stride=2).requires_grad_(False)
    x = torch.randn(2, 8, 6, 8, requires_grad=True)
    truth = conv(F.pad(x.permute(0, 3, 1, 2), (0, 1, 0, 1))).permute(0, 2, 3, 1)
    grad = torch.randn_like(truth)
    fast = Downsampling(conv)
    assert relative(fast(Features(x.detach())).x, truth) < 1e-5
    assert relative(fast.backward(grad, (fast,)), torch.autograd.grad(truth, x, grad)[0]) < 1e-5


def test_upsampling() -> None:
    conv = torch.nn.Conv2d(8, 16, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 8, 5, 7)
    truth = conv(F.interpolate(x, scale_factor=2.0, mode="nearest")).permute(0, 2, 3, 1)
    assert relative(Upsampling(conv)(x.permute(0, 2, 3, 1).contiguous()), truth) < 1e-5


def test_entry_convolution() -> None:
    conv = torch.nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 3, 5, 7)
    assert relative(EntryConvolution(conv)(x), conv(x).permute(0, 2, 3, 1)) < 1e-5


class Repeated:
    """`CapturedGraph` without a GPU: calls the function each time."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def replay(self, *inputs: Tensor | None) -> Any:
        self.result = self.function(*inputs)
        return self.result


@pytest.fixture
def captured(priors: tuple[Prior, Prior], monkeypatch: pytest.MonkeyPatch) -> tuple[Prior, Prior]:
    """The priors, the fast one with graphs."""
    monkeypatch.setattr(GraphCache, "capture", lambda self, function, *inputs: Repeated(function))
    plain, _ = priors
    return plain, accelerate(copy.deepcopy(plain), graphs=True)


def test_captured_calls(captured: tuple[Prior, Prior]) -> None:
    plain, fast = captured
    inputs = branches(plain, 3, 3)
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    weight = torch.randn(3, 4, 8, 8)
    for _ in range(2):
        with torch.no_grad():
            assert relative(fast.denoiser(inputs), plain.denoiser(inputs)) < 1e-5
        wanted, got = (torch.autograd.grad(p.encode_image(images), images, weight)[0] for p in (plain, fast))
        assert relative(got, wanted) < 1e-5
        fast.release_graphs()


def test_a_late_backward_pass_is_an_error(captured: tuple[Prior, Prior]) -> None:
    """The tape of a graph is overwritten by the next call."""
    _, fast = captured
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    early = fast.encode_image(images)
    fast.encode_image(images)
    with pytest.raises(RuntimeError, match="precede the next call"):
        early.sum().backward()


# On a GPU


@pytest.fixture(scope="module")
def gpu_priors() -> tuple[Prior, Prior]:
    """A float32 prior of wider blocks, as diffusers computes it, and the fast one in half precision."""
    torch.manual_seed(0)
    blocks = {"block_out_channels": (64, 128), "layers_per_block": 1}
    unet = UNet2DConditionModel(
        sample_size=16, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=64, attention_head_dim=2,
        **blocks,
    )  # fmt: skip
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, sample_size=32, **blocks,
    )  # fmt: skip
    projection = attach_identity(unet, 4, 12)
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
    prior = Prior(
        UNetDenoiser(unet, control), VaeAutoencoder(vae), torch.nn.Identity(), None, scheduler,
        image_projection=projection,
    )  # fmt: skip
    for parameter in prior.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
        elif not parameter.any():
            parameter.data.normal_(0, 0.05)
    prior = prior.eval().requires_grad_(False).cuda()
    return prior, accelerate(copy.deepcopy(prior).half())


def gpu_branches(views: int) -> DenoiserInputs:
    sizes = {"noisy": (views, 4, 16, 16), "text": (3 * views, 77, 64), "identity": (3 * views, 4, 64)}
    noisy, text, identity = (torch.randn(size, device="cuda") for size in sizes.values())
    return DenoiserInputs(
        noisy=noisy,
        timesteps=torch.randint(0, 1000, (views,), device="cuda"),
        # Large embeddings: where branches hardly differ, their difference is rounding.
        text=4 * text,
        pose=torch.rand(views, 3, 32, 32, device="cuda"),
        identity=4 * identity,
        identity_scale=torch.rand(3 * views, device="cuda"),
    )


@pytest.mark.gpu
def test_gradient_of_score_distillation_on_a_gpu(gpu_priors: tuple[Prior, Prior]) -> None:
    """Captured, in half precision, against float32 through autograd: captured, replayed, and captured again
    after a release; then with encoded poses, and fewer or more evaluations of the last branch."""
    plain, fast = gpu_priors
    for again, last in enumerate((3, 3, 3, 0, 4)):
        if again == 2:
            fast.release_graphs()
        inputs = gpu_branches(4)
        images, noise = torch.rand(4, 3, 32, 32, device="cuda"), torch.randn(4, 4, 16, 16, device="cuda")
        grads = []
        for prior in (plain, fast):
            leaf = images.clone().requires_grad_()
            latents = prior.encode_image(leaf)
            with torch.no_grad():
                noisy = prior.add_noise(latents, noise, inputs.timesteps)
                pose = prior.encode_pose(inputs.pose) if again > 2 else inputs.pose
                given = first_evaluations(replace(inputs, noisy=noisy, pose=pose), 8 + last)
                positive, null, negative = prior.denoiser(given).split([4, 4, last])
                direction = 7.5 * (positive - null) + null
                direction[:last] -= negative
            # As small as the weights of a stage make it: plain half precision loses such gradients.
            grads.append(torch.autograd.grad(latents, leaf, 1e-5 * direction)[0])
        assert relative(grads[1], grads[0]) < 1e-2


@pytest.mark.gpu
def test_decode_and_key_views_on_a_gpu(gpu_priors: tuple[Prior, Prior]) -> None:
    plain, fast = gpu_priors
    latents = torch.randn(2, 4, 16, 16, device="cuda")
    assert relative(fast.decode(latents), plain.decode(latents)) < 1e-2
    first, second, outcomes = gpu_branches(3), gpu_branches(2), []
    for prior in (plain, fast):
        store: dict[str, tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            prior.denoiser(replace(first, key_views=KeyViews(3, record=True, store=store)))
            near = torch.tensor([[0, 1], [2, 0]], device="cuda")
            weights = torch.full((2, 2), 0.2, device="cuda")
            shared = KeyViews(3, neighbours=near, weights=weights, store=store)
            outcomes.append(prior.denoiser(replace(second, key_views=shared)))
    assert relative(outcomes[1], outcomes[0]) < 1e-2


@pytest.mark.gpu
def test_without_triton_on_a_gpu(gpu_priors: tuple[Prior, Prior], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = gpu_priors
    monkeypatch.setattr(ops, "USE_TRITON", False)
    fast.release_graphs()
    inputs = gpu_branches(3)
    images, weight = torch.rand(2, 3, 32, 32, device="cuda"), torch.randn(2, 4, 16, 16, device="cuda")
    grads = []
    for prior in (plain, fast):
        leaf = images.clone().requires_grad_()
        grads.append(torch.autograd.grad(prior.encode_image(leaf), leaf, weight)[0])
    assert relative(grads[1], grads[0]) < 1e-2
    with torch.no_grad():
        assert relative(fast.denoiser(inputs), plain.denoiser(inputs)) < 2e-2
    fast.release_graphs()


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4, 24, 20, 96), (2, 64, 64, 64), (3, 5, 7, 320)])
def test_triton_kernels_against_plain_torch(shape: tuple[int, ...]) -> None:
    x, grad = torch.randn(shape), torch.randn(shape)
    weight, bias, shift = torch.randn(shape[-1]), torch.randn(shape[-1]), torch.randn(1, shape[-1])
    results = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float16)):
        a, g = x.to(device, dtype), grad.to(device, dtype)
        w, b, s = (t.to(device) for t in (weight, bias, shift))
        joined = ops.join([Part(a, g[:2], b), Part(g)])
        norm = ops.coefficients(Features(a), w, b, 32, 1e-5, s)
        tokens = a.flatten(1, 2)
        wide = torch.stack([w, b]).flatten()[:, None].expand(-1, shape[-1]).to(a).contiguous() / 50
        ones = torch.ones(len(a), device=device)
        keys, values = tokens[:, :13], tokens[:, 1:14]
        probabilities = ops.softmax(tokens.float(), dtype)
        assert joined.sums is not None
        results.append(
            [
                joined.x,
                joined.sums.sum(1),
                ops.normalize(a, norm),
                ops.normalize_backward(a, g, norm, residual=a),
                *ops.add_layer_norm(tokens[:2], tokens, w, b, 1e-5),
                ops.geglu(tokens, wide, torch.cat([b, w]).to(a)),
                ops.cross_attention(tokens[:2], keys, values, 2, tokens[:, :4], tokens[:, 2:6], ones),
                probabilities,
                ops.softmax_backward(probabilities, tokens, 0.3),
                ops.patches(a[..., :3].permute(0, 3, 1, 2), 32, 2.0, -1.0, dtype),
                ops.patches_backward(a[..., :32].contiguous(), 3),
                ops.spread(a, shape[1] - 1, shape[2] - 1, 1),
            ]
        )
    for index, (truth, got) in enumerate(zip(*results)):
        assert relative(got.cpu(), truth) < 5e-3, index
