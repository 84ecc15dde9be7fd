"""One registered model per task, and which is meant where none is named."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from busi_search.errors import InputError
from busi_search.home import Home, create_tracking_store, open_home
from busi_search.models import registry
from busi_search.models.naming import registered_name, task_in_words
from busi_search.release import gate
from busi_search.spec import StudySpec, spec_json


@pytest.mark.parametrize(
    ("class_names", "simulated", "chosen", "expected"),
    [
        (["normal", "benign", "malignant"], False, None, "busi-classifier"),
        (["malignant", "benign"], False, None, "busi-classifier-benign-malignant"),
        (["malignant", "x, y"], False, None, "busi-classifier-malignant-x-or-y"),
        (["benign", "malignant", "normal"], True, None, "busi-classifier-phantom"),
        (["benign", "malignant", "normal"], True, "mine", "mine"),
    ],
)
def test_the_name_follows_the_classes(
    class_names: list[str], simulated: bool, chosen: str | None, expected: str
) -> None:
    assert registered_name(class_names, simulated=simulated, chosen=chosen) == expected


def test_other_scripts_and_many_classes_have_names_of_their_own() -> None:
    names = [
        registered_name([first, "x"], simulated=False) for first in ("良性", "恶性", "y" * 300)
    ]
    assert len(set(names)) == 3
    assert all(len(name) < 140 and "/" not in name and ":" not in name for name in names)
    assert task_in_words(["b", "a, c"], simulated=True) == "a or c, b (simulated phantoms)"


def test_the_name_is_no_part_of_what_makes_a_study_the_same() -> None:
    raw = {"dataset": {"source": "phantom"}}
    plain = StudySpec.model_validate(raw)
    named = StudySpec.model_validate({**raw, "study": {"model": "mine"}})
    assert named.study.model == "mine"
    assert spec_json(plain) == spec_json(named)
    with pytest.raises(ValueError, match="model"):
        StudySpec.model_validate({**raw, "study": {"model": "a/b"}})


@pytest.fixture(scope="module")
def two_tasks(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A registry with a version of phantoms and one of real images, made by MLflow alone."""
    home = open_home(tmp_path_factory.mktemp("registry"))
    create_tracking_store(home)
    _add_version(home, registry.PHANTOM_MODEL, simulated=True)
    _add_version(home, "clinic", simulated=False)
    return home


def _add_version(home: Home, name: str, *, simulated: bool) -> registry.RegisteredVersion:
    client = MlflowClient(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)
    if not client.search_registered_models(registry.named(name)):
        client.create_registered_model(name, tags={registry.TASK: "benign, malignant"})
    tags = {"busi.simulated": str(simulated).lower()}
    made = client.create_model_version(name, str(Path(home.root) / "nowhere"), tags=tags)
    return registry.find_version(home, str(made.version), name=name)


def test_real_images_come_before_phantoms(two_tasks: Home) -> None:
    home = two_tasks
    assert registry.model_names(home) == [registry.PHANTOM_MODEL, "clinic"]
    phantom = registry.make_candidate(home, registry.find_version(home, "1", name="clinic"))
    assert phantom.aliases == ("candidate",)
    registry.make_candidate(home, registry.find_version(home, "1", name=registry.PHANTOM_MODEL))
    found = registry.find_version(home, "candidate")
    assert found.name == "clinic"
    note = registry.choice_note(home, "candidate", found, name=None)
    assert note is not None
    assert registry.PHANTOM_MODEL in note
    assert "--model" in note
    assert registry.choice_note(home, "candidate", found, name="clinic") is None
    # The number, too.
    assert registry.find_version(home, "1").name == "clinic"


def test_phantoms_never_take_the_alias_from_real_images(two_tasks: Home) -> None:
    home = two_tasks
    real = registry.make_candidate(home, registry.find_version(home, "1", name="clinic"))
    phantom = registry.make_candidate(home, _add_version(home, "clinic", simulated=True))
    assert phantom.aliases == ()
    assert registry.find_version(home, "candidate", name="clinic").version == real.version


def test_a_number_that_means_several_models_is_refused(two_tasks: Home) -> None:
    _add_version(two_tasks, "other-clinic", simulated=False)
    with pytest.raises(InputError, match=r"clinic, other-clinic.*--model"):
        gate.promote(two_tasks, version="1")


def test_the_old_name_of_all_models_means_the_only_one(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    create_tracking_store(home)
    _add_version(home, registry.PHANTOM_MODEL, simulated=True)
    found = registry.find_version(home, "1", name=registry.MODEL_NAME)
    assert found.name == registry.PHANTOM_MODEL
    with pytest.raises(InputError, match="there are busi-classifier-phantom"):
        registry.find_version(home, "1", name="nobody")
