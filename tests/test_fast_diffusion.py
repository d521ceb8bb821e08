"""The fast networks against diffusers' own, and each fused step against its definition."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from closeness import relative
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from tiny_prior import latent_prior, pixel_prior
from torch import Tensor

from specularip.diffusion.attention import KeyViews, attach_identity
from specularip.diffusion.fast import ops as fused
from specularip.diffusion.fast.accelerate import FastPrior, accelerate, supports
from specularip.diffusion.fast.layers import EntryConvolution, Upsampling, convolve, mirrored
from specularip.diffusion.fast.ops import Features, Part
from specularip.diffusion.fast.vae import Downsampling
from specularip.diffusion.prior import Hint, Prior

pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prior, FastPrior]:
    """The same random prior, plain and fast. Norms get weights: fresh ones hide a forgotten factor."""
    folder: Path = tmp_path_factory.mktemp("prior")
    plain = latent_prior(folder)
    generator = torch.Generator().manual_seed(5)
    for parameter in plain.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return plain, accelerate(copy.deepcopy(plain))


def branches(prior: Prior, views: int, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of `model_output` for `count` branches of `views` views, nothing repeated."""
    g = torch.Generator().manual_seed(seed)
    size, total = prior.image_size, views * count
    return {
        "noisy": torch.randn(views, 4, prior.latent_size, prior.latent_size, generator=g),
        "timesteps": torch.randint(0, 1000, (views,), generator=g),
        "text": torch.randn(total, 7, 24, generator=g),
        "pose": torch.rand(views, 3, size, size, generator=g),
        "identity": torch.randn(total, 4, 24, generator=g),
        "identity_scale": torch.rand(total, generator=g),
    }


def repeated(inputs: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    shared = {k: torch.cat([inputs[k]] * count) for k in ("noisy", "timesteps", "pose")}
    return {**inputs, **shared}


def first_views(inputs: dict[str, Tensor], views: int, count: int) -> dict[str, Tensor]:
    """Of `branches`, all but the pose, of the first views."""
    some = {k: inputs[k][:views] for k in ("noisy", "timesteps")}
    for k in ("text", "identity", "identity_scale"):
        some[k] = inputs[k].unflatten(0, (count, -1))[:, :views].flatten(0, 1)
    return some


def test_accelerate_refuses_other_shapes() -> None:
    prior = pixel_prior()
    assert not supports(prior)
    with pytest.raises(ValueError, match="Stable Diffusion"):
        accelerate(prior)


def test_encode_and_its_gradient(priors: tuple[Prior, FastPrior]) -> None:
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
def test_gradient_survives_its_scale(priors: tuple[Prior, FastPrior], factor: float) -> None:
    """The backward pass is linear: half precision in between must not show, whatever the loss's scale."""
    _, fast = priors
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weight = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    (one,) = torch.autograd.grad(fast.encode_image(images), images, weight)
    (other,) = torch.autograd.grad(fast.encode_image(images), images, weight * factor)
    assert relative(other / factor, one) < 1e-5


def test_larger_images(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    latents = plain.encode_image(images, 32)
    assert relative(fast.encode_image(images, 32), latents) < 1e-5
    assert relative(fast.decode(latents), plain.decode(latents)) < 1e-5


def test_decode(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert relative(fast.decode(latents), plain.decode(latents)) < 1e-5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_branches_share_without_changing_the_answer(priors: tuple[Prior, FastPrior], count: int) -> None:
    plain, fast = priors
    inputs = branches(plain, 2, count)
    with torch.no_grad():
        truth = plain.model_output(**repeated(inputs, count))
        assert relative(fast.model_output(**inputs), truth) < 1e-5
        assert relative(fast.model_output(**repeated(inputs, count)), truth) < 1e-5


def some_evaluations(inputs: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Without the last evaluations: those of the last branch for the last views."""
    return {k: v[:count] if k in ("text", "identity", "identity_scale") else v for k, v in inputs.items()}


def test_the_last_branch_may_leave_out_views(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    inputs = branches(plain, 3, 3)
    with torch.no_grad():
        truth = plain.model_output(**repeated(inputs, 3))
        for prior in (plain, fast):
            for count in (6, 7, 8):
                found = prior.model_output(**some_evaluations(inputs, count))
                assert len(found) == count and relative(found, truth[:count]) < 1e-5


def test_without_face_or_words_of_it(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    inputs = {k: v for k, v in branches(plain, 2, 1).items() if not k.startswith("identity")}
    with torch.no_grad():
        assert relative(fast.model_output(**inputs), plain.model_output(**inputs)) < 1e-5


def test_key_views(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    outcomes = []
    for prior in (plain, fast):
        store: dict[str, tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            keys = repeated(branches(plain, 3, 2), 2)
            prior.model_output(**keys, key_views=KeyViews(2, record=True, store=store))
            near, weights = torch.tensor([[0, 1], [2, 0]]), torch.tensor([[0.3, 0.15], [0.2, 0.25]])
            look = KeyViews(2, neighbours=near, weights=weights, store=store)
            outcomes.append(prior.model_output(**repeated(branches(plain, 2, 2, 3), 2), key_views=look))
    assert relative(outcomes[1], outcomes[0]) < 1e-5


def test_poses_read_before(priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = priors
    inputs = branches(plain, 6, 2)  # more than are read at once
    assert plain.read_pose(inputs["pose"]) is inputs["pose"]
    with torch.no_grad():
        truth = fast.model_output(**inputs)
        hint = fast.read_pose(inputs["pose"])
        assert isinstance(hint, Hint) and len(hint) == 6 and fast.read_pose(hint) is hint
        assert relative(fast.model_output(**(inputs | {"pose": hint})), truth) < 1e-6
        found = fast.model_output(**first_views(inputs, 2, 2), pose=hint[:2])
        assert relative(found, truth.unflatten(0, (2, 6))[:, :2].flatten(0, 1)) < 1e-5
        larger = inputs | {"noisy": torch.randn(6, 4, 16, 16)}
        hint = fast.read_pose(inputs["pose"], 16)
        truth = fast.model_output(**larger)
        assert relative(fast.model_output(**(larger | {"pose": hint})), truth) < 1e-6
        for wrong in (fast.read_pose(inputs["pose"], 8), hint[:2], hint[:1]):
            with pytest.raises(ValueError, match="other latents"):
                fast.model_output(**(larger | {"pose": wrong}))
    with pytest.raises(ValueError, match="drawings"):
        plain.model_output(**(inputs | {"pose": hint}))


def test_gradients_through_the_denoiser_still_work(priors: tuple[Prior, FastPrior]) -> None:
    _, fast = priors
    inputs = branches(fast, 1, 1)
    inputs["noisy"].requires_grad_()
    fast.model_output(**inputs).sum().backward()
    assert inputs["noisy"].grad is not None


# The steps between convolutions


def features(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 5, 6, 24, generator=g, dtype=torch.float64).float() + 0.5
    return x, torch.randn(24, generator=g), torch.randn(24, generator=g), torch.randn(2, 24, generator=g)


def test_group_norm_with_a_shift_never_written() -> None:
    x, weight, bias, shift = features()
    leaf = (x + shift.repeat(2, 1)[:, None, None]).requires_grad_()
    truth = F.silu(F.group_norm(leaf.permute(0, 3, 1, 2), 6, weight, bias, 1e-5)).permute(0, 2, 3, 1)
    norm = fused.coefficients(Features(x), weight, bias, 6, 1e-5, shift)
    assert relative(fused.normalize(x, norm), truth) < 1e-5
    grad, residual = torch.randn_like(x), torch.randn_like(x)
    (wanted,) = torch.autograd.grad(truth, leaf, grad)
    got = fused.normalize_backward(x, grad, norm, residual=residual)
    assert relative(got, wanted + residual) < 1e-5


def test_join_adds_and_concatenates() -> None:
    x, weight, _, _ = features()
    other = torch.randn(2, 5, 6, 24)
    joined = fused.join([Part(x, other, weight), Part(other[..., :8])])
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


def test_entry_convolution_hides_its_bias() -> None:
    conv = torch.nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
    x = torch.randn(2, 3, 5, 7)
    assert relative(EntryConvolution(conv)(x), conv(x).permute(0, 2, 3, 1)) < 1e-5


class Repeated:
    """`replay.Recording` without a GPU: computes anew each time."""

    def __init__(self, make: Any, inputs: tuple[Tensor | None, ...], pool: Any) -> None:
        self.make = make

    def replay(self, *inputs: Tensor | None) -> Any:
        self.result = self.make(*inputs)
        return self.result


def test_recorded_calls(priors: tuple[Prior, FastPrior], monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = priors
    monkeypatch.setitem(fast.__dict__, "graphs", True)
    monkeypatch.setitem(fast.__dict__, "_recordings", {})
    monkeypatch.setattr("specularip.diffusion.fast.accelerate.Recording", Repeated)
    inputs = branches(plain, 3, 3)
    with torch.no_grad():
        assert relative(fast.model_output(**inputs), plain.model_output(**inputs)) < 1e-5
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    weight = torch.randn(3, 4, 8, 8)
    wanted, got = (torch.autograd.grad(p.encode_image(images), images, weight)[0] for p in (plain, fast))
    assert relative(got, wanted) < 1e-5


def test_a_late_backward_pass_is_an_error(
    priors: tuple[Prior, FastPrior], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a recording keeps for its backward pass is overwritten by the next call."""
    _, fast = priors
    monkeypatch.setitem(fast.__dict__, "graphs", True)
    monkeypatch.setitem(fast.__dict__, "_recordings", {})
    monkeypatch.setattr("specularip.diffusion.fast.accelerate.Recording", Repeated)
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    early = fast.encode_image(images)
    fast.encode_image(images)
    with pytest.raises(RuntimeError, match="before the next call"):
        early.sum().backward()


# On a GPU


@pytest.fixture(scope="module")
def gpu_priors() -> tuple[Prior, FastPrior]:
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
    prior = Prior(unet, torch.nn.Identity(), None, scheduler, vae, control, image_projection=projection)
    for parameter in prior.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
        elif not parameter.any():
            parameter.data.normal_(0, 0.05)
    prior = prior.eval().requires_grad_(False).cuda()
    return prior, accelerate(copy.deepcopy(prior).half())


def gpu_branches(views: int) -> dict[str, Tensor]:
    sizes = {"noisy": (views, 4, 16, 16), "text": (3 * views, 77, 64), "identity": (3 * views, 4, 64)}
    inputs = {name: torch.randn(size, device="cuda") for name, size in sizes.items()}
    # Loud words: where branches hardly differ, their difference is rounding.
    inputs["text"] *= 4
    inputs["identity"] *= 4
    inputs["timesteps"] = torch.randint(0, 1000, (views,), device="cuda")
    inputs["pose"] = torch.rand(views, 3, 32, 32, device="cuda")
    inputs["identity_scale"] = torch.rand(3 * views, device="cuda")
    return inputs


@pytest.mark.gpu
def test_gradient_of_score_distillation_on_a_gpu(gpu_priors: tuple[Prior, FastPrior]) -> None:
    """Recorded, in half precision, against float32 through autograd: the second time it is only replayed, the
    third time recorded again. Then the same with poses that were read before, and with more or fewer
    evaluations of the last branch."""
    plain, fast = gpu_priors
    for again, last in enumerate((3, 3, 3, 0, 4)):
        if again == 2:
            fast.forget()
        inputs = gpu_branches(4)
        images, noise = torch.rand(4, 3, 32, 32, device="cuda"), torch.randn(4, 4, 16, 16, device="cuda")
        grads = []
        for prior in (plain, fast):
            leaf = images.clone().requires_grad_()
            latents = prior.encode_image(leaf)
            with torch.no_grad():
                noisy = prior.add_noise(latents, noise, inputs["timesteps"])
                pose = prior.read_pose(inputs["pose"]) if again > 2 else inputs["pose"]
                given = some_evaluations({**inputs, "noisy": noisy, "pose": pose}, 8 + last)
                positive, null, negative = prior.model_output(**given).split([4, 4, last])
                direction = 7.5 * (positive - null) + null
                direction[:last] -= negative
            # As small as a stage's weights make it: plain half precision loses such gradients.
            grads.append(torch.autograd.grad(latents, leaf, 1e-5 * direction)[0])
        assert relative(grads[1], grads[0]) < 1e-2


@pytest.mark.gpu
def test_decode_and_key_views_on_a_gpu(gpu_priors: tuple[Prior, FastPrior]) -> None:
    plain, fast = gpu_priors
    latents = torch.randn(2, 4, 16, 16, device="cuda")
    assert relative(fast.decode(latents), plain.decode(latents)) < 1e-2
    first, second, outcomes = gpu_branches(3), gpu_branches(2), []
    for prior in (plain, fast):
        store: dict[str, tuple[Tensor, Tensor]] = {}
        with torch.no_grad():
            prior.model_output(**first, key_views=KeyViews(3, record=True, store=store))
            near = torch.tensor([[0, 1], [2, 0]], device="cuda")
            look = KeyViews(3, neighbours=near, weights=torch.full((2, 2), 0.2, device="cuda"), store=store)
            outcomes.append(prior.model_output(**second, key_views=look))
    assert relative(outcomes[1], outcomes[0]) < 1e-2


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4, 24, 20, 96), (2, 64, 64, 64), (3, 5, 7, 320)])
def test_kernels_against_plain_tensors(shape: tuple[int, ...]) -> None:
    x, grad = torch.randn(shape), torch.randn(shape)
    weight, bias, shift = torch.randn(shape[-1]), torch.randn(shape[-1]), torch.randn(1, shape[-1])
    results = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float16)):
        a, g = x.to(device, dtype), grad.to(device, dtype)
        w, b, s = (t.to(device) for t in (weight, bias, shift))
        joined = fused.join([Part(a, g[:2], b), Part(g)])
        norm = fused.coefficients(Features(a), w, b, 32, 1e-5, s)
        tokens = a.flatten(1, 2)
        wide = torch.stack([w, b]).flatten()[:, None].expand(-1, shape[-1]).to(a).contiguous() / 50
        ones = torch.ones(len(a), device=device)
        keys, values = tokens[:, :13], tokens[:, 1:14]
        probabilities = fused.softmax(tokens.float(), dtype)
        assert joined.sums is not None
        results.append(
            [
                joined.x,
                joined.sums.sum(1),
                fused.normalize(a, norm),
                fused.normalize_backward(a, g, norm, residual=a),
                *fused.add_layer_norm(tokens[:2], tokens, w, b, 1e-5),
                fused.geglu(tokens, wide, torch.cat([b, w]).to(a)),
                fused.cross_attention(tokens[:2], keys, values, 2, tokens[:, :4], tokens[:, 2:6], ones),
                probabilities,
                fused.softmax_backward(probabilities, tokens, 0.3),
                fused.patches(a[..., :3].permute(0, 3, 1, 2), 32, 2.0, -1.0, dtype),
                fused.patches_backward(a[..., :32].contiguous(), 3),
                fused.spread(a, shape[1] - 1, shape[2] - 1, 1),
            ]
        )
    for index, (truth, got) in enumerate(zip(*results)):
        assert relative(got.cpu(), truth) < 5e-3, index
