import builtins
import os
import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    JPEG2000Lossless,
    RLELossless,
)

from busi_search.data.dicom import even_frames, is_dicom, read_header
from busi_search.data.groups import find_groups
from busi_search.data.images import decode_image
from busi_search.data.layouts.table import table_of_folder
from busi_search.data.patient_salt import SALT_FILE, load_patient_salt
from busi_search.data.sources import guess_source, load_dataset
from busi_search.errors import InputError
from busi_search.spec import DatasetSection
from tests.data import layouts
from tests.data.dicoms import dicom

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
B_MODE = (10, 5, 39, 34, 1, 1)


@pytest.fixture
def grey(rng: np.random.Generator) -> np.ndarray:
    found = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    found[0, 0] = 255
    return found


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_rle.dcm",
        "SC_rgb_rle_16bit.dcm",
        "SC_rgb_rle_32bit.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_jpeg_lossy_gdcm.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
    ],
)
def test_one_picture_in_many_syntaxes_is_one_picture(name: str) -> None:
    # The same colour bars, as eight programs compressed them.
    expected = decode_image(FILES / "SC_rgb_rle_2frame.dcm", frame=1).astype(int)
    found = decode_image(FILES / name).astype(int)
    assert found.shape == (100, 100)
    assert np.median(np.abs(found - expected)) <= 4


def test_ultrasound_of_many_vendors_is_read() -> None:
    shapes = {
        "ExplVR_BigEnd.dcm": (60, 80),
        "examples_jpeg2k.dcm": (480, 640),
        "examples_palette.dcm": (350, 800),
        "examples_rgb_color.dcm": (240, 320),
        "examples_ybr_color.dcm": (240, 320),
        "image_dfl.dcm": (512, 512),
        "MR_small_jpeg_ls_lossless.dcm": (64, 64),
    }
    for name, shape in shapes.items():
        image = decode_image(FILES / name)
        assert image.shape == shape
        assert image.std() > 5
    plain = decode_image(FILES / "MR_small.dcm")
    for kind in ("RLE", "bigendian", "jp2klossless", "jpeg_ls_lossless"):
        np.testing.assert_array_equal(decode_image(FILES / f"MR_small_{kind}.dcm"), plain)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MR_truncated.dcm", "damaged"),
        ("JPGExtended.dcm", "JPEG Extended"),
        ("badVR.dcm", "not a readable DICOM"),
        ("priv_SQ.dcm", "not a readable DICOM"),
        ("SC_rgb_small_odd.dcm", "too few"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        decode_image(FILES / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
def test_lossless_syntaxes_give_every_pixel(
    tmp_path: Path, grey: np.ndarray, syntax: pydicom.uid.UID
) -> None:
    path = dicom(tmp_path / "a.dcm", np.stack([grey, grey[::-1]]))
    ds = pydicom.dcmread(path)
    if syntax.is_encapsulated:
        ds.compress(syntax, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path)
    for frame, expected in ((1, grey), (2, grey[::-1])):
        np.testing.assert_array_equal(decode_image(path, frame=frame), expected)


def test_shades_are_as_the_file_means_them(tmp_path: Path, grey: np.ndarray) -> None:
    def read(pixels: np.ndarray, **options: object) -> np.ndarray:
        return decode_image(dicom(tmp_path / "a.dcm", pixels, **options)).astype(int)

    deep = grey.astype(np.uint16)
    np.testing.assert_array_equal(read(grey), grey)
    np.testing.assert_array_equal(read(grey, photometric="MONOCHROME1"), 255 - grey)
    np.testing.assert_array_equal(read(np.dstack([grey] * 3), photometric="RGB"), grey)
    # A container is not its content: 8 and 12 bits in 16, inverted too.
    np.testing.assert_array_equal(read(deep), grey)
    assert np.abs(read(deep * 16, bits=12) - grey).max() <= 1
    np.testing.assert_array_equal(read(deep, photometric="MONOCHROME1"), 255 - grey)
    np.testing.assert_array_equal(read(deep * 257), grey)
    windowed = read(deep * 4, WindowCenter=512, WindowWidth=1024)
    assert np.abs(windowed - grey.astype(float) * 4 / 1023 * 255).max() <= 1.5
    half = read(deep, WindowCenter=[64, 9], WindowWidth=[128, 9])
    assert half[grey >= 128].min() == 255
    assert half[grey == 0].max() == 0
    levels = np.arange(256, dtype=np.uint16)[::-1] * 257
    lut = {
        f"{c}PaletteColorLookupTable{k}": v
        for c in ("Red", "Green", "Blue")
        for k, v in (("Descriptor", [256, 0, 16]), ("Data", levels.tobytes()))
    }
    np.testing.assert_array_equal(read(grey, photometric="PALETTE COLOR", **lut), 255 - grey)


def test_the_picture_is_cut_out_of_the_screen(tmp_path: Path, grey: np.ndarray) -> None:
    doppler, small, outside = (0, 0, 49, 39, 3, 3), (0, 0, 9, 9, 1, 1), (0, 0, 60, 60, 1, 1)
    picture = grey[5:35, 10:40]
    for regions in ([B_MODE], [doppler, small, B_MODE], [(*B_MODE[:4], 1, 2)], [outside, B_MODE]):
        path = dicom(tmp_path / "a.dcm", grey, regions=regions)
        np.testing.assert_array_equal(decode_image(path), picture)
    for regions in ([doppler], [outside], [(0, 0, 3, 3, 1, 1)], []):
        np.testing.assert_array_equal(
            decode_image(dicom(tmp_path / "a.dcm", grey, regions=regions)), grey
        )


def test_frames_are_evenly_spaced_and_the_middle_one_is_first_choice() -> None:
    assert even_frames(1, 5) == [1]
    assert even_frames(3, 5) == [1, 2, 3]
    assert even_frames(30, 5) == [4, 10, 16, 22, 28]
    assert even_frames(30, 1) == [16]


def _archive(root: Path, rng: np.random.Generator) -> Path:
    """Patients, studies and series, one file without suffix, a clip, a report; and a table."""

    def scan(*shape: int) -> np.ndarray:
        return rng.integers(30, 256, shape, dtype=np.uint8)

    for number in range(6):
        place = root / f"patient{number}/study/series"
        dicom(place / "1.dcm", scan(40, 50), patient=f"MRN {number}", regions=[B_MODE])
        dicom(place / f"1.2.840.{number}", scan(40, 50), patient=f"MRN {number}")
    dicom(root / "patient5/study/clip.dcm", scan(8, 40, 50), patient="MRN 5")
    dicom(
        root / "patient5/study/report.dcm",
        scan(40, 50),
        patient="MRN 5",
        SOPClassUID=EncapsulatedPDFStorage,
    )
    ds = pydicom.dcmread(root / "patient5/study/report.dcm")
    del ds.PixelData, ds.Rows
    ds.save_as(root / "patient5/study/report.dcm")
    rows = [f"patient{n},{'malignant' if n % 2 else 'benign'}" for n in range(6)]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    return root / "labels.csv"


def _load(path: Path, home: Path, **settings: object):  # type: ignore[no-untyped-def]
    section = {"source": guess_source(str(path)), "path": str(path), **settings}
    return load_dataset(DatasetSection.model_validate(section), cache=home / "cache")


def test_a_sheet_over_folders_of_patients(tmp_path: Path, rng: np.random.Generator) -> None:
    table = _archive(tmp_path / "set", rng)
    found = _load(table, tmp_path / "home")
    assert len(found) == 12 + 5
    assert sum("clip.dcm#" in path for path in found.paths) == 5
    assert len(set(found.patients or ())) == 6
    assert len(_load(table, tmp_path / "home", frames_per_file=2)) == 14
    images = list(found.images())
    assert {image.shape for image in images} == {(30, 30), (40, 50)}
    notes = " ".join(found.notes)
    for words in ("5 of 8", "report", "burned into", "6 patients", "read the whole screen"):
        assert words in notes, words
    groups = find_groups(found, "auto", tmp_path / "home" / "cache")
    assert groups.num_known == 6
    assert len(np.unique(groups.united)) == 6
    assert "new patients" in groups.scope


def test_patients_are_hashed_with_the_homes_salt_and_groups_do_not_depend_on_it(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    table = _archive(tmp_path / "set", rng)
    one, again = _load(table, tmp_path / "a"), _load(table, tmp_path / "a")
    other = _load(table, tmp_path / "b")
    salt = tmp_path / "a" / SALT_FILE
    assert stat.S_IMODE(salt.stat().st_mode) == 0o600
    assert one.patients == again.patients
    assert not set(one.patients or ()) & set(other.patients or ())
    assert one.fingerprint == other.fingerprint
    first = {name: i for i, name in reversed(list(enumerate(one.patients or ())))}
    second = {name: i for i, name in reversed(list(enumerate(other.patients or ())))}
    assert list(first.values()) == list(second.values())
    for place in (tmp_path / "a", tmp_path / "b"):
        text = b"".join(p.read_bytes() for p in place.rglob("*") if p.is_file())
        assert b"MRN" not in text
        assert b"Doe" not in text
    salt.write_text("damaged")
    with pytest.raises(InputError, match="salt of this home is damaged"):
        load_patient_salt(salt)


def test_only_what_is_needed_is_read(
    tmp_path: Path, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dicom(tmp_path / "a.dcm", grey, WindowCenter=128, WindowWidth=256)
    asked: set[str] = set()
    read = pydicom.dcmread

    def note(*args: object, **options: object) -> pydicom.FileDataset:
        found = read(*args, **options)  # type: ignore[arg-type]
        asked.update(element.keyword for element in found)
        return found

    monkeypatch.setattr(pydicom, "dcmread", note)
    decode_image(path)
    assert "PatientID" not in asked
    read_header(path, salt=b"salt")
    assert {"Rows", "PatientID", "WindowCenter"} <= asked
    assert not asked & {"PatientName", "PatientBirthDate", "SOPInstanceUID", "Modality"}


def test_a_table_unites_what_it_says_with_the_files(tmp_path: Path, grey: np.ndarray) -> None:
    for name, patient in (("a", "1"), ("b", "1"), ("c", "2"), ("d", None)):
        dicom(tmp_path / f"{name}.dcm", np.roll(grey, ord(name)), patient=patient)
    rows = ["file,label,patient", "a.dcm,benign,x", "b,malignant,y", "c,benign,y", "d,benign,z"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    patients = _load(tmp_path / "t.csv", tmp_path / "home").patients
    assert patients is not None
    assert len(set(patients[:3])) == 1
    assert patients[3] == "z"


def test_one_patient_id_for_all_is_none(tmp_path: Path, grey: np.ndarray) -> None:
    for k, name in enumerate(("benign", "benign", "malignant")):
        dicom(tmp_path / name / f"{k}.dcm", np.roll(grey, k), patient="PSEUDO")
    found = _load(tmp_path, tmp_path / "home")
    assert found.patients is None
    assert any("same PatientID" in note for note in found.notes)


def test_frames_stay_together_without_patients_and_a_table_can_name_one(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    for name in ("benign", "malignant"):
        clip = rng.integers(0, 256, (6, 40, 50), dtype=np.uint8)
        dicom(tmp_path / name / "clip.dcm", clip, patient=None)
    found = _load(tmp_path, tmp_path / "home", frames_per_file=3)
    assert found.patients is None
    for rule in ("auto", "none"):
        groups = find_groups(found, rule, tmp_path / "home" / "cache")
        assert len(np.unique(groups.united)) == 2
    assert "Patients are not known" in groups.scope
    listed = tmp_path / "groups.csv"
    listed.write_text("file,group\nbenign/clip.dcm,1\nmalignant/clip.dcm,2\n")
    assert find_groups(found, str(listed), tmp_path / "home" / "cache").num_known == 2
    rows = ["file,label,frame", "benign/clip.dcm,benign,2", "benign/clip.dcm,benign,5",
            "malignant/clip.dcm,malignant,1"]  # fmt: skip
    table = tmp_path / "t.csv"
    table.write_text("\n".join(rows) + "\n")
    named = _load(table, tmp_path / "home")
    assert named.paths == ("benign/clip.dcm#2", "benign/clip.dcm#5", "malignant/clip.dcm#1")
    table.write_text("\n".join([*rows[:3], "malignant/clip.dcm,malignant,7"]) + "\n")
    with pytest.raises(InputError, match="no frame 7"):
        _load(table, tmp_path / "home")


def test_a_first_table_names_dicom_and_no_patient(tmp_path: Path, grey: np.ndarray) -> None:
    dicom(tmp_path / "benign/p1/s1/1.2.3", grey)
    dicom(tmp_path / "malignant/p2/s1/1.dcm", grey)
    (tmp_path / "benign/p1/DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert table_of_folder(tmp_path, tmp_path / "t.csv") == 2
    assert (tmp_path / "t.csv").read_text().splitlines()[1:] == [
        "benign/p1/s1/1.2.3,benign,,",
        "malignant/p2/s1/1.dcm,malignant,,",
    ]


def test_a_mask_of_the_screen_is_cut_as_the_picture(tmp_path: Path, grey: np.ndarray) -> None:
    for k, name in enumerate(("benign", "malignant")):
        dicom(tmp_path / name / "a.dcm", np.roll(grey, k), regions=[B_MODE], patient=str(k))
        layouts.picture(tmp_path / name / "b.png", k)
    full = tmp_path / "benign" / "a_mask.png"
    layouts.mask(full)
    from PIL import Image

    Image.open(full).resize((50, 40)).save(full)
    found = _load(tmp_path, tmp_path / "home")
    masks = dict(zip(found.paths, found.masks(), strict=True))
    image = masks["benign/a.dcm"]
    assert image is not None
    assert image.shape == (30, 30)


def test_a_class_without_pictures_stops(tmp_path: Path, grey: np.ndarray) -> None:
    layouts.picture(tmp_path / "benign/1.png", 0)
    damaged = tmp_path / "malignant/0.dcm"
    damaged.parent.mkdir()
    damaged.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 2000)
    with pytest.raises(InputError, match=r"0\.dcm: not a readable DICOM file"):
        _load(tmp_path, tmp_path / "home")


def test_old_files_without_the_first_part_are_read(tmp_path: Path, grey: np.ndarray) -> None:
    path = dicom(tmp_path / "a.dcm", grey, preamble=False)
    assert is_dicom(path)
    np.testing.assert_array_equal(decode_image(path), grey)


def test_without_the_extra_the_line_that_installs_it_is_named(
    tmp_path: Path, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dicom(tmp_path / "a.dcm", grey)
    real = builtins.__import__

    def refuse(name: str, *args: object, **options: object) -> object:
        if name.partition(".")[0] == "pydicom":
            raise ImportError(name)
        return real(name, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"pip install 'busi-search\[dicom\]'"):
        decode_image(path)


@pytest.mark.parametrize("name", ["pipe", "pipe.dcm", "pipe.png"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="not a file"):
        decode_image(tmp_path / name)
    if name != "pipe.png":
        with pytest.raises(InputError, match="not a file"):
            read_header(tmp_path / name)


def test_the_salt_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / SALT_FILE
    assert load_patient_salt(file) == load_patient_salt(file)
    assert load_patient_salt(None) != load_patient_salt(None)
    assert [p.name for p in file.parent.iterdir()] == [SALT_FILE]
    assert os.access(file, os.R_OK)
