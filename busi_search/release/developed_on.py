"""Whose images a version was developed or recalibrated on, and which of a dataset these are."""

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.data.known_images import KnownImages, Membership
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.models.registry import RegisteredVersion
from busi_search.search.seal_register import register_old_studies

# Tag of a version that was recalibrated: the versions it was made of, the nearest first.
PARENT = "busi.parent_version"


def developed_studies(home: Home, version: RegisteredVersion) -> list[Membership]:
    """Return whose images a version was developed or recalibrated on.

    Raises:
        InputError: this home does not know them.
    """
    study, partition = version.tags.get("busi.study", ""), version.tags.get("busi.partition", "")

    def found() -> list[Membership]:
        members = KnownImages(home).memberships
        mine = [m for m in members if m.study == study and m.partition == partition]
        local = {local_study(study, number) for number in _lineage(version)}
        return [*mine[:1], *(m for m in members if m.study in local)] if mine else []

    members = found()
    if not members:
        register_old_studies(home)
        members = found()
    if not members:
        raise InputError(
            f"This home does not hold the images that version {version.version} (study '{study}') "
            "was developed on, so images that are in both sets cannot be found; run the "
            "command on the home where it was searched, or restore its images."
        )
    return members


def local_study(study: str, version: str) -> str:
    """Return the name under which the images that a version was recalibrated on are registered."""
    return f"{study}, recalibrated as version {version}"


def _lineage(version: RegisteredVersion) -> list[str]:
    return [version.version, *version.tags.get(PARENT, "").split()]


def known_to(
    home: Home, version: RegisteredVersion, dataset: ImageDataset, known: KnownImages
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return (N,) whether an image was developed on, and (N,) whether the study's test has it."""
    members = developed_studies(home, version)
    lost = [member.study for member in members if member.fingerprint not in known.sets]
    if lost:
        raise InputError(
            f"The register of known images in {home.root} lacks those of '{lost[0]}'; open the "
            f"study once (busi-search report NAME --to FILE.html) and they are kept again."
        )
    scans = [known.scans.get((dataset.fingerprint, index), -1) for index in range(len(dataset))]
    developed = [known.scans_of(member.fingerprint, member.development) for member in members]
    sealed = known.scans_of(members[0].fingerprint, members[0].sealed)
    everywhere = frozenset().union(*developed)
    return (
        np.array([scan in everywhere for scan in scans], dtype=bool),
        np.array([scan in sealed for scan in scans], dtype=bool),
    )
