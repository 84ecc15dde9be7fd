"""Searches whose folds are sites: any number of them, under every pruner, resumed and audited."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from busi_search.data.phantom import simulate_phantom, write_phantom
from busi_search.errors import InputError
from busi_search.home import Home, open_home
from busi_search.release.sites import unseen_sites
from busi_search.release.winner import Winner, find_winner
from busi_search.search.context import StudyContext
from busi_search.search.prepare import prepare_study
from busi_search.search.reopen import reopen_study
from busi_search.search.store.foreign import own_trials
from busi_search.search.store.identity import create_study
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.study_record import StudyRecord
from busi_search.search.worker import search_worker
from busi_search.training.metrics import binary_auc

STUDY = """
[study]
pruner = "{pruner}"
startup_trials = 1

[dataset]
source = "several"
folds = "site"
image_size_pixels = 28
{sources}

[hyperparameters]
architecture = "small_cnn"
epochs = 1
augmentation_strength = 0.0

[space]
learning_rate = {{ low = 1e-4, high = 3e-2, log = true }}
"""
ENTRY = """
[[dataset.sources]]
site = "{site}"
path = "{site}"
map = {{ normal = "leave out" }}
"""
# Of each kind one: by images, by running means, by single folds.
PRUNERS = {"evidence": 2, "hyperband": 3, "wilcoxon": 2}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hospitals")
    for seed, site in enumerate("ABC"):
        write_phantom(root / site, simulate_phantom(50, size_pixels=32, seed=seed))
    return root


def _study(root: Path, pruner: str, num_sites: int) -> str:
    sources = "".join(ENTRY.format(site=site) for site in "ABC"[:num_sites])
    path = root / f"{pruner}-{num_sites}.toml"
    path.write_text(STUDY.format(pruner=pruner, sources=sources))
    return str(path)


def _search(home: Home, study: str, trials: int = 3) -> tuple[StudyContext, Winner]:
    context = prepare_study(study, home=home, device="cpu")
    created = create_study(context, open_storage(home))
    StudyRecord(created).set_target(trials)
    for _ in search_worker(context, False, 0):
        pass
    winner = find_winner(context, own_trials(find_study(home, context.name)))
    assert winner is not None
    return context, winner


@pytest.mark.parametrize("pruner", PRUNERS)
def test_every_pruner_takes_as_many_folds_as_there_are_sites(
    pruner: str, hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hospitals)
    home, number = open_home(tmp_path / "home"), PRUNERS[pruner]
    context, winner = _search(home, _study(hospitals, pruner, number))
    assert len(context.partition.folds) == context.spec.dataset.num_folds == number
    assert len(winner.folds) == number
    states = [trial.state.name for trial in own_trials(find_study(home, context.name))]
    assert set(states) <= {"COMPLETE", "PRUNED"}
    assert len(states) == 3
    # The study is the same one when it is opened again, wherever its images are then.
    again = reopen_study(find_study(home, context.name), home=home)
    assert again.partition.digest() == context.partition.digest()
    assert again.spec.dataset.num_folds == number

    found = unseen_sites(winner)
    assert [site.site for site in found] == list("ABC"[:number])
    development = context.development
    for site, fold in zip(found, context.partition.folds, strict=True):
        rows = fold.validation
        names = {development.properties["site"][int(row)] for row in rows}
        assert names == {site.site}
        assert site.num_images == len(rows)
        if np.isfinite(site.figures["auc"].value):
            scores = winner.probabilities[rows, development.positive]
            truth = development.labels[rows] == development.positive
            # Dividing by a temperature changes no order.
            assert site.figures["auc"].value == pytest.approx(binary_auc(scores, truth), abs=1e-3)


def test_folds_that_are_no_sites_have_no_unseen_site(
    hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hospitals)
    context = prepare_study(
        _study(hospitals, "evidence", 2), home=open_home(tmp_path / "home"), device="cpu"
    )
    section = context.spec.dataset.model_copy(update={"folds": "stratified"})
    spec = context.spec.model_copy(update={"dataset": section})
    # Nothing else of the winner is asked for.
    trial = optuna.trial.create_trial(value=0.5)
    assert unseen_sites(Winner(replace(context, spec=spec), [trial], trial, ())) == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({'site = "B"': 'site = "B"\nsource = "busbra"'}, "not BUS-BRA"),
        ({'path = "B"': 'path = "nowhere"'}, "check the path of 'B'"),
        ({"image_size_pixels": "num_folds = 3\nimage_size_pixels"}, "set num_folds = 2"),
    ],
)
def test_wrong_sources_are_one_sentence(
    change: Mapping[str, str],
    sentence: str,
    hospitals: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(hospitals)
    path = Path(_study(hospitals, "evidence", 2))
    text = path.read_text()
    for before, after in change.items():
        assert before in text
        text = text.replace(before, after)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text)
    with pytest.raises(InputError, match=sentence):
        prepare_study(str(wrong), home=open_home(tmp_path / "home"), device="cpu")


def test_several_sources_take_no_one_place(hospitals: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes no --data"):
        prepare_study(
            _study(hospitals, "evidence", 2),
            data="A",
            home=open_home(tmp_path / "home"),
            device="cpu",
        )
