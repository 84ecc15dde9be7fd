"""Sets of simulated images, laid out as published ones are, quirks and all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
from PIL import Image

from busi_search.data.dataset import ImageDataset
from busi_search.data.sources import guess_source, load_dataset
from busi_search.spec import DatasetSection

CLASSES = ("benign", "malignant", "normal")


def read(path: Path, **settings: object) -> ImageDataset:
    """Read what lies at a path, as ``run --data`` does."""
    section = {"source": guess_source(str(path)), "path": str(path), **settings}
    return load_dataset(DatasetSection.model_validate(section))


def picture(path: Path, seed: int, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def mask(path: Path, colour: object = 255, mode: str = "L", left: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, (48, 40), 0)
    image.paste(colour, (left, 10, left + 10, 20))
    image.save(path)


def sheet(path: Path, rows: list[list[object]]) -> None:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)


def busi(root: Path, n: int = 3) -> None:
    for c, name in enumerate(CLASSES):
        for k in range(1, n + 1):
            picture(root / f"Dataset_BUSI_with_GT/{name}/{name} ({k}).png", 10 * c + k)
            mask(root / f"Dataset_BUSI_with_GT/{name}/{name} ({k})_mask.png")
    mask(root / "Dataset_BUSI_with_GT/benign/benign (2)_mask_1.png", left=30)


def curated_busi(root: Path, n: int = 3) -> None:
    for c, name in enumerate(CLASSES):
        for k in range(n):
            picture(root / f"images/{name}_id_{k}.png", 10 * c + k)
            mask(root / f"masks/{name}_id_{k}.png")


def busbra(root: Path, n: int = 3) -> None:
    rows = ["ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"]
    folds = ["ID,Pathology,kFold,valid_1,valid_2"]
    for case in range(1, 2 * n + 1):
        name = "malignant" if case % 2 else "benign"
        for side in "lr" if case < 4 else "l":
            file = f"bus_{case:04d}-{side}"
            picture(root / f"Images/{file}.png", 10 * case + (side == "r"))
            mask(root / f"Masks/mask_{case:04d}-{side}.png")
            rows.append(f'{file},{case},x,{name},4,GE,48,40,left,"[10,10,10,10]"')
            folds.append(f"{file},{name},{1 + case % 2},1,NaN")
    (root / "bus_data.csv").write_text("\n".join(rows) + "\n")
    (root / "5-fold-cv.csv").write_text("\n".join(folds) + "\n")


def breast(root: Path, n: int = 3) -> None:
    folder = root / "BrEaST-Lesions_USG-images_and_masks"
    rows: list[list[object]] = [
        ["CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename", "Age", "BIRADS",
         "Classification"]
    ]  # fmt: skip
    for k in range(1, 2 * n + 1):
        name = CLASSES[k % 3]
        file = f"case{k:03d}"
        picture(folder / f"{file}.png", k, "RGBA")
        masks = "" if name == "normal" else f"{file}_tumor.png"
        if masks:
            mask(folder / masks, (255, 255, 255, 255), "RGBA")
        if k == 1:
            mask(folder / f"{file}_tumor2.png", (255, 255, 255, 255), "RGBA", left=30)
            masks += f"&{file}_tumor2.png"
        mask(folder / f"{file}_other1.png", (255, 255, 255, 255), "RGBA")
        rows.append([k, f"{file}.png", masks or None, f"{file}_other1.png", 40 + k, "4a", name])
    sheet(root / "BrEaST-Lesions-USG-clinical-data.xlsx", rows)


def bus_uclm(root: Path, n: int = 3) -> None:
    rows = ["\ufeffImage;Resolution;Label;Doppler;Marks;Combined"]
    others = [f"PA{p:02d}" for p in range(4 * (n - 3))]
    for p, patient in enumerate(("ALWI", "CHVI", "CHCO", "VITR", *others)):
        for k in range(3):
            label = CLASSES[(p + k) % 3]
            picture(root / f"images/{patient}_{k:03d}.png", 10 * p + k, "RGB")
            colour = {"benign": (0, 255, 0), "malignant": (255, 0, 0), "normal": (0, 0, 0)}[label]
            mask(root / f"masks/{patient}_{k:03d}.png", colour, "RGB")
            doppler = "Y" if k else "No"
            rows.append(f"{patient}_{k:03d}.png;48x40;{label.capitalize()};{doppler};No;No")
    (root / "INFO.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def udiat(root: Path, n: int = 3) -> None:
    rows: list[list[object]] = [["Image", "Type"]]
    for k in range(1, 2 * n + 1):
        picture(root / f"original/{k:06d}.png", k)
        mask(root / f"GT/{k:06d}.png")
        rows.append([k, "Malignant" if k % 3 == 0 else "Benign"])
    sheet(root / "DatasetB.xlsx", rows)


def gdph_sysucc(root: Path, n: int = 3) -> None:
    for s, site in enumerate(("GDPH", "SYSUCC")):
        for k in range(1, 2 * n + 1):
            name = "malignant" if (k + s) % 3 == 0 else "benign"
            picture(root / f"{site}/{name}({k}).png", 100 * s + k)
    sheet(root / "BIRADS&FOLD.xlsx", [["name", "birads", "fold"], ["benign(1)", 3, 1]])


def qamebi(root: Path, n: int = 3) -> None:
    for c, name in enumerate(("Benign", "Malignant")):
        for k in range(1, n + 1):
            picture(root / f"{name}/{k} {name} Image.bmp", 10 * c + k)
            mask(root / f"{name}/{k} {name} Mask.tif")


def bus_uc(root: Path, n: int = 3) -> None:
    for c, name in enumerate(("Benign", "Malignant")):
        for k in range(1, n + 1):
            picture(root / f"{name}/images/{k:03d}.png", 10 * c + k)
            mask(root / f"{name}/masks/{k:03d}.png")


# Each writes n images of a class, or a few more; n is at most 9.
# What a set must be read as: source, classes, images, patients, images with masks.
LAYOUTS: dict[str, tuple[Callable[..., None], str, tuple[str, ...], int, int, int]] = {
    "BUSI": (busi, "busi", CLASSES, 9, 0, 9),
    "curated BUSI": (curated_busi, "curated_busi", CLASSES, 9, 0, 9),
    "BUS-BRA": (busbra, "busbra", CLASSES[:2], 9, 6, 9),
    "BrEaST": (breast, "breast", CLASSES, 6, 6, 4),
    "BUS-UCLM": (bus_uclm, "bus_uclm", CLASSES, 12, 3, 12),
    "UDIAT B": (udiat, "udiat", CLASSES[:2], 6, 0, 6),
    "GDPH & SYSUCC": (gdph_sysucc, "gdph_sysucc", CLASSES[:2], 12, 0, 0),
    "QAMEBI": (qamebi, "busi", ("Benign", "Malignant"), 6, 0, 6),
    "BUS-UC": (bus_uc, "busi", ("Benign", "Malignant"), 6, 0, 6),
}
