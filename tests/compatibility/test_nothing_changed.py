"""Proof that the rebuild changed nothing for its users.

The program before the rebuild is taken from the history (``old_program.COMMIT``). The same lines
are typed into it and into the program of this checkout, each in a folder of its own, and all that a
user or another program may rely on is compared: answers with ``--json``, exit codes, what Optuna
and MLflow keep, the weights of the registered models, the ledger of the sealed test, the files of
the home. Then this program opens the home that the old one made, in which one search was killed.

Additions are free: what was there must be contained in what is there now. Sentences for people are
compared where they are stored or stand in an answer, not on stderr.

When a test fails here, something was broken, or it was changed on purpose. If on purpose:

* One thing differs, such as a sentence that is worded anew: add its place and the reason to
  ``PERMITTED``. The key must still be there. A key that goes is a break of the interface, and needs
  more than a line here.
* Results change as a whole, by other seeds or another library: move ``old_program.COMMIT`` to the
  last commit before the change, take out of ``PERMITTED`` what is no longer needed, and say in
  CHANGELOG.md what changed. If old studies cannot be continued bit by bit any more, the tests of
  that become one that they are refused; all others hold for the older commit still.
* The settings no longer give trials of every kind: the first test says which are missing. Choose
  other settings or another seed; both programs get the same.
"""

import csv
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility.comparison import changes
from tests.compatibility.old_program import (
    ROOT,
    Answer,
    end,
    extract_old_program,
    kill_within_a_trial,
    start_typing,
    type_lines,
)
from tests.compatibility.record import identities, record_home, rename

pytestmark = pytest.mark.slow

# What may differ between the two programs, by place (``*`` stands for anything), and why.
# Of models that this program registers: those of the old one answer as they did, to the last bit.
AVERAGED = "the logarithms of the fold models' probabilities are averaged"
PERMITTED = {
    "* > seconds": "a clock",
    "* > *_seconds": "a clock",
    "* > time": "when an entry was written into the ledger",
    "* > hash": "of an entry of the ledger, which holds its time",
    "* > previous": "the hash of the entry before",
    "* > promoted_at": "a clock",
    "* > busi.promoted_at": "a clock",
    "* > busi.rolled_back_at": "a clock",
    "* > worker": "the number of a process",
    "* > busi.worker": "the number of a process",
    "* > busi.weights_sha256": "the exported program names the source files it was made with",
    "* > weights_sha256": "the exported program names the source files it was made with",
    "table > started > *": "a clock",
    "table > finished > *": "a clock",
    "answers > doctor > findings > disk > text": "what else is on the disk",
    "answers > doctor > findings > caches > text": "what the image files are like is kept, too",
    "*corrected > *": "the choice among trials is corrected in another way",
    "*corrected_cv_*": "the choice among trials is corrected in another way",
    "* > estimates > *": "the choice among trials is corrected in another way",
    "* > description": "it quotes corrected figures, and says more of calibration and patients",
    "* > mlflow.note.content": "it quotes corrected figures, and says more of calibration",
    "* > prune_reason": "the chance to end above another trial is called an index, for it is none",
    "* > busi.prune_reason": "the chance to end above another trial is called an index",
    "* > ece_ci95 > *": "the interval holds its own figure",
    "* > sensitivity_ci95 > *": "a share of 0 or 1 has an interval, too",
    "* > specificity_ci95 > *": "a share of 0 or 1 has an interval, too",
    "* > auc_delong_ci95 > *": "images of a group are no longer taken for independent",
    "* > busi.test_openings": "comparing no longer opens the test for it, too",
    "answers > evaluate files > openings": "comparing with a champion no longer opens the test",
    "* > test_report_v3.json > openings": "comparing no longer opens the test for it, too",
    "* > promotion_v3.json > test_openings": "comparing no longer opens the test for it, too",
    "* > files > test_ledger.json": "comparing no longer opens the test for it, too",
    "* > test_predictions_v*.json > *": "more digits are kept, for a later comparison",
    "* > busi.against_champion": "it has the standard error, too",
    "* > promote files > reasons": "the gate asks for more",
    "* > promotion_v2.json > reasons": "the gate asks for more",
    "answers > doctor > findings > caches > mend": "only folders of busi-search's own are named",
    "* > operating_*": "the default rule finds at least 95 % of the malignant images",
    "* > *sensitivity": "the default rule finds at least 95 % of the malignant images",
    "* > *specificity": "the default rule finds at least 95 % of the malignant images",
    "* > busi.test_figures": "the default rule finds at least 95 % of the malignant images",
    "* > explanations > maps": "other images are looked at: missed ones first, one of every group",
    "* > spec_text": "this program is told what its registered model is called",
    "* > study.toml": "this program is told what its registered model is called",
    "optuna > seeded > trials > 6 > values > 0": "stopped early: the mean over its folds so far",
    "trials > 6 > values > 0": "stopped early: the mean over its folds so far",
    "trials > * > num_reports": "a trial that the old program began has reports of both kinds",
    "* > selectedColumns*": "the table of runs has a column for what became of a trial",
    "ledgers > files": "comparing no longer opens the test for it, too",
    "predict* > label": "the verdict's class; most_likely keeps that of the highest probability",
    "* > predict* > label": "the verdict's class; most_likely keeps the highest probability's",
    "* > familiarity > *": "texture is compared too, and five of a hundred lie beyond the limit",
    "* > num_unlike": "texture is compared too, and five of a hundred lie beyond the limit",
    "* > signature > outputs*": "MLflow's server says the verdict and unlike beside probabilities",
    "* > preprocessing": "shares of white are told from grey levels",
    "answers > evaluate * > test > *": AVERAGED,
    "answers > predict* > probabilities > *": AVERAGED,
    "answers > promote* > test*": AVERAGED,
    "experiments > * > metrics > test_*": AVERAGED,
    "* > promotion_v*.json > test_*": AVERAGED,
    "* > test_report_v*.json > test > *": AVERAGED,
    "* > busi.test_*": AVERAGED,
    "ledgers > seeded > * > a*": AVERAGED,
}

TINY = ("num_folds=3", "image_size_pixels=28", "architecture='small_cnn'")
# By evidence, with a known system: trials of every kind within seven.
SEEDED = (*TINY, "phantom_num_images=120", "epochs=6", "recipe_epochs=3", "startup_trials=2")
FOLDERS = Path(__file__).with_name("folders.toml")
# Two classes, from files, by one of Optuna's pruners: the second call finds a better trial.
FILES = (*TINY, "epochs=4", "recipes=[]", "batch_size=16", "startup_trials=1", "pruner='wilcoxon'",
         "learning_rate={low=1e-4,high=3e-2,log=true}")  # fmt: skip


def _run(study: str, name: str, trials: int, settings: tuple[str, ...], *more: str) -> list[str]:
    words = ["run", study, "--name", name, "--trials", str(trials), *more]
    words += ["--workers", "1", "--device", "cpu", "--json", "--quiet"]
    return [*words, *(word for setting in settings for word in ("--set", setting))]


def _seeded(name: str) -> list[str]:
    return _run("quickstart", name, 7, SEEDED)


def _files(trials: int) -> list[str]:
    return _run(str(FOLDERS), "files", trials, FILES, "--data", "images", "--weights", "none")


PREDICT_SEEDED = ["predict", "unseen", "--model-uri", "models:/busi-classifier/1", "--json"]
PROMOTE_COMPARED = ["promote", "--version", "3", "--max-auc-drop", "1", "--json"]
# The old gate asked for no more than this.
AS_BEFORE = ["--min-auc", "0", "--min-sensitivity", "0", "--max-openings", "99"]
REASON = ["--force", "--reason", "a test"]

SIMULATE = {"data phantom": ["data", "phantom", "--to", "images", "--num-images", "90",
                             "--size", "64"]}  # fmt: skip
# Typed into both programs. Versions: 1 is of the seeded study, 2 and 3 of the files.
LINES = {
    "data check": ["data", "check", "images", "--json"],
    "run seeded": _seeded("seeded"),
    "status": ["status", "seeded", "--json"],
    "evaluate seeded": ["evaluate", "seeded", "--json"],
    "promote refused": ["promote", "--json"],
    "promote forced": ["promote", *REASON, "--json"],
    "run files begun": _files(2),
    "evaluate files begun": ["evaluate", "files", "--json"],
    "promote files": ["promote", *REASON, "--json"],
    "run files": _files(4),
    "evaluate files": ["evaluate", "files", "--json"],
    "promote compared": PROMOTE_COMPARED,
    "rollback": ["rollback", "--json"],
    "models": ["models", "--json"],
    "studies": ["studies", "--json"],
    "predict": ["predict", "unseen", "--json"],
    "predict seeded": PREDICT_SEEDED,
    "replay": ["replay", "seeded", "5", "--json"],
    "export": ["export", "seeded", "--to", "seeded.csv"],
    "sync": ["sync", "--json"],
    "doctor": ["doctor", "--json"],
}
# Typed into the old program last; it is killed meanwhile.
KILLED = {"run killed": _seeded("killed")}
# Typed into this program, on the home that the old one left.
OPENED = {
    "status": LINES["status"],
    "models": LINES["models"],
    "predict": LINES["predict"],
    "predict seeded": PREDICT_SEEDED,
    "replay": LINES["replay"],
    "report": ["report", "seeded", "--to", "seeded.html"],
    "doctor before": ["doctor", "--json"],
    "evaluate seeded": LINES["evaluate seeded"],
    "promote compared": [*PROMOTE_COMPARED, *AS_BEFORE],
    "rollback": LINES["rollback"],
    "run files": _files(5),
    "run killed": KILLED["run killed"],
    "evaluate killed": ["evaluate", "killed", "--json"],
    "predict killed": ["predict", "unseen", "--model-uri",
                       "models:/busi-classifier-phantom@candidate", "--json"],
    "sync": LINES["sync"],
    "doctor": LINES["doctor"],
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """What a program made of the lines.

    Attributes:
        place: the folder they were typed in; ``home`` lies there.
        answers: by label of the line.
        record: answers, home and files as one JSON value.
        names: what stands for the random identities in it.
    """

    place: Path
    answers: Mapping[str, Answer]
    record: dict[str, Any]
    names: Mapping[str, str]

    @property
    def home(self) -> Path:
        return self.place / "home"

    @property
    def comparable(self) -> dict[str, Any]:
        """The record without random identities."""
        renamed: dict[str, Any] = rename(self.record, self.names)
        return renamed


def _on_home(lines: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {label: ["--home", "home", *words] for label, words in lines.items()}


def _record(place: Path, answers: Mapping[str, Answer]) -> Made:
    record = {
        **record_home(place / "home"),
        "answers": {label: _keyed(label, answer.result) for label, answer in answers.items()},
        "exit codes": {label: answer.code for label, answer in answers.items()},
        "table": _table(place / "seeded.csv"),
        "images": {
            path.relative_to(place).as_posix(): path.read_bytes().hex()
            for folder in ("images", "unseen")
            for path in sorted((place / folder).rglob("*.png"))
        },
    }
    return Made(place, answers, record, identities(record, place))


def _keyed(label: str, result: Any) -> Any:
    """Return an answer with lists to which anything may be added turned into objects."""
    if label == "studies":
        return {
            "bundled": dict.fromkeys(result["bundled"]),
            "run": {study["name"]: study for study in result["run"]},
        }
    if label == "doctor":
        return result | {"findings": {found["about"]: found for found in result["findings"]}}
    return result


def _table(path: Path) -> dict[str, list[str]]:
    """Return a CSV file by column."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {column: [row[column] for row in rows] for column in rows[0]}


@pytest.fixture(scope="module")
def old_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extract_old_program(tmp_path_factory.mktemp("old_program"))


@pytest.fixture(scope="module")
def made(old_program: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    """The same lines typed into the old program and this one, at the same time.

    The old one is killed in the end, within a trial of one more study.
    """
    programs = old_program, ROOT
    places = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("new")
    for program, place in zip(programs, places, strict=True):
        type_lines(program, SIMULATE, place)
        # Two classes are left to learn from, and images that no model has seen.
        shutil.move(place / "images" / "Dataset_BUSI_with_GT" / "normal", place / "unseen")
    old = start_typing(old_program, _on_home(LINES | KILLED), places[0])
    # All studies had one registered model.
    named = {k: [*v, "--set", "model='busi-classifier'"] for k, v in LINES.items() if v[0] == "run"}
    lines = LINES | named | {"promote compared": [*PROMOTE_COMPARED, *AS_BEFORE]}
    new = start_typing(ROOT, _on_home(lines), places[1])
    try:
        kill_within_a_trial(old, places[0] / "home" / "optuna.db", "killed", earliest=4)
        before = _record(places[0], old.answers())
        after = _record(places[1], new.wait())
    finally:
        end(old)
        end(new)
    assert before.answers.keys() == after.answers.keys() == LINES.keys()
    return before, after


@pytest.fixture(scope="module")
def before(made: tuple[Made, Made]) -> Made:
    """What the old program made."""
    return made[0]


@pytest.fixture(scope="module")
def after(made: tuple[Made, Made]) -> Made:
    """What this program made of the same."""
    return made[1]


@pytest.fixture(scope="module")
def opened(before: Made) -> Made:
    """The home of the old program after this one has worked on it."""
    answers = type_lines(ROOT, _on_home(OPENED), before.place)
    return _record(before.place, answers)


def _trials(made: Made, study: str) -> dict[str, Any]:
    found: dict[str, Any] = made.record["optuna"][study]["trials"]
    return found


def _check_same(old: Any, new: Any, place: str) -> None:
    """Fail with a line for everything in ``old`` that ``new`` has not, or has otherwise."""
    found = list(changes(old, new, PERMITTED, (place,)))
    assert not found, f"{len(found)} changes:\n" + "\n".join(found[:50])


def test_the_studies_have_trials_of_every_kind(before: Made) -> None:
    """Otherwise the comparison would say less than it seems to."""
    trials = _trials(before, "seeded").values()
    reasons = [trial["attributes"].get("prune_reason", "") for trial in trials]
    kinds = {
        "of a recipe": [t for t in trials if "recipe" in t["attributes"]],
        "complete, by the sampler": [
            t for t in trials if t["state"] == "COMPLETE" and "recipe" not in t["attributes"]
        ],
        "given up within a fold": [t for t in trials if "unfinished_fold" in t["attributes"]],
        "given up after a fold": [r for r in reasons if r.startswith("after")],
    }
    assert [kind for kind, found in kinds.items() if not found] == []
    states = [trial["state"] for trial in _trials(before, "files").values()]
    assert states.count("PRUNED") == 1
    assert [code for code in before.record["exit codes"].values() if code] == [3]
    assert before.answers["run files"].result["model"]["version"] == "3"
    assert before.answers["evaluate files"].result["against_champion"]["comparable"]


@pytest.mark.parametrize(
    "part",
    ["answers", "exit codes", "optuna", "experiments", "models", "ledgers", "layout", "table",
     "images"],
)  # fmt: skip
def test_the_same_lines_give_the_same(part: str, before: Made, after: Made) -> None:
    old, new = before.comparable[part], after.comparable[part]
    if part in ("optuna", "experiments"):
        # Only the old program was killed.
        del old["killed"]
    assert old
    _check_same(old, new, part)


def test_an_old_study_is_shown_as_it_was(before: Made, opened: Made) -> None:
    for label in ("status", "models", "replay"):
        _check_same(before.answers[label].result, opened.answers[label].result, label)
    assert all(fold["identical"] for fold in opened.answers["replay"].result["folds"])
    page = (before.place / "seeded.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert f"{before.answers['status'].result['best']:.3f}" in page


def test_an_old_model_answers_to_the_last_bit(before: Made, opened: Made) -> None:
    for label in ("predict", "predict seeded"):
        _check_same(before.answers[label].result, opened.answers[label].result, label)


def test_an_old_ledger_goes_on(before: Made, opened: Made) -> None:
    was, now = before.answers["evaluate seeded"].result, opened.answers["evaluate seeded"].result
    assert now["openings"] == was["openings"] + 1
    _check_same(was["test"], now["test"], "test")
    entries = opened.record["ledgers"]["seeded"]
    assert entries[: len(before.record["ledgers"]["seeded"])] == before.record["ledgers"]["seeded"]


def test_the_gate_reads_what_the_old_program_evaluated(before: Made, opened: Made) -> None:
    for label in ("promote compared", "rollback"):
        _check_same(before.answers[label].result, opened.answers[label].result, label)
    assert opened.answers["promote compared"].result["decision"] == "promoted"
    # Nothing was evaluated anew.
    assert opened.record["ledgers"]["files"] == before.record["ledgers"]["files"]


def test_an_old_study_is_continued(before: Made, opened: Made) -> None:
    was, now = _trials(before, "files"), _trials(opened, "files")
    assert {number: now[number] for number in was} == was
    assert len(now) == len(was) + 1
    assert opened.answers["run files"].result["trials"]["failed"] == 0
    runs = opened.record["experiments"]["files"]["runs"]
    assert {run["tags"]["busi.kind"] for run in runs.values()} == {"study", "trial"}
    assert len(runs) == 1 + len(now)
    assert {run["status"] for run in runs.values()} == {"FINISHED"}


def test_a_study_that_was_killed_ends_as_if_it_had_not_been(
    before: Made, after: Made, opened: Made
) -> None:
    states = [trial["state"] for trial in _trials(before, "killed").values()]
    assert states.count("RUNNING") == 1
    findings = opened.answers["doctor before"].result["findings"]
    problems = [found["about"] for found in findings if found["state"] == "problem"]
    assert set(problems) == {"study killed"}
    _check_same(_trials(before, "seeded"), _trials(opened, "killed"), "trials")
    for label in ("best", "corrected", "trials", "dataset"):
        was = before.answers["run seeded"].result[label]
        _check_same(was, opened.answers["run killed"].result[label], label)
    # This program registered the model.
    was, now = after.answers["evaluate seeded"].result, opened.answers["evaluate killed"].result
    _check_same(was["test"], now["test"], "test")
    was, now = after.answers["predict seeded"].result, opened.answers["predict killed"].result
    probabilities = [[one["probabilities"] for one in all_["predictions"]] for all_ in (was, now)]
    assert probabilities[0] == probabilities[1]
    assert now["model"]["version"] == opened.answers["run killed"].result["model"]["version"]


def test_a_killed_study_has_the_runs_of_one_that_was_not(before: Made, opened: Made) -> None:
    was = before.record["experiments"]["seeded"]["runs"]
    now = opened.record["experiments"]["killed"]["runs"]
    assert now.keys() == {"killed", *was} - {"seeded"}
    for name in was.keys() - {"seeded"}:
        for part in ("status", "params", "metrics", "files"):
            _check_same(was[name][part], now[name][part], name)
        assert was[name]["tags"].keys() <= now[name]["tags"].keys()
    assert now["killed"]["status"] == "FINISHED"
    assert was["seeded"]["metrics"].keys() <= now["killed"]["metrics"].keys()


def test_an_old_home_is_in_order_in_the_end(opened: Made) -> None:
    assert opened.answers["doctor"].result["ok"]
    assert [s["problem"] for s in opened.answers["sync"].result["studies"]] == [None] * 3
    codes = opened.record["exit codes"]
    assert {label for label, code in codes.items() if code} == {"doctor before"}
