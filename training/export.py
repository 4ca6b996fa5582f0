"""Write a student as an ONNX file: norms folded, weights stored small, nothing traced.

The graph takes pictures as they are stored, (n, side, side, 3) uint8, and gives vectors
of length 1, so that whoever runs it needs no constant of the training. Where the student
works beside the form of a picture, that is projected and joined in the same graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper, save
from torch import nn

from training.measure import unit
from training.students import Block, Conv, Head

OPSET = 17
STORED = ("float16", "float32")


class Graph:
    """Nodes and stored tensors, named in the order in which they come."""

    def __init__(self, stored: str) -> None:
        self.nodes: list[object] = []
        self.tensors: list[object] = []
        self._stored, self._count = stored, 0

    def node(
        self, kind: str, inputs: list[str], named: str | None = None, **attributes: object
    ) -> str:
        self._count += 1
        name = named or f"{kind.lower()}{self._count}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def tensor(self, array: NDArray[np.generic]) -> str:
        self._count += 1
        name = f"t{self._count}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, array: NDArray[np.float32]) -> str:
        """Store (out, ...) weights small; a runtime widens them once, when it loads."""
        if self._stored == "float32":
            return self.tensor(array)
        return self.node("Cast", [self.tensor(array.astype(np.float16))], to=TensorProto.FLOAT)


@dataclass(frozen=True)
class Joint:
    """How the form (see lookalike.backends.embed._form) is set beside the network.

    `mean` (f,) and `matrix` (f, d) float32 project a form; `share`, 0 to 1, is its share of
    the cosine of two pictures.
    """

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]
    share: float

    def project(self, forms: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n, d) float32 of length 1 of (n, f)."""
        return unit((forms - self.mean) @ self.matrix)

    def join(self, vectors: NDArray[np.float32], forms: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the (n, w + d) vectors of length 1 that the file gives."""
        parts = [np.sqrt(1 - self.share) * vectors, np.sqrt(self.share) * self.project(forms)]
        return unit(np.concatenate(parts, axis=1).astype(np.float32))


def export(
    student: nn.Sequential,
    side: int,
    path: Path,
    stored: str = "float16",
    joint: Joint | None = None,
) -> int:
    """Write the file; return its size in bytes. `stored` is one of STORED.

    Inputs: "image" and, if there is a `joint`, "form" (n, f) float32; output: "vector".
    """
    graph = Graph(stored)
    x = graph.node("Cast", ["image"], to=TensorProto.FLOAT)
    x = graph.node("Transpose", [x], perm=[0, 3, 1, 2])
    x = graph.node("Mul", [x, graph.tensor(np.array(4 / 255, np.float32))])
    x = graph.node("Sub", [x, graph.tensor(np.array(0.45 * 4, np.float32))])
    for layer in student:
        x = _layer(graph, layer, x)
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", side, side, 3])]
    width = _width(student)
    if joint is not None:
        x = _joined(graph, x, joint)
        form = helper.make_tensor_value_info("form", TensorProto.FLOAT, ["n", len(joint.mean)])
        inputs, width = [*inputs, form], width + joint.matrix.shape[1]
    _unit(graph, x, "vector")
    vector = helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", width])
    made = helper.make_graph(graph.nodes, "student", inputs, [vector], graph.tensors)
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="lookalike training"
    )
    model.ir_version = 8
    checker.check_model(model, full_check=True)
    save(model, str(path))
    return path.stat().st_size


def _joined(graph: Graph, x: str, joint: Joint) -> str:
    form = graph.node("Sub", ["form", graph.tensor(joint.mean)])
    form = graph.node("Gemm", [form, graph.weight(np.ascontiguousarray(joint.matrix.T))], transB=1)
    parts = []
    for part, share in ((x, 1 - joint.share), (form, joint.share)):
        scale = graph.tensor(np.array(np.sqrt(share), np.float32))
        parts.append(graph.node("Mul", [_unit(graph, part), scale]))
    return graph.node("Concat", parts, axis=1)


def _unit(graph: Graph, x: str, name: str | None = None) -> str:
    length = graph.node("ReduceL2", [x], axes=[1], keepdims=1)
    length = graph.node("Max", [length, graph.tensor(np.array(1e-12, np.float32))])
    return graph.node("Div", [x, length], named=name)


def _layer(graph: Graph, layer: nn.Module, x: str) -> str:
    if isinstance(layer, Conv):
        return _conv(graph, layer, x)
    if isinstance(layer, Block):
        y = x
        for step in layer.steps:
            y = _conv(graph, step, y)
        if layer.plain:
            return y
        y = graph.node("Add", [y, x if layer.shortcut is None else _conv(graph, layer.shortcut, x)])
        return graph.node("Relu", [y]) if layer.relu else y
    if isinstance(layer, Head):
        x = graph.node("ReduceMean", [x], axes=[2, 3], keepdims=0)
        scale, shift = _affine(layer.norm)
        with torch.no_grad():
            weight = layer.project.weight * scale
            bias = layer.project.bias + layer.project.weight @ shift
        parts = [x, graph.weight(_array(weight)), graph.tensor(_array(bias))]
        return graph.node("Gemm", parts, transB=1)
    raise TypeError(f"no way to write a {type(layer).__name__}")


def _conv(graph: Graph, layer: torch.nn.Module, x: str) -> str:
    assert isinstance(layer, Conv)
    weight, bias = folded(layer)
    k, s = layer.conv.kernel_size[0], layer.conv.stride[0]
    x = graph.node(
        "Conv", [x, graph.weight(weight), graph.tensor(bias)],
        kernel_shape=[k, k], strides=[s, s], pads=[k // 2] * 4, group=layer.conv.groups,
    )  # fmt: skip
    return graph.node("Relu", [x]) if layer.relu else x


def folded(layer: Conv) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the weights and the bias of convolution and norm as one convolution."""
    scale, shift = _affine(layer.norm)
    with torch.no_grad():
        weight = layer.conv.weight * scale[:, None, None, None]
    return _array(weight), _array(shift)


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what an evaluated norm does: x * scale + shift."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return scale, norm.bias - norm.running_mean * scale


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().contiguous().numpy()
    return array


def _width(student: nn.Sequential) -> int:
    head = student[-1]
    assert isinstance(head, Head)
    return int(head.project.out_features)


def compare(path: Path, student: nn.Sequential, pictures: NDArray[np.uint8]) -> float:
    """Return the lowest cosine between the file's vectors and the student's, in float32."""
    import onnxruntime

    from training.measure import normal

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (mine,) = session.run(None, {"image": pictures})
    was = student.training
    student.eval()
    with torch.no_grad():
        x = normal(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
        theirs = torch.nn.functional.normalize(student(x), dim=1).numpy()
    student.train(was)
    return float((np.asarray(mine) * theirs).sum(axis=1).min())
