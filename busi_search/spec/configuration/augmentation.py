"""The augmentation: how training images are changed at random."""

from pydantic import Field

from busi_search.spec.strict import Strict


class AugmentationFields(Strict):
    """Hyperparameters of the augmentation."""

    augmentation_strength: float = Field(default=0.5, ge=0, le=1)
    """Strength of the augmentation: scales every operation from nothing (0) to its range (1).

    The ranges are the keys from `flip_horizontal` to `erasing`.

    Unit: none.
    Default: the middle; the best trials on BreastMNIST lay between 0.3 and 0.6.
    Example: augmentation_strength = { low = 0.0, high = 1.0 }
    """

    augmentation_views: int = Field(default=0, ge=0, le=64)
    """Number of augmented views of every image that are computed once, where stages are frozen.

    The output of the frozen stages is then shared by folds and trials, which saves most of the
    time. The strength is rounded to quarters, and Mixup blends features instead of pixels. 0
    augments anew in every epoch.

    Unit: views per image.
    Default: off, since few views cost quality: four cost no AUC where only the head learns, but
    0.02 where the last stage learns too; sixteen cost none there.
    Example: augmentation_views = [0, 16]
    """

    flip_horizontal: float = Field(default=0.5, ge=0, le=1)
    """Probability of mirroring an image left to right, reached at augmentation strength 0.5.

    Unit: a probability.
    Default: a mirrored breast is still a breast, so both sides are equally likely.
    Example: flip_horizontal = [0.0, 0.5]
    """

    flip_vertical: float = Field(default=0.0, ge=0, le=1)
    """Probability of turning an image upside down, reached at augmentation strength 0.5.

    Unit: a probability.
    Default: off, since depth has a direction in ultrasound: shadows and enhancement fall away from
    the probe.
    Example: flip_vertical = [0.0, 0.3]
    """

    rotation_degrees: float = Field(default=30.0, ge=0, le=180)
    """Largest rotation of an image, either way, at augmentation strength 1.

    Unit: degrees.
    Default: moderate, since depth has a direction in ultrasound; 60 degrees lowered the AUC on
    BreastMNIST by 0.01, and 15 changed it by no more than chance.
    Example: rotation_degrees = { low = 0.0, high = 45.0 }
    """

    shift: float = Field(default=0.15, ge=0, le=0.5)
    """Largest shift of an image in each direction, either way, at augmentation strength 1.

    It stands for another placement of the probe; shifted-in pixels are filled by reflection.

    Unit: a share of the image's side.
    Default: a careful value; 0.08 cost 0.008 of AUC on BreastMNIST and 0.25 gained 0.009, so the
    bundled studies search up to 0.45.
    Example: shift = { low = 0.1, high = 0.45 }
    """

    zoom: float = Field(default=0.2, ge=0, le=0.9)
    """Largest change of scale, either way, at augmentation strength 1.

    It stands for another depth setting of the machine.

    Unit: a share of the scale.
    Default: a plain choice; 0.35 made no measurable difference on BreastMNIST.
    Example: zoom = { low = 0.0, high = 0.4 }
    """

    contrast: float = Field(default=0.4, ge=0, le=1)
    """Largest change of contrast, either way, at augmentation strength 1.

    Unit: a share of the contrast.
    Default: a plain choice; 0.7 made no measurable difference on BreastMNIST.
    Example: contrast = { low = 0.0, high = 0.6 }
    """

    brightness: float = Field(default=0.2, ge=0, le=1)
    """Largest change of brightness, either way, at augmentation strength 1.

    Unit: a share of the grey scale.
    Default: a plain choice; 0.4 made no measurable difference on BreastMNIST.
    Example: brightness = { low = 0.0, high = 0.4 }
    """

    autocontrast: float = Field(default=0.0, ge=0, le=1)
    """Probability, at augmentation strength 1, of stretching an image to the whole grey scale.

    Unit: a probability.
    Default: off; 0.5 made no measurable difference on BreastMNIST. Two known systems use it.
    Example: autocontrast = [0.0, 0.5]
    """

    gain_slope: float = Field(default=0.4, ge=0, le=1)
    """Largest change of gain from the middle to either end of the depth, at strength 1.

    It stands for the time-gain compensation, which operators set by hand.

    Unit: a share of the gain.
    Default: a plain choice; 0.8 made no measurable difference on BreastMNIST.
    Example: gain_slope = { low = 0.0, high = 0.6 }
    """

    speckle: float = Field(default=0.0, ge=0, le=1)
    """Largest standard deviation of multiplicative noise, at augmentation strength 1.

    Unit: a share of the grey level.
    Default: off; speckle is physical, but on small images it hurts: 0.3 cost 0.018 of AUC on BUSI
    at 64 pixels.
    Example: speckle = { low = 0.0, high = 0.3 }
    """

    erasing: float = Field(default=0.5, ge=0, le=1)
    """Probability, at augmentation strength 1, of replacing one square by the image's mean.

    At that strength the side of the square is 30 % of the image's.

    Unit: a probability.
    Default: a plain choice; it is not physical, but sources use it, and leaving it out made no
    measurable difference on BreastMNIST.
    Example: erasing = [0.0, 0.5]
    """
