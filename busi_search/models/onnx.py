"""A registered model as an ONNX file, for programs without PyTorch."""

import json
import logging
import warnings

import numpy as np
import numpy.typing as npt
import torch

from busi_search.errors import BusiSearchError, InputError
from busi_search.models.judging import ask_module
from busi_search.models.predict import Classifier
from busi_search.training.inputs import place_pixels

TOLERANCE = 1e-4


def export_onnx(classifier: Classifier, images: npt.NDArray[np.uint8]) -> bytes:
    """Translate a model, and compare the answers of both on real images.

    The program takes ``pixels``, (N, K, S, S) float32 grey levels in [0, 255], and gives
    ``probabilities``, (N, C) float32, calibrated as the registered model's. Its metadata hold the
    class names, the operating point, the preprocessing and which version it is.

    Args:
        classifier: the registered model.
        images: (N, S, S), or (N, 2, S, S) of two regions, to compare on; two at least.

    Returns:
        The content of an ``.onnx`` file.

    Raises:
        InputError: the packages that this needs are not installed.
        BusiSearchError: a probability differs by more than 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError(
            "An .onnx file needs more packages: pip install 'busi-search[onnx]'."
        ) from None
    shape = (2, classifier.geometry.num_regions, classifier.size_pixels, classifier.size_pixels)
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # An exported program calls itself in training mode; what that changes is fixed in it.
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                classifier.module,
                (torch.zeros(shape),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=["pixels"],
                output_names=["probabilities"],
                verbose=False,
            )
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
    assert program is not None, "exporting with dynamo gives a program"
    model = program.model_proto
    for key, value in _metadata(classifier).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    content: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for part in (images[:1], images):
        pixels = place_pixels(part, "cpu").numpy().astype(np.float32)
        (answer,) = session.run(None, {"pixels": pixels})
        difference = float(np.abs(answer - ask_module(classifier.module, part)).max())
        if difference > TOLERANCE:
            raise BusiSearchError(
                f"The ONNX model's probabilities differ by {difference:.2g} from those of "
                f"{classifier.name} version {classifier.version}; nothing was written."
            )
    return content


def _metadata(classifier: Classifier) -> dict[str, str]:
    return {
        "model": f"{classifier.name} version {classifier.version}",
        "class_names": json.dumps(classifier.class_names),
        "positive_class": classifier.positive_class,
        "operating_threshold": repr(classifier.operating_threshold),
        "preprocessing": classifier.preprocessing,
        "geometry": json.dumps(classifier.geometry.to_json()),
        "simulated": str(classifier.simulated).lower(),
        "weights_sha256": classifier.weights_sha256,
        "use": "research use only",
    }
