"""Published sets whose labels are in a table or in the names of the files."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from busi_search.data.geometry import Box
from busi_search.data.layouts.files import image_files, masks_by_stem, subfolder, subfolders
from busi_search.data.layouts.sheets import Row, column, read_sheet
from busi_search.data.listing import ListedImage, Listing
from busi_search.errors import InputError

_CLASS_IN_NAME = re.compile(r"^(benign|malignant|normal)", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """How a published set lies on disk.

    Attributes:
        source: what a study file calls it.
        title: what people call it.
        find: the set's own folder, given that folder or its parent; None: this is not the set.
        read: its images, given its own folder.
    """

    source: str
    title: str
    find: Callable[[Path], Path | None]
    read: Callable[[Path], Listing]


def _inside(folder: Path, is_it: Callable[[Path], bool]) -> Path | None:
    """The folder, or the one folder in it, that is what is looked for."""
    if not folder.is_dir():
        return None
    entries = [folder, *subfolders(folder)]
    return next((entry for entry in entries if is_it(entry)), None)


def _existing(path: Path, row: str) -> Path:
    if not path.is_file():
        raise InputError(f"{row} names '{path.name}', which is not in {path.parent}; restore it.")
    return path


def _relative(root: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(path.relative_to(root).as_posix() for path in paths)


def _without(row: Row, *used: str | None) -> dict[str, str]:
    """The cells of a row that are left, by their names in small letters with underscores."""
    return {
        re.sub(r"\W+", "_", name.strip().lower()): value
        for name, value in row.items()
        if name not in used and value
    }


# BUS-BRA (Gómez-Flores et al. 2024, 10.1002/mp.16812)


def _is_busbra(folder: Path) -> bool:
    return (folder / "bus_data.csv").is_file() and subfolder(folder, "images") is not None


def _read_busbra(root: Path) -> Listing:
    table = root / "bus_data.csv"
    rows = read_sheet(table)
    pictures = subfolder(root, "images")
    assert pictures is not None, "it was recognised by this folder"
    masks = masks_by_stem(subfolder(root, "masks"))
    folds = {}
    if (root / "5-fold-cv.csv").is_file():
        folds = {row["ID"]: row["kFold"] for row in read_sheet(root / "5-fold-cv.csv")}
    images = []
    for row in rows:
        path = _existing(pictures / f"{row['ID']}.png", f"{table}: the row {row['ID']}")
        images.append(
            ListedImage(
                file=path.relative_to(root).as_posix(),
                label=row["Pathology"].lower(),
                patient=row["Case"],
                masks=_relative(root, masks.get(row["ID"].replace("bus_", "mask_"), ())),
                box=_busbra_box(row, f"{table}: the row {row['ID']}"),
                fold=folds.get(row["ID"]),
                properties=_without(row, "ID", "Case", "Pathology", "Width", "Height", "BBOX"),
            )
        )
    return Listing("busbra", root, images)


def _busbra_box(row: Row, where: str) -> Box | None:
    """The column BBOX, ``[x,y,width,height]`` in pixels of the image as it was published."""
    cell = row.get("BBOX", "")
    if not cell:
        return None
    try:
        x, y, width, height = (float(part) for part in cell.strip("[] ").split(","))
        across, down = float(row["Width"]), float(row["Height"])
        box = Box(x / across, y / down, (x + width) / across, (y + height) / down)
    except (KeyError, ValueError, ZeroDivisionError):
        raise InputError(
            f"{where} has the BBOX '{cell}'; expected [x,y,width,height] in pixels, and the "
            "columns Width and Height."
        ) from None
    return box


# BrEaST (Pawłowska et al. 2024, 10.1038/s41597-024-02984-z)


def _breast_sheet(folder: Path) -> Path | None:
    """The sheet of BrEaST, in its folder of images or beside it."""
    for place in (folder, folder.parent):
        for path in sorted(place.glob("*.xlsx")):
            if path.name.startswith("~"):
                continue
            try:
                rows = read_sheet(path)
            except InputError:
                continue
            if {"Image_filename", "Mask_tumor_filename", "Classification"} <= set(rows[0]):
                return path
    return None


def _is_breast(folder: Path) -> bool:
    named = any(folder.glob("case*.png"))
    return named and _breast_sheet(folder) is not None


def _read_breast(root: Path) -> Listing:
    table = _breast_sheet(root)
    assert table is not None, "it was recognised by this sheet"
    images = []
    for row in read_sheet(table):
        where = f"{table}: the row {row['CaseID']}"
        masks = [
            _existing(root / name.strip(), where)
            for key in ("Mask_tumor_filename",)
            for name in row.get(key, "").split("&")
            if name.strip()
        ]
        names = ("Image_filename", "CaseID", "Classification", "Mask_tumor_filename")
        images.append(
            ListedImage(
                file=_existing(root / row["Image_filename"], where).name,
                label=row["Classification"].lower(),
                patient=row["CaseID"],
                masks=_relative(root, masks),
                properties=_without(row, *names, "Mask_other_filename"),
            )
        )
    return Listing("breast", root, images)


# BUS-UCLM (Vallez et al. 2025, 10.1038/s41597-025-04562-3)

# The images of this patient stand there twice, under two names.
_SAME_PATIENT = {"CHCO": "CHVI"}


def _is_bus_uclm(folder: Path) -> bool:
    return (folder / "INFO.csv").is_file() and subfolder(folder, "images") is not None


def _read_bus_uclm(root: Path) -> Listing:
    table = root / "INFO.csv"
    rows = read_sheet(table)
    for name in ("Image", "Label"):
        if name not in rows[0]:
            raise InputError(f"{table}: there is no column '{name}', which BUS-UCLM has.")
    pictures = subfolder(root, "images")
    assert pictures is not None, "it was recognised by this folder"
    masks = masks_by_stem(subfolder(root, "masks"))
    images = []
    for row in rows:
        name = row["Image"] if Path(row["Image"]).suffix else f"{row['Image']}.png"
        path = _existing(pictures / name, f"{table}: the row {row['Image']}")
        patient = path.stem[:4].upper()
        yes = {key: "yes" if row.get(key, "").lower() in ("y", "yes", "1", "x") else "no"
               for key in ("Doppler", "Marks", "Combined")}  # fmt: skip
        images.append(
            ListedImage(
                file=path.relative_to(root).as_posix(),
                label=row["Label"].lower(),
                patient=_SAME_PATIENT.get(patient, patient),
                masks=_relative(root, masks.get(path.stem, ())),
                properties={key.lower(): value for key, value in yes.items()},
            )
        )
    notes = ("CHCO and CHVI hold the same pictures and are taken for one patient.",)
    present = any(image.file.split("/")[-1].upper().startswith("CHCO") for image in images)
    return Listing("bus_uclm", root, images, notes if present else ())


# UDIAT, dataset B (Yap et al. 2018, 10.1109/JBHI.2017.2731873)


def _udiat_sheet(folder: Path) -> Path | None:
    return next((p for p in sorted(folder.glob("*.xlsx")) if p.stem.lower() == "datasetb"), None)


def _is_udiat(folder: Path) -> bool:
    return _udiat_sheet(folder) is not None and subfolder(folder, "original") is not None


def _read_udiat(root: Path) -> Listing:
    table, pictures = _udiat_sheet(root), subfolder(root, "original")
    assert table is not None, "it was recognised by this sheet"
    assert pictures is not None, "it was recognised by this folder"
    rows = read_sheet(table)
    name, kind = column(rows, "Image", "Images", "Name", "ID"), column(rows, "Type", "Class")
    if name is None or kind is None:
        raise InputError(f"{table}: expected the columns Image and Type.")
    masks = masks_by_stem(subfolder(root, "gt"))
    by_stem = {path.stem: path for path in image_files(pictures)}
    images = []
    for row in rows:
        stem = Path(row[name]).stem
        stem = stem if stem in by_stem else stem.zfill(6)
        if stem not in by_stem:
            raise InputError(f"{table} names '{row[name]}', which is not in {pictures}.")
        images.append(
            ListedImage(
                file=by_stem[stem].relative_to(root).as_posix(),
                label=row[kind].lower(),
                masks=_relative(root, masks.get(stem, ())),
                properties=_without(row, name, kind),
            )
        )
    return Listing("udiat", root, images)


# GDPH & SYSUCC (Mo et al. 2023, 10.1109/TMI.2023.3236011)


def _is_gdph_sysucc(folder: Path) -> bool:
    return all(subfolder(folder, site) is not None for site in ("gdph", "sysucc"))


def _read_gdph_sysucc(root: Path) -> Listing:
    images = []
    for site in ("gdph", "sysucc"):
        folder = subfolder(root, site)
        assert folder is not None, "it was recognised by this folder"
        images += list(_by_name(root, folder, None, properties={"site": folder.name}))
    note = "SYSUCC is known to hold many duplicates and some contradictory labels."
    return Listing("gdph_sysucc", root, images, (note,))


def _by_name(
    root: Path, pictures: Path, masks: Path | None, properties: dict[str, str] | None = None
) -> Iterator[ListedImage]:
    """Images whose file names begin with their class."""
    known = masks_by_stem(masks)
    for path in image_files(pictures):
        said = _CLASS_IN_NAME.match(path.stem)
        if said is None:
            raise InputError(
                f"{path}: the name does not begin with benign, malignant or normal, as the others "
                "of this set do; rename or remove it."
            )
        yield ListedImage(
            file=path.relative_to(root).as_posix(),
            label=said[0].lower(),
            masks=_relative(root, known.get(path.stem, ())),
            properties=properties or {},
        )


# Curated BUSI (Aumente-Maestro et al. 2024)


def _is_curated_busi(folder: Path) -> bool:
    pictures = subfolder(folder, "images")
    if pictures is None or subfolder(folder, "masks") is None:
        return False
    files = image_files(pictures)
    return bool(files) and all(_CLASS_IN_NAME.match(path.stem) for path in files)


def _read_curated_busi(root: Path) -> Listing:
    pictures = subfolder(root, "images")
    assert pictures is not None, "it was recognised by this folder"
    return Listing("curated_busi", root, list(_by_name(root, pictures, subfolder(root, "masks"))))


def _layout(source: str, title: str, is_it: Callable[[Path], bool],
            read: Callable[[Path], Listing]) -> Layout:  # fmt: skip
    return Layout(source, title, lambda folder: _inside(folder, is_it), read)


PUBLISHED = (
    _layout("busbra", "BUS-BRA", _is_busbra, _read_busbra),
    _layout("bus_uclm", "BUS-UCLM", _is_bus_uclm, _read_bus_uclm),
    _layout("breast", "BrEaST", _is_breast, _read_breast),
    _layout("udiat", "UDIAT B", _is_udiat, _read_udiat),
    _layout("gdph_sysucc", "GDPH & SYSUCC", _is_gdph_sysucc, _read_gdph_sysucc),
    _layout("curated_busi", "curated BUSI", _is_curated_busi, _read_curated_busi),
)
