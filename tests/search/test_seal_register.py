from pathlib import Path

import optuna
import pytest

from busi_search.data.known_images import KnownImages
from busi_search.home import Home
from busi_search.search.context import StudyContext
from busi_search.search.prepare import prepare_study
from busi_search.search.seal_register import append_to_ledger, num_openings_of, register_study
from busi_search.search.status import study_status
from busi_search.search.store.identity import create_study
from busi_search.search.store.open import open_storage
from busi_search.search.store.study_record import StudyRecord
from busi_search.terminal import announce

SMALL = ("image_size_pixels=28", "num_folds=3", "architecture='small_cnn'", "recipes=[]")


def prepare(home: Home, images: Path, name: str, seed: int = 0) -> StudyContext:
    return prepare_study(
        "busi", data=str(images), home=home, name=name, seed=seed, weights="none",
        overrides=SMALL, device="cpu",
    )  # fmt: skip


def begin(context: StudyContext) -> optuna.Study:
    """What a search does before its first trial."""
    study = create_study(context, open_storage(context.home))
    register_study(context, study)
    return study


def test_what_another_study_developed_on_is_told_before_a_search(
    home: Home, busi_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare(home, busi_folder, "first")
    assert first.counts["num_test_not_independent"] == 0
    study = begin(first)
    again = prepare(home, busi_folder, "first")
    assert again.developed_by == ()
    reseeded = prepare(home, busi_folder, "reseeded", seed=1)
    shared = set(reseeded.partition.test) & set(first.partition.development)
    assert reseeded.counts["num_test_not_independent"] == len(shared) > 0
    assert reseeded.developed_by == ("first",)
    announce(reseeded, workers=1, trials=1)
    told = " ".join(capsys.readouterr().err.split())
    assert f"Not independent: {len(shared)} of {len(reseeded.partition.test)} sealed" in told
    # Prepared is not begun: the first knows nothing of it until then.
    assert study_status(study, KnownImages(home)).num_test_not_independent == 0
    begun = begin(reseeded)
    assert StudyRecord(begun).counts["num_test_not_independent"] == len(shared)
    later = len(set(first.partition.test) & set(reseeded.partition.development))
    status = study_status(study, KnownImages(home))
    assert (status.num_test_not_independent, status.num_test) == (later, len(first.partition.test))
    assert study_status(study).num_test_not_independent == 0


def test_openings_of_the_old_study_count_for_the_new(home: Home, busi_folder: Path) -> None:
    first = prepare(home, busi_folder, "first")
    begin(first)
    entry = {"study": "first", "partition": first.partition.digest()}
    append_to_ledger(home, "first", "opened", entry)
    for name, seed in (("renamed", 0), ("reseeded", 1)):
        new = prepare(home, busi_folder, name, seed=seed)
        assert set(new.partition.test) & set(first.partition.test)
        assert num_openings_of(KnownImages(home), new.membership, home) == 1


def test_studies_that_began_before_the_register_are_added(home: Home, busi_folder: Path) -> None:
    create_study(prepare(home, busi_folder, "old"), open_storage(home))
    assert KnownImages(home).memberships == ()
    reseeded = prepare(home, busi_folder, "reseeded", seed=1)
    assert reseeded.developed_by == ("old",)
    (images,) = busi_folder.iterdir()
    create_study(reseeded, open_storage(home))
    images.rename(images.with_name("elsewhere"))
    found = prepare(home, images.with_name("elsewhere"), "third")
    # The images of one are gone, which ends nothing.
    assert found.developed_by == ()
    assert {member.study for member in KnownImages(home).memberships} == {"old"}
