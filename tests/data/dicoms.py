"""DICOM files as ultrasound machines write them, with simulated pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

Region = tuple[int, int, int, int, int, int]


def dicom(
    path: Path,
    pixels: np.ndarray,
    *,
    patient: str | None = "MRN 4711",
    photometric: str = "MONOCHROME2",
    bits: int | None = None,
    regions: Sequence[Region] = (),
    preamble: bool = True,
    **attributes: object,
) -> Path:
    """Write pixels, (H, W), (F, H, W), (H, W, 3) or (F, H, W, 3), as an ultrasound file.

    Regions are left, top, right, bottom (inclusive), spatial format and data type.
    """
    colour = pixels.shape[-1] == 3
    shape = pixels.shape[:-1] if colour else pixels.shape
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UltrasoundImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = UltrasoundImageStorage, meta.MediaStorageSOPInstanceUID
    ds.Modality, ds.PatientName, ds.PatientBirthDate = "US", "Doe^Jane", "19700101"
    if patient is not None:
        ds.PatientID = patient
    ds.Rows, ds.Columns = shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 3 if colour else 1, photometric
    if colour:
        ds.PlanarConfiguration = 0
    if len(shape) == 3:
        ds.NumberOfFrames = shape[0]
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(pixels.dtype.kind == "i")
    items = []
    for left, top, right, bottom, spatial, kind in regions:
        item = Dataset()
        item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
        item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right, bottom
        item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = spatial, kind, 0
        items.append(item)
    if items:
        ds.SequenceOfUltrasoundRegions = Items(items)
    for name, value in attributes.items():
        setattr(ds, name, value)
    data = pixels.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=preamble)
    if not preamble:
        # Without its first part, as some old archives keep files.
        content = path.read_bytes()
        path.write_bytes(content.removeprefix(b"\0" * 128 + b"DICM"))
    return path
