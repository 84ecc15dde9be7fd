"""The ledger of a sealed test cannot be shortened, forged or deleted unnoticed."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from busi_search.data.ledger import (
    Entry,
    anchor_of,
    ledger_path,
    make_entry,
    mendings,
    num_openings,
    read_ledger,
    write_entries,
)
from busi_search.errors import BusiSearchError
from busi_search.home import Home
from busi_search.search.mlflow.ledger_anchor import LEDGER_TAG
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.study_parts import Tracked
from busi_search.search.store.study_record import StudyRecord


@pytest.fixture
def tracked(home: Home) -> str:
    """Id of the MLflow run of a study that has begun."""
    client = MlflowClient(home.tracking_uri)
    experiment = client.create_experiment("busi", artifact_location=home.artifact_location)
    run_id = client.create_run(experiment).info.run_id
    study = optuna.create_study(study_name="busi", storage=open_storage(home))
    StudyRecord(study).set_tracked(Tracked(experiment, run_id))
    return run_id


@pytest.fixture
def opened(home: Home, tracked: str) -> list[Entry]:
    """The entries of a ledger after two openings."""
    ledger = SealLedger(home, "busi")
    for version in ("1", "2"):
        ledger.append("opened", {"version": version})
        ledger.append("figures", {"version": version, "auc": 0.7})
    assert in_mlflow(home, tracked) == anchor_of(ledger.entries())
    return ledger.entries()


def in_mlflow(home: Home, run_id: str) -> str | None:
    return MlflowClient(home.tracking_uri).get_run(run_id).data.tags.get(LEDGER_TAG)


def put(path: Path, entries: list[Entry]) -> None:
    path.unlink()
    write_entries(path, entries)


def forged(entries: list[Entry], **change: object) -> list[Entry]:
    """The same ledger with another first entry and hashes that fit."""
    made: list[Entry] = []
    for index, entry in enumerate(entries):
        content = {k: v for k, v in entry.items() if k not in ("index", "kind", "previous", "hash")}
        made.append(make_entry(made, entry["kind"], content | ({} if index else change)))
    return made


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_file_that_was_deleted_or_cut_is_written_again(
    home: Home, tracked: str, opened: list[Entry], left: int
) -> None:
    path = ledger_path(home, "busi")
    path.unlink()
    if left:
        write_entries(path, opened[:left])
    entries = SealLedger(home, "busi").entries()
    assert entries[:4] == opened
    (found,) = mendings(entries)
    assert f"{4 - left} of 4 entries were missing from its file" in found
    assert entries == read_ledger(path)
    assert in_mlflow(home, tracked) == anchor_of(entries)
    # It is said once and for good, and the openings count.
    assert SealLedger(home, "busi").append("opened", {})["index"] == 5
    assert SealLedger(home, "busi").num_openings() == 3
    assert mendings(SealLedger(home, "busi").entries()) == [found]


def test_a_forged_file_is_refused(home: Home, opened: list[Entry]) -> None:
    path = ledger_path(home, "busi")
    for entries in (forged(opened, version="9"), forged(opened, time="2020")[:2]):
        put(path, entries)
        assert read_ledger(path) == entries
        for use in (SealLedger(home, "busi").entries, SealLedger(home, "busi").num_openings,
                    lambda: SealLedger(home, "busi").append("opened", {})):  # fmt: skip
            with pytest.raises(BusiSearchError, match=r"was changed: .* contradict each other"):
                use()
        assert read_ledger(path) == entries


def test_an_edited_line_is_refused_and_the_way_out_works(home: Home, opened: list[Entry]) -> None:
    path = ledger_path(home, "busi")
    lines = path.read_text().splitlines(keepends=True)
    for broken in (
        lines[0] + lines[2],
        lines[0] + lines[1].replace('"1"', '"9"') + lines[2],
        "".join(lines[1:]),
        "".join(lines) + "{}\n",
        "".join(lines) + "7\n",
    ):
        path.write_text(broken)
        with pytest.raises(BusiSearchError, match=r"line \d of the test ledger was changed"):
            SealLedger(home, "busi").append("opened", {})
    path.rename(path.with_suffix(".old"))
    assert SealLedger(home, "busi").num_openings() == 2


def test_two_stores_that_were_cut_do_not_agree_with_the_third(
    home: Home, tracked: str, opened: list[Entry]
) -> None:
    put(ledger_path(home, "busi"), opened[:2])
    StudyRecord(find_study(home, "busi")).set_test_ledger(opened[:2])
    assert SealLedger(home, "busi", ask_mlflow=False).num_openings() == 1
    with pytest.raises(BusiSearchError, match="MLflow recorded 4 entries"):
        SealLedger(home, "busi").entries()
    # With the run's tag gone a version still knows.
    MlflowClient(home.tracking_uri).delete_tag(tracked, LEDGER_TAG)
    assert SealLedger(home, "busi").num_openings() == 1
    for tags in ({LEDGER_TAG: anchor_of(opened)}, {"busi.test_openings": "2"}):
        with pytest.raises(BusiSearchError, match="lacks entries"):
            SealLedger(home, "busi").check_version(tags)
    SealLedger(home, "busi").check_version({LEDGER_TAG: anchor_of(opened[:1])})
    StudyRecord(find_study(home, "busi")).set_test_ledger([opened[0], opened[2]])
    with pytest.raises(BusiSearchError, match="entry 2 in the study's storage"):
        SealLedger(home, "busi").entries()


def test_an_entry_whose_anchors_were_not_written_any_more_counts(
    home: Home, tracked: str, opened: list[Entry]
) -> None:
    path = ledger_path(home, "busi")
    write_entries(path, [make_entry(opened, "opened", {"version": "3"})])
    entries = SealLedger(home, "busi").entries()
    assert num_openings(entries) == 3
    assert mendings(entries)[0].endswith(
        "1 of 5 entries were in its file only, and were written into the study's storage"
    )
    assert StudyRecord(find_study(home, "busi")).test_ledger == entries == read_ledger(path)
    assert in_mlflow(home, tracked) == anchor_of(entries)


def test_a_ledger_that_is_older_than_its_anchors_is_anchored(home: Home, tracked: str) -> None:
    entries: list[Entry] = []
    for version in ("1", "2"):
        entries.append(make_entry(entries, "opened", {"version": version}))
    write_entries(ledger_path(home, "busi"), entries)
    assert SealLedger(home, "busi").entries() == entries
    assert StudyRecord(find_study(home, "busi")).test_ledger == entries
    assert in_mlflow(home, tracked) == anchor_of(entries)


def test_a_study_that_was_never_opened_keeps_nothing(home: Home, tracked: str) -> None:
    assert SealLedger(home, "busi").entries() == []
    assert StudyRecord(find_study(home, "busi")).test_ledger is None
    assert not ledger_path(home, "busi").exists()
    assert in_mlflow(home, tracked) is None


def test_mlflow_is_told_when_it_answers_again(
    home: Home, tracked: str, opened: list[Entry]
) -> None:
    away = replace(home, tracking_uri="http://127.0.0.1:9")
    entry = SealLedger(away, "busi").append("opened", {})
    assert in_mlflow(home, tracked) == anchor_of(opened)
    assert SealLedger(home, "busi").entries() == [*opened, entry]
    assert in_mlflow(home, tracked) == anchor_of([*opened, entry])
