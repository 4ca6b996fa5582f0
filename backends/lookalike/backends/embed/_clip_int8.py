"""Makes the vision tower's matrix products int8, calibrated on pictures."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookalike.backends.embed import _clip_openvino
from lookalike.backends.embed._clip_openvino import IMAGE
from lookalike.backends.embed._kept import Kept
from lookalike.backends.embed.drawn import NAME as DRAWN
from lookalike.backends.embed.drawn import drawn
from lookalike.backends.errors import BackendUnavailable
from lookalike.backends.types import Prepared, RgbImage

_log = logging.getLogger(__name__)

_SCHEME = "int8-1"
"""Version of how it is calibrated; part of the name that the result is kept by."""
_DRAWN = 64
"""Pictures drawn where none are given."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    models: Mapping[str, Any]
    digest: str
    """Of the pictures it was calibrated with: other pictures make other vectors."""


def calibrated(
    models: Mapping[str, Any],
    kept: Kept,
    fingerprint: str,
    calibration: Callable[[], Sequence[RgbImage]] | None,
    prepare: Callable[[RgbImage], Prepared],
) -> Calibrated:
    """Return the towers with an int8 vision tower, from the disk if it was kept there.

    Once kept, the calibration pictures are not looked at again. The text tower
    stays as it is: a query is one text, which takes a few milliseconds.
    """
    name = f"{_SCHEME}-{fingerprint}"
    record = kept.record(name)
    if record is not None and (folder := kept.folder(name)) is not None:
        return Calibrated(_clip_openvino.read(folder, list(models)), str(record["pictures"]))
    nncf = _nncf()
    prepared = [prepare(picture) for picture in _pictures(calibration)]
    digest = hashlib.sha256(np.stack(prepared).tobytes()).hexdigest()[:16]
    with _quiet():
        vision = nncf.quantize(
            models[IMAGE],
            nncf.Dataset([pixels[np.newaxis] for pixels in prepared]),
            model_type=nncf.ModelType.TRANSFORMER,  # smooths activations, spares attention
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(prepared),
        )
    _log.info("vision tower made int8 pictures=%d digest=%s", len(prepared), digest)
    made = _clip_openvino.keep(kept, name, {**models, IMAGE: vision})
    kept.keep_record(name, {"pictures": digest})
    return Calibrated(made, digest)


def _pictures(calibration: Callable[[], Sequence[RgbImage]] | None) -> Sequence[RgbImage]:
    if calibration is not None and (given := calibration()):
        return given
    _log.warning(
        "int8 is calibrated with %d drawn pictures (%s), for none are given; real ones are "
        "better: set calibration to a folder of photographs",
        _DRAWN,
        DRAWN,
    )
    return drawn(_DRAWN)


def _nncf() -> Any:
    _clip_openvino.openvino()  # first, for it keeps the reports of both from being sent
    try:
        with _quiet():
            return importlib.import_module("nncf")
    except ImportError as error:
        raise BackendUnavailable(
            "Making a model int8 needs nncf, once. Install it with: "
            "pip install 'lookalike[int8]', or use another precision.",
            backend="nncf",
            extra="int8",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's bars and reports out of the output."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
