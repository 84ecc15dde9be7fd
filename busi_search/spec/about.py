"""The section [about] of a study file: what only the researcher knows."""

from pydantic import Field

from busi_search.spec.strict import Strict


class About(Strict):
    """What a report and its checklists say of a study in the researcher's own words.

    None of it changes the search; it may be written or changed at any time.
    """

    title: str = Field(default="", max_length=300)
    """Title of the study.

    Default: the study's name stands in its place.
    Example: title = "Benign or malignant? Breast ultrasound at two hospitals"
    """

    intended_use: str = Field(default="", max_length=4000)
    """What the model is meant for: which patients, which users, where in their care.

    Default: the report says only what it must not be used for.
    Example: intended_use = "A second reader for sonographers, before a biopsy is decided on"
    """

    setting: str = Field(default="", max_length=4000)
    """Where and when the images were taken: hospitals, years, machines, who took them.

    Default: the report says that the software does not know it.
    Example: setting = "Two university hospitals, 2019 to 2023, consecutive women"
    """

    eligibility: str = Field(default="", max_length=4000)
    """Which patients and images were taken in, and which were left out, and why.

    Default: the report says only what the software left out.
    Example: eligibility = "Women over 18 with one lesion; no surgery before the examination"
    """

    reference_standard: str = Field(default="", max_length=4000)
    """How the labels were confirmed, and by whom.

    Default: the report says that the software does not know it.
    Example: reference_standard = "Histology; benign lesions without biopsy followed for two years"
    """

    ethics: str = Field(default="", max_length=4000)
    """Approval by an ethics committee, consent, or why neither was needed.

    Default: the report says that the software does not know it.
    Example: ethics = "Approved by the ethics committee (no. 2024-117); consent was waived"
    """

    registration: str = Field(default="", max_length=4000)
    """Where the study and its protocol were registered before it began.

    Default: none is reported.
    Example: registration = "OSF, https://osf.io/abcde"
    """

    data_availability: str = Field(default="", max_length=4000)
    """Who can have the images and labels, and how.

    Default: none is reported.
    Example: data_availability = "On request from the contact, under a data-use agreement"
    """

    funding: str = Field(default="", max_length=4000)
    """Who paid for the study, and what part they had in it.

    Default: none is reported.
    Example: funding = "National Science Fund, grant 1234; no part in the analysis"
    """

    conflicts_of_interest: str = Field(default="", max_length=4000)
    """Interests of the authors that bear on the study.

    Default: none is reported.
    Example: conflicts_of_interest = "None"
    """

    contact: str = Field(default="", max_length=300)
    """Whom to ask about the study.

    Default: none is reported.
    Example: contact = "breast-imaging@example.org"
    """
