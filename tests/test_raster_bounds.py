"""No kernel reads or writes out of bounds: fuzzing with 2,000 hostile scenes and bounds checks compiled in.

numba's bounds checks are a compile option, so the scenes run in their own process with their own cache.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from specularip.kernels.simd import load
from specularip.raster import compositing, rasterize

SCENES = 2000
HOSTILE = [0.0, -1.0, 1.0, 1e-30, 1e-6, 0.01, 0.0100001, 1e3, 1e9, 1e18, 3e38, -3e38]
HOSTILE += [float("nan"), float("inf"), float("-inf")]


def hostile_scene(rng: np.random.Generator) -> dict:
    """A scene of up to 40 splats and 3 cameras, up to 70 pixels wide, with random bad values."""
    n, cameras, channels = int(rng.integers(0, 41)), int(rng.integers(0, 4)), int(rng.integers(1, 21))
    width, height = (int(rng.choice([1, 2, 15, 16, 17, 31, 48, 70])) for _ in range(2))
    spread = float(rng.choice([0.1, 1.0, 10.0]))
    size = float(np.exp(rng.uniform(-7, 1)))
    colors = (n, channels) if rng.random() < 0.5 else (cameras, n, channels)
    scene = {
        "means": rng.normal(0, spread, (n, 3)) + np.array([0, 0, 2]),
        "quats": rng.normal(0, 1, (n, 4)),
        "scales": np.exp(rng.normal(np.log(size), 1, (n, 3))),
        "opacities": rng.choice([0.0, 1.0, 0.5, 1 / 255, 1.5], n) * rng.choice([1.0, rng.random()], n),
        "colors": rng.normal(0, 1, colors),
        "viewmats": np.eye(4) + 0.2 * rng.normal(0, 1, (cameras, 4, 4)) * (np.arange(4) < 3)[:, None],
        "Ks": np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
        * np.exp(rng.normal(0, 0.5, (cameras, 3, 3))),
        "background": rng.normal(0, 1, (cameras, channels)),
    }
    for name, array in scene.items():
        if array.size and rng.random() < 0.3:
            where = rng.random(array.shape) < rng.choice([0.02, 0.3])
            scene[name] = np.where(where, rng.choice(HOSTILE, array.shape), array)
    tensors = {k: torch.from_numpy(np.asarray(v, np.float32)).requires_grad_() for k, v in scene.items()}
    return {**tensors, "width": width, "height": height, "antialiased": bool(rng.random() < 0.5)}


def fuzz(seed: int, scenes: int) -> int:
    """Render and differentiate `scenes` scenes; returns in how many of them any splat is visible."""
    rng, seen = np.random.default_rng(seed), 0
    for index in range(scenes):
        arguments = hostile_scene(rng)
        raster = rasterize(**arguments)
        label = f"seed {seed}, scene {index}"
        assert raster.alpha.numel() == 0 or (0 <= raster.alpha.min() and raster.alpha.max() <= 1), label
        if all(torch.isfinite(t).all() for t in (arguments["background"], arguments["colors"])):
            # Colours near the largest float may overflow to infinity in a sum; otherwise there is no NaN.
            assert not raster.image.isnan().any() or arguments["colors"].abs().max() > 1e30, label
        (raster.image.sum() + raster.alpha.sum() + raster.depth.sum()).backward()
        for name, tensor in arguments.items():
            if isinstance(tensor, torch.Tensor) and name != "Ks":
                assert tensor.grad is not None and tensor.grad.shape == tensor.shape, f"{name}, {label}"
        seen += bool(raster.radii.any())
    return seen


def test_hostile_scenes_stay_in_bounds(tmp_path, seed):
    code = (
        "from test_raster_bounds import assert_checked, fuzz\n"
        f"assert_checked()\nprint(fuzz({seed}, {SCENES}))"
    )
    environment = {
        **os.environ,
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stderr[-3000:]}"
    assert int(done.stdout) > SCENES / 4, "too few scenes have visible splats"


def assert_checked() -> None:
    """Called in that process: bounds checks are on, in numba's indexing and in our vector loads."""
    from numba import njit

    floats = [np.ones((1, 1, k), np.float32) for k in (2, 3)]
    flat = np.ones((1, 1), np.float32)
    with pytest.raises(IndexError):
        short = np.zeros(4, np.float32)  # a record is 16
        compositing.pack(0, 1, *floats, flat, flat, flat.astype(np.int32), floats[1], short)

    @njit
    def first(array, index):
        return compositing.any_above(load(array, index), compositing.fill(np.float32(0)))

    assert first(np.ones(20, np.float32), 4)
    for index in (5, -1):
        with pytest.raises(IndexError):
            first(np.ones(20, np.float32), index)
