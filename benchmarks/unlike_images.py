"""How often pictures that are no ultrasound are called unlike the training images, and real ones.

    uv run python -m benchmarks.unlike_images --busi DIR --busbra DIR
    uv run --with scikit-image python -m benchmarks.unlike_images --busi DIR --busbra DIR

The check is learned on four fifths of a set's patients, as at a registration, and asked about the
other fifth, about the other set, and about pictures drawn, photographed or scanned. Photographs are
those that come with scikit-learn, Matplotlib and, where it is installed, scikit-image; CT, MR and
ultrasound of other organs are pydicom's examples.
"""

import argparse
import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from busi_search.data.colour import coloured_share_of
from busi_search.data.geometry import bring_to_size
from busi_search.data.images import decode_image
from busi_search.data.sources import load_dataset
from busi_search.models.likeness import FAR_RATIO
from busi_search.models.out_of_distribution import COLOURED_LIMIT, fit_out_of_distribution_check
from busi_search.spec import DatasetSection

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
NUM_CUTS = 8
# Photographs of scikit-image that have colours, and pictures through microscopes and telescopes.
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png",
          "camera.png", "coins.png", "brick.png", "grass.png", "gravel.png")  # fmt: skip
INSTRUMENTS = ("retina.jpg", "ihc.png", "cell.png", "microaneurysms.png", "moon.png",
               "hubble_deep_field.jpg", "phantom.png")  # fmt: skip


def _package(name: str, *folders: str) -> Path | None:
    spec = find_spec(name)
    found = spec is not None and spec.origin is not None
    return Path(str(spec.origin)).parent.joinpath(*folders) if found else None


def _cuts(paths: list[Path], rng: np.random.Generator) -> Iterator[Image.Image]:
    """Parts of pictures, of different sizes and places."""
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for _ in range(NUM_CUTS):
            width, height = (int(side * rng.uniform(0.4, 1)) for side in image.size)
            left = int(rng.integers(0, image.width - width + 1))
            top = int(rng.integers(0, image.height - height + 1))
            yield image.crop((left, top, left + width, top + height))


def photos(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Photographs, in their colours."""
    paths = [
        folder / name
        for folder, names in (
            (_package("sklearn", "datasets", "images"), ("china.jpg", "flower.jpg")),
            (_package("matplotlib", "mpl-data", "sample_data"), ("grace_hopper.jpg",)),
            (_package("skimage", "data"), PHOTOS),
        )
        for name in names
        if folder is not None
    ]
    yield from _cuts([path for path in paths if path.is_file()], rng)


def grey_photos(rng: np.random.Generator) -> Iterator[Image.Image]:
    """The same without their colours."""
    return (image.convert("L") for image in photos(rng))


def instruments(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Cells, retinas and the sky, grey; scikit-image's."""
    folder = _package("skimage", "data")
    paths = [] if folder is None else [folder / name for name in INSTRUMENTS]
    return (image.convert("L") for image in _cuts([p for p in paths if p.is_file()], rng))


def _dicom(*names: str) -> Iterator[Pixels]:
    folder = _package("pydicom", "data", "test_files")
    for name in names:
        if folder is not None and (folder / name).is_file():
            yield decode_image(folder / name)


def ct_and_mr(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Pydicom's slices."""
    for pixels in _dicom("CT_small.dcm", "MR_small.dcm", "693_J2KI.dcm", "liver_1frame.dcm"):
        for _ in range(4):
            height, width = (int(side * rng.uniform(0.8, 1)) for side in pixels.shape)
            yield Image.fromarray(pixels[:height, :width])


def other_ultrasound(_rng: np.random.Generator) -> Iterator[Image.Image]:
    """Hearts and others, pydicom's, the middle of each screen."""
    for pixels in _dicom("examples_palette.dcm", "examples_rgb_color.dcm", "examples_ybr_color.dcm",
                         "examples_jpeg2k.dcm"):  # fmt: skip
        height, width = pixels.shape
        yield Image.fromarray(
            pixels[int(0.18 * height) : int(0.8 * height), int(0.2 * width) : int(0.8 * width)]
        )


def charts(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Lines, bars, points, histograms, matrices and pies, on white and on black."""
    for index in range(60):
        with plt.style.context("dark_background" if index % 2 else "default"):
            figure, axes = plt.subplots(figsize=(rng.uniform(3, 7), rng.uniform(3, 5)), dpi=90)
            kind = index % 6
            if kind == 0:
                axes.plot(rng.normal(size=(50, 3)).cumsum(axis=0))
            elif kind == 1:
                axes.bar(range(8), rng.random(8))
            elif kind == 2:
                axes.scatter(rng.normal(size=200), rng.normal(size=200))
            elif kind == 3:
                axes.hist(rng.normal(size=500), 30)
            elif kind == 4:
                axes.imshow(rng.random((12, 12)), cmap="gray")
            else:
                axes.pie(rng.random(5))
            buffer = io.BytesIO()
            figure.savefig(buffer)
            plt.close(figure)
        yield Image.open(buffer).convert("L" if index // 6 % 2 else "RGB")


def text_pages(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Pages of words, black on white, white on black and between."""
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "patient",
        "breast",
        "lesion",
        "benign",
        "report",
        "left",
        "right",
        "12",
        "34",
        "mm",
    ]
    family = font_manager.findfont("DejaVu Sans")
    for index in range(40):
        width, height = (int(side) for side in rng.integers(300, 700, 2))
        ground, ink = ((255, 0), (0, 255), (230, 40), (30, 200))[index % 4]
        page = Image.new("L", (width, height), ground)
        size = int(rng.integers(9, 30))
        font, draw = ImageFont.truetype(family, size), ImageDraw.Draw(page)
        for top in range(10, height - 10, int(1.4 * size)):
            line = " ".join(rng.choice(words, max(1, int(width / size / 2.6))))
            draw.text((10, top), line, fill=ink, font=font)
        yield page


def gradients(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Even and radial, grey and coloured, from any level to any other."""
    rows, columns = np.mgrid[0:200, 0:260] / np.array([200, 260]).reshape(2, 1, 1)
    for index in range(60):
        angle = rng.uniform(0, 2 * np.pi)
        level = np.cos(angle) * columns + np.sin(angle) * rows
        if index % 3 == 1:
            level = np.hypot(columns - rng.random(), rows - rng.random())
        level = (level - level.min()) / (level.max() - level.min())
        if index % 2:
            first, last = (rng.integers(0, 256, 3).astype(np.float64) for _ in range(2))
            yield _picture(first + level[..., None] * (last - first))
        else:
            low = rng.integers(0, 150)
            yield _picture(low + level * rng.integers(60, 256 - low))


def plain(_rng: np.random.Generator) -> Iterator[Image.Image]:
    """White, black and the greys between."""
    return (_picture(np.full((200, 260), level)) for level in range(0, 256, 8))


def noise(rng: np.random.Generator) -> Iterator[Image.Image]:
    """White noise, and noise with the spectra of natural scenes (1/f to 1/f³)."""
    frequency = np.hypot(np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(320)[None])
    frequency[0, 0] = 1
    for index in range(60):
        raw = rng.normal(size=(240, 320))
        power = (0, 1, 2, 3)[index % 4]
        found = np.fft.irfft2(np.fft.rfft2(raw) / frequency ** (power / 2), raw.shape)
        standard = (found - found.mean()) / found.std()
        yield _picture(rng.uniform(60, 160) + rng.uniform(20, 60) * standard)


def speckle(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Fully developed speckle without anatomy, compressed as on a screen."""
    for _ in range(30):
        parts = [gaussian_filter(rng.normal(size=(240, 320)), (1.0, 2.0)) for _ in range(2)]
        amplitude = np.hypot(*parts)
        decibels = 20 * np.log10(amplitude / amplitude.max() + 1e-3)
        yield _picture((decibels + 60) / 60 * 255 * rng.uniform(0.6, 1))


def drawn_scenes(rng: np.random.Generator) -> Iterator[Image.Image]:
    """Ellipses and rectangles, coloured and grey."""
    for index in range(40):
        colours = [tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(14)]
        scene = Image.new("RGB", (320, 240), colours[0])
        draw = ImageDraw.Draw(scene)
        for colour in colours[1 : int(rng.integers(3, 14))]:
            left, top = int(rng.integers(0, 320)), int(rng.integers(0, 240))
            width, height = (int(side) for side in rng.integers(20, 160, 2))
            shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            shape((left, top, left + width, top + height), fill=colour)
        yield scene if index % 2 else scene.convert("L")


def _picture(values: Floats | npt.NDArray[np.int64]) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


KINDS: dict[str, Callable[[np.random.Generator], Iterator[Image.Image]]] = {
    "photographs": photos,
    "photographs, grey": grey_photos,
    "cells, retinas, sky": instruments,
    "CT and MR": ct_and_mr,
    "ultrasound of other organs": other_ultrasound,
    "charts": charts,
    "text pages": text_pages,
    "gradients": gradients,
    "plain": plain,
    "noise": noise,
    "speckle alone": speckle,
    "drawn scenes": drawn_scenes,
}


def read_pictures(size: int, seed: int) -> dict[str, tuple[Pixels, Floats]]:
    """Return of each kind the (N, S, S) images and the (N,) shares of colour."""
    found = {}
    for name, draw in KINDS.items():
        pictures = list(draw(np.random.default_rng(seed)))
        if pictures:
            views = [bring_to_size(np.asarray(image.convert("L")), size) for image in pictures]
            found[name] = (
                np.stack(views),
                np.array([coloured_share_of(image) for image in pictures]),
            )
    return found


def read_set(folder: str, size: int) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Return the (N, S, S) images of a set, and the (N,) patient of each."""
    dataset = load_dataset(DatasetSection(source="auto", path=folder))
    patients = dataset.patients or tuple(map(str, range(len(dataset))))
    groups = np.unique([str(patient) for patient in patients], return_inverse=True)[1]
    return np.stack([bring_to_size(image, size) for image in dataset.images()]), groups


def main() -> None:
    """Measure both sets at the sizes that are asked for, and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busi", required=True)
    parser.add_argument("--busbra", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64, 128, 224])
    asked = parser.parse_args()
    for size in asked.sizes:
        sets = {"BUSI": read_set(asked.busi, size), "BUS-BRA": read_set(asked.busbra, size)}
        pictures = read_pictures(size, seed=0)
        for own, other in (("BUSI", "BUS-BRA"), ("BUS-BRA", "BUSI")):
            rows = _measure(sets[own], sets[other][0], pictures)
            print(f"\nlearned on {own}, {size} px: share called unlike")
            for name, (share, count) in rows.items():
                print(f"  {name:28} {100 * share:5.1f} %  of {count}")


def _measure(
    own: tuple[Pixels, npt.NDArray[np.int64]],
    other: Pixels,
    pictures: dict[str, tuple[Pixels, Floats]],
) -> dict[str, tuple[float, int]]:
    """Shares that are called unlike, each fifth of the patients left out once."""
    images, groups = own
    part = np.random.default_rng(1).permutation(int(groups.max()) + 1)[groups] % 5
    rows: dict[str, list[float]] = {}
    counts = {"the same set, unseen": len(images), "the other set": len(other)}
    for fold in range(5):
        check = fit_out_of_distribution_check(images[part != fold], groups[part != fold])
        asked = {"the same set, unseen": (images[part == fold], np.zeros((part == fold).sum())),
                 "the other set": (other, np.zeros(len(other))), **pictures}  # fmt: skip
        for name, (pixels, coloured) in asked.items():
            unlike = (check.distance(pixels) > check.limit) | (coloured > COLOURED_LIMIT)
            rows.setdefault(name, []).append(float(unlike.mean()))
            counts.setdefault(name, len(pixels))
            far = (check.distance(pixels) > FAR_RATIO * check.limit) | (coloured > COLOURED_LIMIT)
            rows.setdefault(f"{name}, far", []).append(float(far.mean()))
            counts.setdefault(f"{name}, far", len(pixels))
    return {name: (float(np.mean(shares)), counts[name]) for name, shares in rows.items()}


if __name__ == "__main__":
    main()
