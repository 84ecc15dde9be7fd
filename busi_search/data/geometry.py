"""Which part of an image a network sees, and how that part becomes a square."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.data.images import GreyImage, resize_image
from busi_search.spec import Hyperparameters

# Left edge, upper edge, width and height of a box, in pixels of an image.
PixelBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle in an image, in shares of its width and height.

    Attributes:
        left, top, right, bottom: from 0 (the image's left or upper edge) to 1.
    """

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of_pixels(cls, x: float, y: float, width: float, height: float, image: GreyImage) -> "Box":
        """Return the box whose upper left corner and size are given in pixels of an (H, W) image.

        Raises:
            ValueError: it is empty or does not lie in the image.
        """
        return cls.within((x, y, width, height), (image.shape[1], image.shape[0]))

    @classmethod
    def within(cls, box: PixelBox, size: tuple[int, int]) -> "Box":
        """Return the box whose upper left corner and size are given in pixels of an image.

        Args:
            box: x and y of that corner, then width and height.
            size: width and height of the image.

        Raises:
            ValueError: it is empty or does not lie in the image.
        """
        (x, y, width, height), (columns, rows) = box, size
        inside = 0 <= x < columns and 0 <= y < rows and x + width <= columns and y + height <= rows
        if not (width > 0 and height > 0 and inside):
            raise ValueError(
                f"the box x = {x:g}, y = {y:g}, width = {width:g}, height = {height:g} does not "
                f"lie in the image, which has {columns} × {rows} pixels"
            )
        return cls(x / columns, y / rows, (x + width) / columns, (y + height) / rows)


@dataclass(frozen=True)
class Geometry:
    """How an image of any shape becomes what a network sees.

    In this order: what lies outside of ``crop`` is cut away; of the rest, ``region`` is taken; and
    ``aspect`` says how that becomes a square.

    Attributes:
        aspect: ``squash`` (both sides are brought to the square's), ``letterbox`` (the longer side
            is, and the rest stays black) or ``crop`` (the shorter side is, and the middle is kept).
        region: ``image``, ``lesion`` or ``both``, one after the other.
        margin: what is taken around the lesion, on every side, in shares of its width and height.
        crop: what of an image is no screen furniture; None: all of it.
        place: how it is known where the lesion is: ``given`` by people, or ``found`` by a network.
    """

    aspect: str = "squash"
    region: str = "image"
    margin: float = 0.5
    crop: Box | None = None
    place: str = "given"

    @property
    def needs_lesion(self) -> bool:
        """Whether somebody must say where the lesion is."""
        return self.region != "image" and self.place == "given"

    @property
    def finds_lesion(self) -> bool:
        """Whether a network cuts the lesion out of the whole image."""
        return self.region != "image" and self.place == "found"

    @property
    def whole(self) -> "Geometry":
        """The same without a region: the images in which a network finds the lesion."""
        return replace(self, region="image")

    @property
    def num_regions(self) -> int:
        """K: how many squares of an image the network sees."""
        return 2 if self.region == "both" else 1

    @property
    def tag(self) -> str:
        """What a cache file's name says of it; empty for whole, squashed images."""
        parts = [self.aspect] if self.aspect != "squash" else []
        if self.needs_lesion:
            parts += [self.region, f"{self.margin:g}"]
        if self.finds_lesion:
            parts += [self.region, f"{self.margin:g}", "found"]
        if self.crop is not None:
            parts.append("_".join(f"{value:.6f}" for value in asdict(self.crop).values()))
        return "-".join(parts)

    def describe(self) -> str:
        """Return in words what is done with a decoded image, without the size of the square."""
        parts = []
        if self.crop is not None:
            edges = ", ".join(f"{name} {share:.1%}" for name, share in asdict(self.crop).items())
            parts.append(f"cut to the part between {edges} of its width and height")
        box = (
            "the box in which a network finds the lesion,"
            if self.finds_lesion
            else "the lesion's box"
        )
        around = f"{box} with {self.margin:g} times its width and height on every side"
        taken = {"lesion": f"take {around}", "both": f"take the whole and, beside it, {around}"}
        parts += [taken[self.region]] if self.region != "image" else []
        parts.append({
            "squash": "resize to a square",
            "letterbox": "resize the longer side to the square's, the rest black",
            "crop": "resize the shorter side to the square's, the middle kept",
        }[self.aspect])  # fmt: skip
        filtered = ", ".join(parts) + " with an antialiased bilinear filter"
        found_inside = self.place == "found" and self.region == "image"
        return f"{filtered}; the model finds the lesion in it" if found_inside else filtered

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads; it is stored in a model's metadata.

        ``place`` is left out where it is ``given``: models of earlier versions do not name it.
        """
        stored = asdict(self)
        if self.place == "given":
            del stored["place"]
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> "Geometry":
        """Return what :meth:`to_json` gave; None, of models without it: whole, squashed images."""
        if stored is None:
            return cls()
        crop = stored["crop"]
        return cls(
            aspect=str(stored["aspect"]),
            region=str(stored["region"]),
            margin=float(stored["margin"]),
            crop=None if crop is None else Box(**crop),
            place=str(stored.get("place", "given")),
        )


WHOLE = Geometry()


def geometry_of(
    hyperparameters: Hyperparameters, screen: Box | None = None, place: str = "given"
) -> Geometry:
    """Return how a configuration sees images.

    Args:
        hyperparameters: the configuration.
        screen: what of the dataset's images is no screen furniture, for ``crop = "auto"``.
        place: ``given`` or ``found``, see :class:`Geometry`.
    """
    return Geometry(
        aspect=hyperparameters.aspect,
        region=hyperparameters.region,
        margin=hyperparameters.region_margin,
        crop=screen if hyperparameters.crop == "auto" else None,
        place=place if hyperparameters.region != "image" else "given",
    )


def bring_to_size(
    image: GreyImage, size_pixels: int, geometry: Geometry = WHOLE, lesion: Box | None = None
) -> npt.NDArray[np.uint8]:
    """Return what a network sees of an image, or of its mask.

    Args:
        image: (H, W) uint8.
        size_pixels: side S.
        geometry: how.
        lesion: where the lesion is in the whole image; None: none is known, and the whole stands
            in the lesion's place.

    Returns:
        (S, S) uint8, or (2, S, S) for ``region = "both"``: the whole, then the lesion.
    """
    if geometry.crop is not None:
        image, lesion = _cut(image, geometry.crop, lesion)
    views = []
    if geometry.region != "lesion":
        views.append(_whole(image, size_pixels, geometry.aspect))
    if geometry.needs_lesion:
        if lesion is None:
            views.append(_whole(image, size_pixels, geometry.aspect))
        else:
            views.append(_around(image, size_pixels, geometry, lesion))
    return views[0] if len(views) == 1 else np.stack(views)


def lesion_box(mask: GreyImage) -> Box | None:
    """Return the smallest box around what is set in an (H, W) mask; None if nothing is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    height, width = mask.shape
    return Box(
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )


def _cut(image: GreyImage, crop: Box, lesion: Box | None) -> tuple[GreyImage, Box | None]:
    """The part of an image in a rectangle, and where the lesion is in it."""
    height, width = image.shape
    left, right = _ends(crop.left * width, crop.right * width, width)
    top, bottom = _ends(crop.top * height, crop.bottom * height, height)
    if lesion is not None:
        lesion = Box(
            (lesion.left * width - left) / (right - left),
            (lesion.top * height - top) / (bottom - top),
            (lesion.right * width - left) / (right - left),
            (lesion.bottom * height - top) / (bottom - top),
        )
    return image[top:bottom, left:right], lesion


def _ends(low: float, high: float, size: int) -> tuple[int, int]:
    """Whole pixels of an interval, inside of ``range(size)``; at least one."""
    first = min(max(round(low), 0), size - 1)
    return first, max(min(round(high), size), first + 1)


def _whole(image: GreyImage, size: int, aspect: str) -> GreyImage:
    height, width = image.shape
    if aspect == "squash" or height == width:
        return resize_image(np.ascontiguousarray(image), size)
    if aspect == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _resize(image, (left, top, left + side, top + side), (size, size))
    scale = size / max(height, width)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    square = np.zeros((size, size), dtype=np.uint8)
    top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
    square[top : top + inner[1], left : left + inner[0]] = _resize(
        image, (0, 0, width, height), inner
    )
    return square


def _around(image: GreyImage, size: int, geometry: Geometry, lesion: Box) -> GreyImage:
    """The lesion with its margin; where its proportions are kept, in a square around the two."""
    height, width = image.shape
    beside = geometry.margin * (lesion.right - lesion.left)
    above = geometry.margin * (lesion.bottom - lesion.top)
    left, right = _ends((lesion.left - beside) * width, (lesion.right + beside) * width, width)
    top, bottom = _ends((lesion.top - above) * height, (lesion.bottom + above) * height, height)
    if geometry.aspect != "squash":
        side = max(right - left, bottom - top)
        limits = None
        if geometry.aspect == "crop":
            # Nothing black: the square shrinks and moves until it lies inside of the image.
            side, limits = min(side, height, width), (width, height)
        left = _centred((left + right) // 2, side, limits and limits[0])
        top = _centred((top + bottom) // 2, side, limits and limits[1])
        right, bottom = left + side, top + side
    return _resize(image, (left, top, right, bottom), (size, size))


def _centred(centre: int, side: int, limit: int | None) -> int:
    """Where an interval around a centre begins; moved into ``range(limit)`` where that is given."""
    first = centre - side // 2
    return first if limit is None else min(max(first, 0), limit - side)


def _resize(
    image: GreyImage, window: tuple[int, int, int, int], size: tuple[int, int]
) -> GreyImage:
    """A window (left, top, right, bottom; black outside of the image) at another size."""
    part = Image.fromarray(np.ascontiguousarray(image)).crop(window)
    return np.asarray(part.resize(size, Image.Resampling.BILINEAR), dtype=np.uint8)
