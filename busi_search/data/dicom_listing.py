"""DICOM files in a list of images: their frames, their patients, and notes about them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from busi_search.data.dicom import DicomHeader, even_frames, is_dicom, read_header
from busi_search.data.listing import ListedImage, Listing
from busi_search.data.patient_salt import load_patient_salt
from busi_search.errors import InputError
from busi_search.wording import count_of

Headers = Mapping[str, DicomHeader | None]


def with_frames(listing: Listing, *, limit: int, salt_file: Path | None) -> Listing:
    """Return a listing whose DICOM files are listed frame by frame, with their patients.

    Frames of one file stay together, and so do files of one PatientID, which is hashed. What a
    table or folder says of patients is united with that: images that either puts together stay so.

    Args:
        listing: as a layout was read.
        limit: most frames of a file that are taken, evenly spaced; a listed frame is taken itself.
        salt_file: where the home keeps its salt; None: nowhere.

    Raises:
        InputError: a file is no DICOM, a listed file holds no image or not the listed frame, or
            there is a class without images.
    """
    root = listing.root
    names = dict.fromkeys(i.file for i in listing.images if is_dicom(root / i.file))
    if not names:
        return listing
    salt = load_patient_salt(salt_file)
    headers = {name: read_header(root / name, salt=salt) for name in names}
    images = [
        frame for image in listing.images for frame in _frames(listing, image, headers, limit)
    ]
    _refuse_empty_classes(listing, images)
    told, notes = _patients(images, headers)
    notes = (*notes, *_notes(images, headers, limit))
    return replace(listing, images=told, notes=(*listing.notes, *notes))


def _frames(
    listing: Listing, image: ListedImage, headers: Headers, limit: int
) -> Iterator[ListedImage]:
    path = listing.root / image.file
    if image.file not in headers:
        if image.frame is not None:
            raise InputError(f"{path}: only DICOM files have frames; leave the frame empty.")
        yield image
        return
    header = headers[image.file]
    if header is None:
        return
    if image.frame is not None and not 1 <= image.frame <= header.num_frames:
        raise InputError(f"{path}: there is no frame {image.frame}, only {header.num_frames}.")
    if header.num_frames == 1:
        yield replace(image, frame=None)
    elif image.frame is not None:
        yield image
    else:
        # A mask or box shows where the lesion is in one of the frames, and not in which.
        for number in even_frames(header.num_frames, limit):
            yield replace(image, frame=number, masks=(), box=None)


def _refuse_empty_classes(listing: Listing, images: Sequence[ListedImage]) -> None:
    left = {image.label for image in images}
    for image in listing.images:
        if image.label not in left:
            raise InputError(
                f"{listing.root}: no DICOM file of class '{image.label}' holds an image (the first "
                f"is '{image.file}'); check them."
            )


def _patients(
    images: Sequence[ListedImage], headers: Headers
) -> tuple[list[ListedImage], tuple[str, ...]]:
    """Unite what is listed of patients with the hashed PatientIDs."""
    hashed = [header.patient if (header := headers.get(i.file)) else None for i in images]
    known = set(hashed) - {None}
    if len(known) == 1 and len({image.file for image in images}) > 1:
        note = (
            "All DICOM files have the same PatientID, as after some kinds of anonymisation, so it "
            "does not tell patients apart. Name the patients in the column patient of a table."
        )
        return list(images), (note,)
    if not known:
        return list(images), ()
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for image, digest in zip(images, hashed, strict=True):
        if image.patient is not None and digest is not None:
            parent[find(f"id {digest}")] = find(f"= {image.patient}")
    # A patient of several names in the table is called by one of them.
    told = [
        replace(image, patient=find(f"= {image.patient}" if digest is None else f"id {digest}")[2:])
        if image.patient is not None or digest is not None
        else image
        for image, digest in zip(images, hashed, strict=True)
    ]
    count = len({image.patient for image in told})
    note = (
        f"DICOM: {count} patients, by PatientID, of which only a hash with this home's salt is "
        "kept."
    )
    return told, (note,)


def _notes(images: Sequence[ListedImage], headers: Headers, limit: int) -> Iterator[str]:
    found = {name: header for name, header in headers.items() if header is not None}
    used = Counter(image.file for image in images)
    empty = [name for name, header in headers.items() if header is None]
    if empty:
        yield (
            f"DICOM: left out {count_of(len(empty), 'file')} without an image, such as reports; "
            f"the first is '{empty[0]}'."
        )
    clips = {name: header for name, header in found.items() if header.num_frames > used[name]}
    if clips:
        total = sum(header.num_frames for header in clips.values())
        yield (
            f"DICOM: took {sum(used[n] for n in clips)} of {total:,} frames from "
            f"{count_of(len(clips), 'file')} with several, evenly spaced and at most {limit} per "
            "file "
            "(dataset.frames_per_file), or those that the table names. Frames of a file stay "
            "together."
        )
    whole = [name for name, header in found.items() if header.region is None]
    if whole:
        yield (
            f"DICOM: read the whole screen, text and scales included, of {len(whole)} of "
            f"{count_of(len(found), 'file')}, which do not say where the B-mode picture is; the "
            f"first is '{whole[0]}'."
        )
    several = [name for name, header in found.items() if header.num_regions > 1]
    if several:
        yield (
            "DICOM: read the largest of several B-mode pictures in "
            f"{count_of(len(several), 'file')} "
            f"(the first where they are equal); the first such file is '{several[0]}'."
        )
    said = sum(header.burned_in is True for header in found.values())
    silent = sum(header.burned_in is None for header in found.values())
    if said or silent:
        yield (
            f"DICOM: text burned into the pixels of {count_of(said, 'file')}, by their headers; "
            f"{silent} more do not say. Names may be visible: busi-search neither looks for them "
            "nor removes them. Look at the images before you share a report."
        )
