"""The section [dataset] of a study file."""

from typing import Annotated, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from busi_search.spec.configuration.image_geometry import (
    DEFAULT_IMAGE_SIZE_PIXELS,
    Aspect,
    Region,
    ScreenCrop,
)
from busi_search.spec.several_sources import FirstKinds, OtherKinds, SourceEntry
from busi_search.spec.strict import Strict

MOST_FOLDS = 20

_GROUPS_SCHEMA = {
    "anyOf": [
        {"enum": ["auto", "none"]},
        {"type": "string", "description": "path of a CSV file"},
    ]
}


class DatasetSection(Strict):
    """Where the images come from and how they are divided."""

    source: Literal[FirstKinds, "phantom", OtherKinds, "several"]
    """Kind of dataset: how its files are laid out; `run --data` recognises it.

    `auto` recognises what lies at `path`, and the run says what it took it for. `several` takes the
    images of all `[[dataset.sources]]`.
    `busi` is a folder with one folder per class, `medmnist` an .npz file of the MedMNIST
    collection, `table` a .csv or .xlsx file that lists images and labels, and `phantom` simulates
    its images. The others are published sets as their authors laid them out, with their patients
    and masks: BUS-BRA, BrEaST, BUS-UCLM, UDIAT B, GDPH & SYSUCC and the curated BUSI.

    Example: source = "busi"
    """

    path: str | None = None
    """Folder, table or .npz file of the images; `run --data` replaces it.

    Default: none; images are then named with `--data`, and `phantom` needs none.
    Example: path = "data/breastmnist.npz"
    """

    sources: tuple[SourceEntry, ...] = ()
    """The hospitals or sets of a study with `source = "several"`, two or more.

    Each entry has a `site`, a `path` and, where it is needed, a `source`, `columns` and a `map` of
    its classes. Patients are told apart by site; near-duplicates are found across all of them and
    stay together. The sealed test is drawn within every site.

    Default: empty; a study has one source.
    Example: source = "several"
    folds = "site"

    [[dataset.sources]]
    site = "BUSI"
    path = "Dataset_BUSI_with_GT"
    map = { normal = "leave out" }

    [[dataset.sources]]
    site = "BUS-BRA"
    path = "BUSBRA"
    """

    image_size_pixels: int = Field(default=DEFAULT_IMAGE_SIZE_PIXELS, ge=16, le=1024)
    """Height and width to which images are brought before training.

    Unit: pixels.
    Default: on BUSI the same network scored 0.014 of AUC lower at 96 pixels, for twice the time.
    Example: image_size_pixels = 128
    """

    aspect: Aspect = "squash"
    """How an image of any shape becomes a square.

    `squash` brings both sides to the square's, so that a lesion may look taller or wider than it
    is. `letterbox` brings the longer side to the square's and leaves the rest black. `crop` brings
    the shorter side to the square's and keeps the middle.

    Default: `letterbox` scored 0.03 of AUC lower on BUSI at 64 pixels (see Geometry).
    Example: aspect = "letterbox"
    """

    region: Region = "image"
    """What of an image the network sees.

    The whole `image`; the `lesion` with `region_margin` around it; or `both`, whose features stand
    side by side before the head. All but `image` need lesion masks or boxes, in training and for
    every prediction. A dataset is refused if having a lesion gives away the class, as in BUSI,
    whose normal images are those with an empty mask.

    Default: a prediction then needs no box; with one, `both` scored 0.04 of AUC higher on BUSI.
    Example: region = "both"
    """

    region_margin: float = Field(default=0.5, ge=0, le=4)
    """What is taken around the lesion, on every side, with `region = "lesion"` or `"both"`.

    Unit: a share of the lesion's width (left and right) and height (above and below).
    Default: half the lesion's size on every side shows its rim and its shadow.
    Example: region_margin = 0.25
    """

    lesions: Literal["given", "found"] = "given"
    """Who says where the lesion is, with `region = "lesion"` or `"both"`.

    `given`: a mask or a box that people drew, in training and for every prediction. `found`: in
    every fold a network learns the masks of the training images and finds the lesions of the
    others; the registered model contains these networks and needs the image alone. Training then
    needs masks, and the networks take some minutes before the first trial, once for a study.

    Default: boxes drawn by people are better than found ones (see Geometry).
    Example: region = "both"
    lesions = "found"
    """

    crop: ScreenCrop = "none"
    """Whether what the screen shows around every scan is cut away.

    `auto` finds, on the development images, the rectangle outside of which they are all alike
    (black borders, logos, scales); the same rectangle is cut out of every image that is predicted.

    Default: published sets are cut already.
    Example: crop = "auto"
    """

    num_folds: int = Field(default=5, ge=2, le=MOST_FOLDS)
    """Number of cross-validation folds; the released model averages as many networks.

    With `folds = "site"` or `"official"` there are as many as sites or as the authors give; a
    number that is stated must be that.

    Unit: folds.
    Default: what the literature on these images reports.
    Example: num_folds = 10
    """

    folds: Literal["stratified", "official", "site"] = "stratified"
    """What divides the development images into cross-validation folds.

    `official` takes the folds that the authors give (BUS-BRA, the column fold of a `table`), and
    `site` makes each site a fold, so that every model is scored on a hospital that it has not seen:
    the sites of `[[dataset.sources]]` or of a table's column, at least 2, better 3 or more.
    Images that belong to one of the fold that is scored are not trained on.

    Default: folds of one size with the same share of every class.
    Example: folds = "official"
    """

    test: Literal["official"] | Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Share of every class that is sealed for the final test, or `official`.

    `official` takes MedMNIST's own test images, except those whose near-duplicates are labelled
    otherwise. No trial is trained on sealed images or scored by them; their pixels are read once,
    to find near-duplicates. The images of a `table` whose column split says test are always taken.

    Unit: a share of the images.
    Default: a fifth of BUSI is about 125 images, whose AUC has a 95 % interval of some 0.07 either
    way at 0.9; fewer images would say little.
    Example: test = "official"
    """

    groups: Annotated[str, WithJsonSchema(_GROUPS_SCHEMA)] = "auto"
    """Which images belong together and never cross a fold or the border of the sealed test.

    `auto` finds near-duplicates in the pixels, `none` keeps only identical files together, and a
    CSV file with the columns file,group names known groups such as patients, which are united with
    the near-duplicates. Frames of one lesion are not near-duplicates: only such a file knows them.

    Default: near-duplicates in different folds would inflate every score.
    Example: groups = "groups.csv"
    """

    class_names: tuple[str, ...] | None = None
    """Names of the classes in the order of their labels; for `medmnist` only.

    Default: those of BreastMNIST where the file has its name, otherwise `class 0`, `class 1` and so
    on; `busi` takes the names of its folders.
    Example: class_names = ["malignant", "normal or benign"]
    """

    positive: str | None = None
    """Name of the class that is the disease: AUC, sensitivity and operating point are about it.

    Default: told from the names of the classes, where they tell it: malignant, a kind of cancer, or
    what is left beside normal or benign; otherwise `run` asks for it.
    Example: positive = "cancer"
    """

    columns: dict[str, str] = Field(default={})
    """Which column of a `table` has which meaning: file, label, patient, mask, box, fold, split.

    A `box` is where the lesion is: x y width height, in pixels of the image file. Four columns can
    hold it instead: box_x, box_y, box_width, box_height. Any other word on the left names a
    property such as site, device, age or birads.

    Default: told from the names of the columns, and said.
    Example: columns = { file = "Image_filename", label = "Classification" }
    """

    frames_per_file: int = Field(default=5, ge=1)
    """Largest number of frames that are taken from a DICOM file of several.

    They are evenly spaced, and stay together as one group. A table can name a frame itself, in its
    column frame.

    Unit: frames.
    Default: neighbouring frames of a clip show nearly the same; a few show how the lesion looks
    from several sides without giving long clips more weight than short ones.
    Example: frames_per_file = 1
    """

    phantom_num_images: int = Field(default=300, ge=30, le=20_000)
    """Number of images that `source = "phantom"` simulates.

    Unit: images.
    Default: as many as train within minutes.
    Example: phantom_num_images = 1000
    """

    phantom_seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the simulated images; the study's own `seed` does not change them.

    Unit: none.
    Default: any number serves; it is fixed so that a run can be repeated.
    Example: phantom_seed = 1
    """

    @model_validator(mode="after")
    def _several_sources(self) -> Self:
        sites = [entry.site for entry in self.sources]
        if self.source == "several":
            if len(sites) < 2:
                raise ValueError('source = "several" needs two [[dataset.sources]] or more')
            if self.path is not None:
                raise ValueError(
                    'source = "several" has no path of its own; each of [[dataset.sources]] has one'
                )
        elif sites:
            raise ValueError('[[dataset.sources]] needs source = "several"')
        if len(set(sites)) < len(sites):
            raise ValueError("two of [[dataset.sources]] have the same site")
        return self

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.test == "official" and self.source not in ("medmnist", "table", "auto"):
            raise ValueError(
                'test = "official" needs source = "medmnist", which has a split of its own, or a '
                '"table" with a column split'
            )
        return self
