"""What works on this machine and home, and a fix for each problem."""

from busi_search.home import (
    Home,
)
from busi_search.search.store.errors import storage_errors
from busi_search.upkeep.finding import Finding
from busi_search.upkeep.home_findings import (
    caches,
    device,
    disk,
    leftovers,
    models,
    places,
    pretrained,
    storage,
    tracking,
)
from busi_search.upkeep.study_findings import examine_study, load_studies


def examine(home: Home, *, fix: bool = False) -> list[Finding]:
    """Look at everything a search depends on.

    Args:
        home: the home to look at.
        fix: mend what can be mended without a loss: put trials without a worker back into the
            queue, send MLflow what it missed and end its runs, remove stale temporary files.
    """
    moved = list(places(home, fix=fix))
    findings = [device(), disk(home), storage(home), tracking(home), *moved]
    if findings[2].state == "ok":
        with storage_errors(home):
            tracked = findings[3].state == "ok"
            for study in load_studies(home):
                findings += examine_study(home, study, tracked=tracked, fix=fix)
    if findings[3].state == "ok":
        findings += models(home)
    return [*findings, *pretrained(), *leftovers(home, fix=fix), *caches(home)]
