"""A trial that a worker has taken."""

from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from busi_search.search.store.open import is_owner
from busi_search.search.store.queue import this_worker


@dataclass(frozen=True)
class Claim:
    """A trial that this process has taken, and what the storage says about it now.

    Attributes:
        storage: where the trial is kept.
        trial_id: the storage's own number of the trial.
        trial: what its hyperparameters are sampled with.
    """

    storage: BaseStorage
    trial_id: int
    trial: optuna.Trial

    def frozen(self) -> FrozenTrial:
        """Return the trial as it is stored now: by identity, for the list of all trials grows."""
        return self.storage.get_trial(self.trial_id)

    def is_mine(self) -> bool:
        """Return whether no other worker has taken the trial over."""
        return is_owner(self.storage, self.trial_id, this_worker())
