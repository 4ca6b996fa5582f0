"""The teachers: two networks whose features of any view become its target.

Their libraries (onnxruntime, ai-edge-litert) are read inside `open_teachers` only.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 224
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_QUANTISED = "mobilenet_v2_1.0_224_quant.tflite"
_TRUNK = "mobilenetv2_trunk.onnx"
_FEATURE = "MobilenetV2/Logits/AvgPool"


@dataclass(frozen=True)
class Projection:
    """The PCA that makes one target of both features: (f - mean) @ components.T."""

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    variance: NDArray[np.float32]

    @classmethod
    def load(cls, data: Path) -> Projection:
        with np.load(data / "teacher_pca.npz", allow_pickle=False) as file:
            return cls(
                file["mean"].astype(np.float32),
                file["components"].astype(np.float32),
                file["variance"].astype(np.float32),
            )

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return (features - self.mean) @ self.components.T


class Teachers:
    """Sees (n, 224, 224, 3) uint8; one thread's worth of work. Not thread-safe."""

    def __init__(self, folder: Path, projection: Projection) -> None:
        import onnxruntime
        from ai_edge_litert.interpreter import Interpreter

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._trunk = onnxruntime.InferenceSession(
            str(folder / _TRUNK), options, providers=["CPUExecutionProvider"]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says that every tensor is kept: that is wanted
            self._quantised: Any = Interpreter(
                str(folder / _QUANTISED), num_threads=1, experimental_preserve_all_tensors=True
            )
            self._quantised.allocate_tensors()
        self._input = self._quantised.get_input_details()[0]["index"]
        feature = next(d for d in self._quantised.get_tensor_details() if d["name"] == _FEATURE)
        self._feature, (self._scale, self._zero) = feature["index"], feature["quantization"]
        self._projection = projection

    def see(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (n, 256) float32 targets, not scaled."""
        trunk = [self._trunk.run(["gap"], {"image": _normal(view)})[0][0] for view in views]
        quantised = [self._see_quantised(view) for view in views]
        both = [_unit(np.stack(quantised)), _unit(np.stack(trunk))]
        return self._projection.apply(np.concatenate(both, axis=1))

    def _see_quantised(self, view: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._quantised.set_tensor(self._input, view[None])
        self._quantised.invoke()
        steps = self._quantised.get_tensor(self._feature).reshape(-1).astype(np.float32)
        values: NDArray[np.float32] = (steps - self._zero) * np.float32(self._scale)
        return values


def _normal(view: NDArray[np.uint8]) -> NDArray[np.float32]:
    scaled = (view.astype(np.float32) / 255 - _MEAN) / _STD
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(rows, np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


class TeacherPool:
    """Several teachers at work, one a thread."""

    def __init__(self, folder: Path, projection: Projection, threads: int) -> None:
        self._teachers = [Teachers(folder, projection) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads)

    def see(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = np.array_split(views, len(self._teachers))
        seen = self._pool.map(lambda teacher, part: teacher.see(part), self._teachers, parts)
        return np.concatenate(list(seen))
