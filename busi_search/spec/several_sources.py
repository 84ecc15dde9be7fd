"""One of several sources of a study: an entry of [[dataset.sources]]."""

from typing import Literal

from pydantic import Field, field_validator

from busi_search.spec.strict import Strict

# The kinds of files that a dataset may be read from, in the order in which they are listed.
FirstKinds = Literal["busi", "medmnist"]
OtherKinds = Literal[
    "table", "busbra", "breast", "bus_uclm", "udiat", "gdph_sysucc", "curated_busi", "auto"
]


class SourceEntry(Strict):
    """One hospital or set of a study that has several."""

    site: str
    """Name of the hospital or set: of its fold with `folds = "site"`, and in every report.

    It stands before the names of its images and patients, and is no longer than 40 characters.

    Example: site = "BUSI"
    """

    source: Literal[FirstKinds, OtherKinds] = "auto"
    """Kind of dataset, as in `[dataset] source`.

    Default: recognised by how the files lie, and said.
    Example: source = "busi"
    """

    path: str
    """Folder, table or .npz file of its images.

    Example: path = "Dataset_BUSI_with_GT"
    """

    columns: dict[str, str] = Field(default={})
    """Which column of a `table` has which meaning, as in `[dataset] columns`.

    Default: told from the names of the columns, and said.
    Example: columns = { file = "Image_filename", label = "Classification" }
    """

    map: dict[str, str] = Field(default={})
    """Which class of the study each of its classes counts as, where the names differ.

    `leave out` leaves the images of a class out. The classes of the study are those of the first
    source, after its own map.

    Default: equal names are one class; upper and lower case do not matter.
    Example: map = { normal = "leave out" }
    """

    @field_validator("site")
    @classmethod
    def _a_name(cls, site: str) -> str:
        bad = set("/\\\t\n") & set(site)
        if not site.strip() or site != site.strip() or len(site) > 40 or bad:
            raise ValueError("must be a name of 1 to 40 characters without slashes")
        return site
