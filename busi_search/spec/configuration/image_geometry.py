"""The images: at which size, and as which part of them, a network sees them."""

from typing import Any, Literal

from pydantic import Field

from busi_search.spec.strict import Strict

DEFAULT_IMAGE_SIZE_PIXELS = 64

Aspect = Literal["squash", "letterbox", "crop"]
Region = Literal["image", "lesion", "both"]
ScreenCrop = Literal["none", "auto"]

# What [dataset] says too, and a configuration takes from there where it says nothing itself.
FROM_DATASET = ("image_size_pixels", "aspect", "region", "region_margin", "crop")


def _without_default(schema: dict[str, Any]) -> None:
    """Leave a default out of the JSON Schema: in a study file another value takes its place."""
    del schema["default"]


class ImageFields(Strict):
    """Hyperparameters of size, shape and part of the images."""

    image_size_pixels: int = Field(
        default=DEFAULT_IMAGE_SIZE_PIXELS, ge=16, le=1024, json_schema_extra=_without_default
    )
    """Height and width to which images are brought, where it is searched or set by a recipe.

    Unit: pixels.
    Default: the image size in `[dataset]`.
    Example: image_size_pixels = [64, 96, 128]
    """

    aspect: Aspect = Field(default="squash", json_schema_extra=_without_default)
    """How an image becomes a square, where it is searched or set by a recipe.

    `squash` brings both sides to the square's, `letterbox` the longer one, the rest black, and
    `crop` the shorter one, keeping the middle.

    Default: the `aspect` in `[dataset]`.
    Example: aspect = ["squash", "letterbox"]
    """

    region: Region = Field(default="image", json_schema_extra=_without_default)
    """What of an image the network sees, where it is searched or set by a recipe.

    The whole `image`, the `lesion` with the margin around it, or `both` side by side. All but
    `image` need lesion masks or boxes, for predictions too.

    Default: the `region` in `[dataset]`.
    Example: region = ["image", "both"]
    """

    region_margin: float = Field(default=0.5, ge=0, le=4, json_schema_extra=_without_default)
    """What is taken around the lesion on every side, where it is searched or set by a recipe.

    Unit: a share of the lesion's width and height.
    Default: the `region_margin` in `[dataset]`.
    Example: region_margin = { choices = [0.25, 0.5], only_if = { region = ["lesion", "both"] } }
    """

    crop: ScreenCrop = Field(default="none", json_schema_extra=_without_default)
    """Whether what the screen shows around every scan is cut away, where it is searched.

    Default: the `crop` in `[dataset]`.
    Example: crop = ["none", "auto"]
    """

    start_image_size_ratio: float = Field(default=1.0, gt=0, le=1)
    """Side of the images in the first epochs, as a share of `image_size_pixels`.

    The last `full_size_epochs` epochs, and all predictions, have the full size: training begins
    with small images, which take less time, and ends with the longer side. Small images must
    have at least 16 pixels. It cannot be combined with early stopping, `scheduler = "plateau"` or
    `mask_weight`. A trial is not given up while its images are small.

    Unit: a share of the side.
    Default: every epoch has the full size.
    Example: start_image_size_ratio = [0.7, 1.0]
    """

    full_size_epochs: int = Field(default=3, ge=1, le=2000)
    """Number of last epochs at the full image size, where `start_image_size_ratio` is below 1.

    Unit: epochs; fewer than `epochs`.
    Default: enough for batch norm and the last layers to adapt in a training of some twelve epochs.
    Example: full_size_epochs = { low = 2, high = 6 }
    """
