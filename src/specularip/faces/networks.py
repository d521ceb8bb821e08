"""The two networks of `faces.landmarks`: MediaPipe's short-range face detector and its face mesh.

The detector is Bazarevsky et al., "BlazeFace", 2019, arXiv:1907.05047; the mesh Kartynnik et al., "Real-time
facial surface geometry from monocular video on mobile GPUs", 2019, arXiv:1907.06724. Weights and licence are
in assets/face_landmarks; `tools/face_landmarks/convert.py` made them.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import as_file, files

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from specularip.files import utf8_name

DETECTOR_SIZE = 128
MESH_SIZE = 192


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME" is: with stride 2, less before than after."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups)
        total = kernel - stride  # for sides that the stride divides
        self.margin = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.margin) if max(self.margin) else x)


class Block(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution beside a skip connection, whose missing channels are zero."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, prelu: bool = False) -> None:
        super().__init__()
        self.spatial = SameConv(inputs, inputs, 3, stride, groups=inputs)
        self.channels = SameConv(inputs, outputs, 1)
        self.activation = nn.PReLU(outputs) if prelu else nn.ReLU()
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        skip = F.max_pool2d(x, 2) if self.stride == 2 else x
        if self.added:
            skip = F.pad(skip, (0, 0, 0, 0, 0, self.added))
        return self.activation(skip + self.channels(self.spatial(x)))


class Detector(nn.Module):
    """BlazeFace: [B,3,128,128] in -1..1 -> score logits [B,896], boxes and points [B,896,16].

    Rows: two for each cell of a 16 x 16 grid, then six for each of 8 x 8. Columns: centre, width and height
    of the box, then six points (right eye, left eye, nose, mouth, right ear, left ear), all x before y, in
    input pixels from the cell's centre.
    """

    def __init__(self) -> None:
        super().__init__()
        first = SameConv(3, 24, 5, 2), nn.ReLU()
        self.fine = nn.Sequential(*first, *_blocks(24, (24, 28, -32, 36, 42, -48, 56, 64, 72, 80, 88), False))
        self.coarse = nn.Sequential(*_blocks(88, (-96, 96, 96, 96, 96), False))
        self.fine_score, self.coarse_score = SameConv(88, 2, 1), SameConv(96, 6, 1)
        self.fine_box, self.coarse_box = SameConv(88, 32, 1), SameConv(96, 96, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(image)
        coarse = self.coarse(fine)
        rows = lambda x, columns: x.permute(0, 2, 3, 1).reshape(len(x), -1, columns)  # noqa: E731
        scores = [rows(self.fine_score(fine), 1), rows(self.coarse_score(coarse), 1)]
        boxes = [rows(self.fine_box(fine), 16), rows(self.coarse_box(coarse), 16)]
        return torch.cat(scores, 1)[..., 0], torch.cat(boxes, 1)

    @staticmethod
    def cells() -> Tensor:
        """Centres (x, y) of the cells that the rows belong to, in input pixels: [896,2]."""
        rows = []
        for count, repeats in ((16, 2), (8, 6)):
            at = (torch.arange(count) + 0.5) * (DETECTOR_SIZE / count)
            y, x = torch.meshgrid(at, at, indexing="ij")
            rows.append(torch.stack([x, y], -1).reshape(-1, 2).repeat_interleave(repeats, 0))
        return torch.cat(rows)


class Mesh(nn.Module):
    """The face mesh: [B,3,192,192] in 0..1 -> points [B,468,3] in input pixels, face logits [B].

    z has the scale of x and is smaller towards the camera, zero about the middle of the head.
    """

    def __init__(self) -> None:
        super().__init__()
        first = SameConv(3, 16, 3, 2), nn.PReLU(16)
        trunk = 16, 16, -32, 32, 32, -64, 64, 64, -128, 128, 128, -128, 128, 128
        self.trunk = nn.Sequential(*first, *_blocks(16, trunk, True))
        self.points = self._head((-128, 128, 128), 1404)
        self.flag = self._head((-128,), 1)

    @staticmethod
    def _head(blocks: tuple[int, ...], outputs: int) -> nn.Sequential:
        narrow = SameConv(128, 32, 1), nn.PReLU(32), Block(32, 32, prelu=True)
        return nn.Sequential(*_blocks(128, blocks, True), *narrow, nn.Conv2d(32, outputs, 3))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(image)
        return self.points(features).reshape(-1, 468, 3), self.flag(features).reshape(-1)


def _blocks(inputs: int, outputs: tuple[int, ...], prelu: bool) -> list[Block]:
    """Blocks with these numbers of channels; a negative number also halves the side."""
    widths = (inputs, *map(abs, outputs))
    return [Block(before, abs(after), 2 if after < 0 else 1, prelu) for before, after in zip(widths, outputs)]


@cache
def load() -> tuple[Detector, Mesh]:
    """Both networks with their weights, float32 on the CPU."""
    with torch.device("meta"):
        networks = nn.ModuleDict({"detector": Detector(), "mesh": Mesh()})
    source = files("specularip") / "assets" / "face_landmarks" / "weights.safetensors"
    with as_file(source) as path, utf8_name(path) as readable:
        weights = {name: value.float() for name, value in load_file(readable).items()}
    networks.load_state_dict(weights, assign=True)
    networks.eval().requires_grad_(False)
    detector, mesh = networks["detector"], networks["mesh"]
    assert isinstance(detector, Detector) and isinstance(mesh, Mesh)
    return detector, mesh
