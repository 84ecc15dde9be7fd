"""One image, one answer in words: probabilities, verdict, doubts, and which areas influenced it."""

import base64
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.data.colour import coloured_share
from busi_search.data.containers import notes_of_file
from busi_search.data.geometry import WHOLE, Box, PixelBox
from busi_search.data.images import GreyImage, decode_for_model
from busi_search.errors import InputError
from busi_search.models.evaluations import TEST_FIGURES
from busi_search.models.judging import answer_views, ask_module
from busi_search.models.lesion_places import place_of
from busi_search.models.predict import Classifier
from busi_search.serving.occlusion import occlusion_map

SHOWN_PIXELS = 512
# A fall of the probability by this much is painted in full colour.
FULL_COLOUR = 0.2


def describe_model(classifier: Classifier) -> dict[str, Any]:
    """Return what a page says about a model: which it is, its figures and its limits."""
    figures = {
        key.removeprefix("busi."): value
        for key, value in sorted(classifier.tags.items())
        if key.startswith(("busi.cv_", "busi.corrected_", "busi.test_")) and key != TEST_FIGURES
    }
    return {
        **classifier.about.to_json(),
        "uri": classifier.uri,
        "class_names": list(classifier.class_names),
        "region": classifier.geometry.region,
        "figures": figures,
    }


def judge_image(
    classifier: Classifier,
    content: bytes,
    *,
    explain: bool,
    keep_sealed: bool = False,
    box: PixelBox | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Return the answer about one image file, ready for JSON.

    An image that a study of the home has sealed opens that study's test, which is counted.

    Args:
        classifier: a registered model.
        content: bytes of an image file.
        explain: whether to look for the areas that influenced the answer (fifty more predictions).
        keep_sealed: refuse a sealed image rather than count the opening.
        box: where the lesion is, for a model that must be told.
        name: of the file, as its sender calls it.

    Returns:
        ``file`` (its name, or null), ``verdict``, ``label`` (its class), ``most_likely``,
        ``probabilities`` by class,
        ``out_of_distribution`` (``unlike`` is null for models without the check; once more as
        ``familiarity``, its earlier name), ``model`` (which it is, and ``sealed_test``),
        ``sealed`` (``studies`` that sealed the image, ``text`` or null), ``file_notes`` (sentences
        on what of the file was not judged), ``region`` (what the model looks at), ``image`` (PNG as
        a data address) and, if asked for, ``occlusion``.

    Raises:
        InputError: not a readable image, a sealed one that is to be kept so, or a box that is
            missing, not wanted or not in the image.
        BusiSearchError: the ledger of a study concerned was tampered with.
    """
    original, coloured, notes = _decode(classifier, content)
    lesion = _lesion(classifier, original, box)
    (studies,) = classifier.settle_sealed(
        classifier.find_sealed([original]), ["The image"], keep_sealed=keep_sealed, how="serve"
    )
    pixels = classifier.view(original, lesion)
    (said,) = answer_views(classifier, pixels[None], [coloured])
    answer = {"file": name, **said.to_json()}
    del answer["path"], answer["sealed_by"]
    answer |= {
        "familiarity": answer["out_of_distribution"],
        "model": classifier.about.to_json(),
        "sealed": _sealed(studies),
        "file_notes": notes,
        "region": classifier.geometry.region,
        "image": _png_address(_shown(original)),
        "research_use_only": True,
    }
    if explain:
        answer["occlusion"] = _occlusion(classifier, original, lesion)
    return answer


def _lesion(classifier: Classifier, image: GreyImage, box: PixelBox | None) -> Box | None:
    if not classifier.geometry.needs_lesion:
        if box is not None:
            raise InputError(
                f"{classifier.uri} looks at whole images and takes no box; leave it out."
            )
        return None
    if box is None:
        raise InputError(
            "This model must be told where the lesion is: draw a box around it on the page, or "
            "POST to /predict?box=x,y,width,height, in pixels of the image."
        )
    return place_of(image, box, shown="The file")


def _decode(classifier: Classifier, content: bytes) -> tuple[GreyImage, float, list[str]]:
    """The image, how much of it has a colour, and what was left out of its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(content)
        image = decode_for_model(path, shown="The file", white=classifier.white_level)
        return image, coloured_share(path), list(notes_of_file(path))


def _shown(image: GreyImage) -> Image.Image:
    picture = Image.fromarray(image)
    picture.thumbnail((SHOWN_PIXELS, SHOWN_PIXELS))
    return picture


def _png_address(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _sealed(studies: tuple[str, ...]) -> dict[str, Any]:
    text = None
    if studies:
        text = (
            f"This image belongs to the sealed test of study {', '.join(studies)}: this opening "
            "was counted."
        )
    return {"studies": list(studies), "text": text}


def _occlusion(classifier: Classifier, original: GreyImage, lesion: Box | None) -> dict[str, Any]:
    """A transparent overlay: orange where covering lowers the probability, blue where it raises."""
    name = classifier.positive_class
    index = classifier.class_names.index(name)
    # Covered are parts of the image itself, unless it is seen whole, and shrunk, anyway.
    whole = classifier.geometry == WHOLE
    image = classifier.view(original) if whole else original

    def ask(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        views = images if whole else np.stack([classifier.view(some, lesion) for some in images])
        return ask_module(classifier.module, views)

    falls = occlusion_map(image, ask, index)
    if falls is None:
        text = "The model is too slow here for a map of the areas that influenced the answer."
        return {"overlay": None, "largest_fall": None, "text": text}
    strength = np.clip(np.abs(falls) / FULL_COLOUR, 0, 1)
    colour = np.where(falls[..., None] > 0, (213, 94, 0), (0, 114, 178)).astype(np.uint8)
    overlay = np.dstack([colour, (strength * 190).astype(np.uint8)])
    picture = Image.fromarray(overlay, "RGBA").resize(
        (SHOWN_PIXELS, SHOWN_PIXELS), Image.Resampling.BICUBIC
    )
    text = (
        f"Orange: covering this part lowers the probability of {name} (by up to "
        f"{max(0.0, float(falls.max())):.1%}); blue: covering it raises it (by up to "
        f"{max(0.0, -float(falls.min())):.1%}); full colour from {FULL_COLOUR:.0%}. The registered "
        "model is an exported program without gradients, so parts are covered one by one; the "
        "map shows which areas influenced the answer, not where a lesion is."
    )
    return {
        "overlay": _png_address(picture),
        "largest_fall": float(falls.max()),
        "text": text,
    }
