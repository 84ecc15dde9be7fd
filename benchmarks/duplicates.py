"""What `find_duplicates` finds, how long it takes and how much memory it needs.

python benchmarks/duplicates.py --data PATH/busi    # with altered copies of real images
python benchmarks/duplicates.py --sizes 2500 5000 10000 20000
"""

import argparse
import io
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from busi_search.data.duplicates import find_duplicates
from busi_search.data.layouts.files import named_as_mask

Grey = npt.NDArray[np.uint8]
Alteration = Callable[[Grey, np.random.Generator], Grey]


def jpeg(image: Grey, quality: int) -> Grey:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def rescale(image: Grey, factor: float) -> Grey:
    height, width = image.shape
    size = (round(width * factor), round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def crop(image: Grey, random: np.random.Generator, low: float, high: float) -> Grey:
    height, width = image.shape
    top, bottom = (random.uniform(low, high, 2) * height).astype(int)
    left, right = (random.uniform(low, high, 2) * width).astype(int)
    return image[top : height - bottom, left : width - right]


def retone(image: Grey, random: np.random.Generator) -> Grey:
    grey = (image / 255) ** random.uniform(0.7, 1.4)
    grey = (grey - 0.5) * random.uniform(0.8, 1.2) + 0.5 + random.uniform(-0.08, 0.08)
    return (grey.clip(0, 1) * 255).astype(np.uint8)


def write(image: Grey, random: np.random.Generator) -> Grey:
    """Burn in two labels and two measured diameters with caliper crosses."""
    height, width = image.shape
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for label in random.choice(["RT UOQ", "L AXILLA", "MASS 1"], 2):
        at = (random.uniform(0, 0.6) * width, random.uniform(0.05, 0.9) * height)
        draw.text(at, str(label), fill=255, font_size=max(6, height // 16))
    arm = max(2, height // 40)
    for start, stop in random.uniform(0.2, 0.8, (2, 2, 2)) * (width, height):
        for x, y in (start, stop):
            draw.line((x - arm, y, x + arm, y), fill=255)
            draw.line((x, y - arm, x, y + arm), fill=255)
        for part in np.linspace(0, 1, 40):
            draw.point(tuple(start * (1 - part) + stop * part), fill=230)
    return np.asarray(canvas)


def everything(image: Grey, random: np.random.Generator) -> Grey:
    altered = write(retone(crop(image, random, 0.02, 0.08), random), random)
    return jpeg(rescale(altered, random.uniform(0.5, 1.5)), int(random.integers(40, 91)))


def rotate(image: Grey, degrees: float) -> Grey:
    turned = Image.fromarray(image).rotate(degrees, Image.Resampling.BICUBIC)
    return np.asarray(turned)


def cut(image: Grey, top: float = 0, bottom: float = 0, left: float = 0, right: float = 0) -> Grey:
    """Take a share of each side away."""
    height, width = image.shape
    rows = slice(round(top * height), height - round(bottom * height))
    return image[rows, round(left * width) : width - round(right * width)]


def frame_in_black(image: Grey, share: float) -> Grey:
    """Add black borders, each of this share of the side."""
    height, width = (round(share * side) for side in image.shape)
    return np.pad(image, ((height, height), (width, width)))


def cover(image: Grey, random: np.random.Generator, share: float) -> Grey:
    """Lay filled boxes with text over this share of the area."""
    height, width = image.shape
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    covered = np.zeros(image.shape, bool)
    while covered.mean() < share:
        box_height, box_width = height * random.uniform(0.1, 0.2), width * random.uniform(0.2, 0.4)
        x, y = random.uniform(0, width - box_width), random.uniform(0, height - box_height)
        draw.rectangle((x, y, x + box_width, y + box_height), fill=int(random.choice([0, 60, 255])))
        covered[int(y) : int(y + box_height), int(x) : int(x + box_width)] = True
        draw.text((x, y), "MASS 1.2 cm", fill=128, font_size=max(6, height // 16))
    return np.asarray(canvas)


def darken(image: Grey, factor: float) -> Grey:
    return np.asarray(np.rint(image * factor), dtype=np.uint8)


def gamma(image: Grey, exponent: float) -> Grey:
    return np.asarray(np.rint(255 * (image / 255) ** exponent), dtype=np.uint8)


ALTERATIONS: dict[str, Alteration] = {
    "JPEG 90": lambda image, random: jpeg(image, 90),
    "JPEG 40": lambda image, random: jpeg(image, 40),
    "rescaled 0.5": lambda image, random: rescale(image, 0.5),
    "rescaled 1.5": lambda image, random: rescale(image, 1.5),
    "cropped 2 %": lambda image, random: crop(image, random, 0.02, 0.02),
    "cropped 8 %": lambda image, random: crop(image, random, 0.08, 0.08),
    "cropped 2-8 %": lambda image, random: crop(image, random, 0.02, 0.08),
    "tone": retone,
    "text and calipers": write,
    "crop, half, JPEG 40": lambda image, random: jpeg(
        rescale(crop(image, random, 0.02, 0.08), 0.5), 40
    ),
    "everything": everything,
    "rotated by 3 degrees": lambda image, random: rotate(image, float(random.choice([-3, 3]))),
    "mirrored": lambda image, random: image[:, ::-1],
    "bottom 30 % cut": lambda image, random: cut(image, bottom=0.3),
    "side 30 % cut": lambda image, random: cut(
        image, **{str(random.choice(["left", "right"])): 0.3}
    ),
    "black borders 30 %": lambda image, random: frame_in_black(image, 0.3),
    "15 % under boxes": lambda image, random: cover(image, random, 0.15),
    "gamma 4": lambda image, random: gamma(image, 4),
    "darkened x 0.1": lambda image, random: darken(image, 0.1),
}


def join_by_correlation(images: Sequence[Grey]) -> npt.NDArray[np.bool_]:
    """The plain rule to beat: pairs whose 32x32 thumbnails correlate above .93, (N, N)."""
    small = [np.asarray(Image.fromarray(image).resize((32, 32))) for image in images]
    vectors = np.stack(small).reshape(len(images), -1)
    correlated: npt.NDArray[np.bool_] = np.corrcoef(vectors) > 0.93
    np.fill_diagonal(correlated, False)
    return correlated


def measure_alterations(folder: Path, num_copies: int = 100) -> None:
    """Precision and recall per alteration, over images; twins the folder already has are left out.

    An altered copy is found if it is joined with its source; every other join is counted as wrong.
    """
    paths = [path for path in sorted(folder.rglob("*.png")) if not named_as_mask(path)]
    images = [np.asarray(Image.open(path).convert("L")) for path in paths]
    groups = find_duplicates(images)
    single = [images[index] for index in np.unique(groups) if (groups == index).sum() == 1]
    print(f"{len(images)} images, {len(images) - len(single)} have a twin")
    print(f"{'':22}find_duplicates      32x32 correlation > .93")
    print(f"{'':22}precision  recall    precision  recall")
    random = np.random.default_rng(0)
    for name, alter in ALTERATIONS.items():
        sources = random.choice(len(single), num_copies, replace=False)
        every = single + [alter(single[source], random) for source in sources]
        wanted = np.zeros((len(every), len(every)), dtype=bool)
        copies = np.arange(num_copies) + len(single)
        wanted[sources, copies] = wanted[copies, sources] = True
        groups = find_duplicates(every)
        joined = groups[:, None] == groups
        np.fill_diagonal(joined, False)
        figures = []
        for found in (joined, join_by_correlation(every)):
            right = (found & wanted).any(1).sum()
            figures += [right / max(1, found.any(1).sum()), right / wanted.any(1).sum()]
        print(f"{name:22}{figures[0]:9.3f}{figures[1]:8.3f}{figures[2]:13.3f}{figures[3]:8.3f}")


def make_image(index: int, pixels: int) -> Grey:
    """Smooth shapes under speckle, different for every index."""
    random = np.random.default_rng(index)
    shapes = gaussian_filter(random.normal(size=(pixels, pixels)), pixels / 8)
    speckle = gaussian_filter(random.normal(size=(pixels, pixels)), 0.8)
    grey = 110 + 50 * shapes / shapes.std() + 20 * speckle / speckle.std()
    return np.asarray(grey.clip(0, 255), dtype=np.uint8)


def read_memory(key: str) -> float:
    """MiB of this process: VmRSS is what it holds now, VmHWM the most it held (Linux only)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def measure_cost(num_images: int, pixels: int) -> None:
    images = [make_image(index, pixels) for index in range(num_images)]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = read_memory("VmRSS")
    start = time.perf_counter()
    groups = find_duplicates(images)
    seconds = time.perf_counter() - start
    extra = read_memory("VmHWM") - before
    print(
        f"{num_images:7} images of {pixels:3} px: {seconds:6.1f} s, {extra:5.0f} MiB above the "
        f"images, {num_images - len(np.unique(groups))} wrongly joined",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of real images (PNG), searched in depth")
    parser.add_argument("--sizes", type=int, nargs="*", default=[2500, 5000, 10000])
    arguments = parser.parse_args()
    if arguments.data:
        measure_alterations(arguments.data)
    # A fresh process each: what one size leaves allocated would be free for the next.
    spawn = multiprocessing.get_context("spawn")
    for num_images, pixels in [(780, 256), *((size, 64) for size in arguments.sizes)]:
        process = spawn.Process(target=measure_cost, args=(num_images, pixels))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
