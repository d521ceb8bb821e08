"""Random splats before random cameras, rendered and compared."""

import torch

from specularip.raster import Raster, rasterize, rasterize_reference

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "background")


def scene(seed, n=60, channels=3, cameras=2, width=45, height=37, per_camera=False, behind=0.0):
    """Random splats in front of random cameras; a share `behind` of them is moved behind all cameras."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=g) * torch.tensor([0.6, 0.6, 0.4])
    hidden = torch.rand(n, generator=g) < behind
    means[hidden, 2] -= 6.0
    shape = (cameras, n, channels) if per_camera else (n, channels)
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    turn, _ = torch.linalg.qr(torch.eye(3) + 0.15 * torch.randn(cameras, 3, 3, generator=g))
    turn = turn * turn.diagonal(dim1=1, dim2=2).sign()[:, None, :]
    viewmats[:, :3, :3] = turn
    viewmats[:, :3, 3] = 0.2 * torch.randn(cameras, 3, generator=g) + torch.tensor([0.0, 0.0, 2.0])
    Ks = torch.tensor([[1.1 * width, 0, 0.5 * width], [0, 1.2 * width, 0.45 * height], [0, 0, 1]])
    return {
        "means": means,
        "quats": torch.randn(n, 4, generator=g) * 3,
        "scales": torch.exp(torch.randn(n, 3, generator=g) * 0.7 - 2.7),
        "opacities": torch.rand(n, generator=g),
        "colors": torch.rand(shape, generator=g),
        "viewmats": viewmats,
        "Ks": Ks.repeat(cameras, 1, 1),
        "width": width,
        "height": height,
        "background": torch.rand(cameras, channels, generator=g),
    }


def sure_pixels(arguments, antialiased=False):
    """[B,H,W,1], False where the reference itself jumps when opacities change by a relative 3e-5.

    There some alpha is at its threshold of 1/255, or transmittance at 1e-4, and float32 rounding decides
    whether the splat counts: a jump of up to 1/255 times its colour. Such pixels are ill-defined and not
    compared.
    """
    low, high = (
        rasterize_reference(
            **dict(arguments, opacities=arguments["opacities"].double() * factor), antialiased=antialiased
        )
        for factor in (1 - 3e-5, 1 + 3e-5)
    )
    jumps = [
        (getattr(low, name) - getattr(high, name)).abs().amax(-1) for name in ("image", "alpha", "depth")
    ]
    return (torch.stack(jumps).amax(0) < 4e-4)[..., None]


def draw(function, arguments, seed, antialiased=False, device="cpu", dtype=torch.float32, sure=1.0):
    """The raster, and gradients of a random linear loss of its image, alpha and depth where `sure`."""
    arguments = {k: v.to(device, dtype) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    for name in NAMES:
        arguments[name] = arguments[name].clone().requires_grad_()
    raster = function(**arguments, antialiased=antialiased)
    raster.means2d.retain_grad()
    g = torch.Generator().manual_seed(seed)
    outputs = (raster.image, raster.alpha, raster.depth)
    weights = [(torch.randn(output.shape, generator=g) * sure).to(device, dtype) for output in outputs]
    sum((output * weight).sum() for output, weight in zip(outputs, weights)).backward()
    gradients = {name: arguments[name].grad.detach().cpu().double() for name in NAMES}
    seen = (raster.radii > 0)[..., None].cpu()
    gradients["means2d"] = torch.where(seen, raster.means2d.grad.cpu().double(), 0.0)
    return raster, gradients


def assert_same_radii(fast, slow, seed):
    """The same splats are culled; rounding may move a radius across a whole number."""
    assert torch.equal(fast > 0, slow > 0) and (fast - slow).abs().max() <= 1, f"radii, seed {seed}"


def assert_same(fast: Raster, fast_gradients, slow: Raster, slow_gradients, sure, seed):
    assert sure.double().mean() > 0.97 or sure.numel() < 100, f"too few pixels to compare, seed {seed}"
    for name in ("image", "alpha", "depth"):
        error = (
            getattr(fast, name).detach().cpu().double() - getattr(slow, name).detach().cpu()
        ).abs() * sure
        assert error.max() < 1e-3, f"{name} off by {error.max()}, seed {seed}"
    assert_same_radii(fast.radii.cpu(), slow.radii.cpu(), seed)
    for name, wanted in slow_gradients.items():
        error = (fast_gradients[name] - wanted).norm() / wanted.norm().clamp_min(1e-6)
        assert error < 1e-2, f"gradient of {name} off by {error:.2e} relative, seed {seed}"


def check_that_depth_changes_nothing_else(device, seed, antialiased, **options):
    """Compare images and gradients with and without depth, over a background and over black."""
    for background in (True, False):
        arguments = scene(seed, n=200, width=60, height=40, **options)
        if not background:
            arguments.pop("background")
        outcomes = []
        for depth in (True, False):
            leaves = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
            for name in set(NAMES) & set(leaves):
                leaves[name] = leaves[name].requires_grad_(False).clone().requires_grad_()
            raster = rasterize(**leaves, antialiased=antialiased, depth=depth)
            assert raster.depth.shape == (*raster.alpha.shape[:3], int(depth))
            weights = torch.randn(raster.image.shape, generator=torch.Generator().manual_seed(seed)).to(
                device
            )
            ((raster.image * weights).sum() + raster.alpha.square().sum()).backward()
            grads = {name: leaves[name].grad for name in set(NAMES) & set(leaves)}
            outcomes.append({"image": raster.image, "alpha": raster.alpha, **grads})
        for name, wanted in outcomes[0].items():
            error = (outcomes[1][name] - wanted).norm() / wanted.norm()
            assert error < 1e-5, f"{name} off by {error:.1e}, seed {seed}"
