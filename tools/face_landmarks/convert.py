"""Make src/specularip/assets/face_landmarks/weights.safetensors from two networks of MediaPipe.

    pip download --no-deps --python-version 3.12 --only-binary :all: mediapipe==0.10.21
    pip install tflite
    python tools/face_landmarks/convert.py mediapipe-0.10.21-*.whl

The networks are modules/face_detection/face_detection_short_range.tflite and
modules/face_landmark/face_landmark.tflite, Apache-2.0. They store float16, which is kept bit for bit. A
.tflite file is a list of operations on numbered tensors without layer names, so each output is followed back
to the image: the weights on that path, reversed, are in the order of the modules in
specularip/faces/networks.py.
"""

from __future__ import annotations

import argparse
import zipfile
from itertools import chain
from pathlib import Path

import numpy as np
import tflite
import torch
from safetensors.torch import save_file
from torch import nn

from specularip.faces.networks import Detector, Mesh

OUT = Path(__file__).resolve().parents[2] / "src/specularip/assets/face_landmarks/weights.safetensors"
CONV, DEPTHWISE, PRELU = (
    tflite.BuiltinOperator.CONV_2D,
    tflite.BuiltinOperator.DEPTHWISE_CONV_2D,
    tflite.BuiltinOperator.PRELU,
)


class Graph:
    """The operations of a .tflite file, by the tensor that they write."""

    def __init__(self, data: bytes) -> None:
        self.model = tflite.Model.GetRootAsModel(data, 0)
        self.graph = self.model.Subgraphs(0)
        operators = [self.graph.Operators(i) for i in range(self.graph.OperatorsLength())]
        self.writer = {int(one.Outputs(0)): one for one in operators}

    def code(self, operator: tflite.Operator) -> int:
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        return max(code.BuiltinCode(), code.DeprecatedBuiltinCode())

    def constant(self, tensor: int) -> torch.Tensor:
        """A stored tensor, looked for behind the operation that converts it to float32."""
        if tensor in self.writer:
            tensor = int(self.writer[tensor].Inputs(0))
        entry = self.graph.Tensors(tensor)
        assert entry.Type() == tflite.TensorType.FLOAT16
        data = self.model.Buffers(entry.Buffer()).DataAsNumpy().view(np.float16)
        return torch.from_numpy(data.reshape(entry.ShapeAsNumpy()).copy())

    def back(self, tensor: int, stop: int = 0) -> list[torch.Tensor]:
        """The weights between two tensors, first to last; at additions, along the convolutions."""
        found: list[torch.Tensor] = []
        while tensor != stop:
            operator = self.writer[tensor]
            inputs = [int(i) for i in operator.InputsAsNumpy()]
            code = self.code(operator)
            if code == PRELU:
                found.insert(0, self.constant(inputs[1]).reshape(-1))
            elif code == CONV:
                found[:0] = self.constant(inputs[1]).permute(0, 3, 1, 2), self.constant(inputs[2])
            elif code == DEPTHWISE:
                found[:0] = self.constant(inputs[1]).permute(3, 0, 1, 2), self.constant(inputs[2])
            convolved = [i for i in inputs if i in self.writer and self.code(self.writer[i]) == CONV]
            tensor = convolved[0] if code == tflite.BuiltinOperator.ADD else inputs[0]
        return found

    def outputs(self, columns: int) -> int:
        """The output tensor whose last side is `columns`."""
        found = [int(i) for i in self.graph.OutputsAsNumpy()]
        return next(i for i in found if self.graph.Tensors(i).ShapeAsNumpy()[-1] == columns)


def fill(modules: list[nn.Module], weights: list[torch.Tensor]) -> None:
    parameters = list(chain.from_iterable(module.parameters() for module in modules))
    assert [p.shape for p in parameters] == [w.shape for w in weights]
    for parameter, weight in zip(parameters, weights):
        parameter.data = weight.contiguous()


def detector(data: bytes) -> Detector:
    graph, network = Graph(data), Detector()
    parts = []
    for columns in (1, 16):
        joined = graph.writer[graph.outputs(columns)]
        parts += [graph.back(int(i)) for i in joined.InputsAsNumpy()]
    fill([network.fine, network.fine_score], parts[0])
    fill([network.fine, network.coarse, network.coarse_score], parts[1])
    fill([network.fine, network.fine_box], parts[2])
    fill([network.fine, network.coarse, network.coarse_box], parts[3])
    return network


def mesh(data: bytes) -> Mesh:
    graph, network = Graph(data), Mesh()
    fill([network.trunk, network.points], graph.back(graph.outputs(1404)))
    fill([network.trunk, network.flag], graph.back(graph.outputs(1)))
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    with zipfile.ZipFile(parser.parse_args().wheel) as wheel:
        folder = "mediapipe/modules"
        boxes = wheel.read(f"{folder}/face_detection/face_detection_short_range.tflite")
        points = wheel.read(f"{folder}/face_landmark/face_landmark.tflite")
    networks = nn.ModuleDict({"detector": detector(boxes), "mesh": mesh(points)})
    OUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(networks.state_dict(), OUT)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
