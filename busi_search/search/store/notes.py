"""Notes on trials, where optuna-dashboard shows them."""

from optuna.storages import BaseStorage

# optuna-dashboard keeps a note in pieces of so many letters.
_PIECE = 2045


def write_note(storage: BaseStorage, study_name: str, trial_id: int, text: str) -> None:
    """Leave a note on a trial, in Markdown; of a long one the beginning.

    It is written as ``optuna_dashboard.save_note`` does, which not everyone has installed.

    Args:
        storage: where the study is kept.
        study_name: its name.
        trial_id: name of the trial in the storage.
        text: of the note.
    """
    study_id = storage.get_study_id_from_name(study_name)
    storage.set_study_system_attr(study_id, f"dashboard:{trial_id}:note_str:0", text[:_PIECE])
    # Last: without a version there is no note.
    storage.set_study_system_attr(study_id, f"dashboard:{trial_id}:note_ver", 1)
