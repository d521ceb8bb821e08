"""Arguments and results of the rasteriser."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Raster:
    """What `rasterize` returns.

    image: [B,H,W,C], composited over the background. alpha: [B,H,W,1] in 0..1.
    depth: [B,H,W,1] expected depth sum(w z) / alpha in the units of `means`, 0 where alpha is 0;
    [B,H,W,0] with `depth=False`.
    means2d: [B,N,2] pixel positions of the splats, part of the graph: call `retain_grad()` on it before
    `backward()` to read d loss / d pixel position (the screen-space gradient) from its `.grad`. Undefined
    where `radii` is 0.
    radii: [B,N] int32, half the longer side of the splat's bounding box in pixels, 0 = culled.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor
    means2d: Tensor
    radii: Tensor


@dataclass(slots=True)
class Scene:
    """The arguments of `rasterize`, as its docstring describes them, in one object for the back ends.

    After the checks `background` is [B,C] or None.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int
    background: Tensor | None
    antialiased: bool
    depth: bool
