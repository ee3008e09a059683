"""What a search keeps in the store for people to look at."""

from __future__ import annotations

from pathlib import Path

from services.trainer.search.loop import SearchLoop
from services.trainer.search.search_files import SearchFiles
from services.trainer.search.space import Space
from shared.storage.directory import DirectoryStore
from tests.services.trainer.search.finished import finished
from tests.services.trainer.search.toy import DIRECTIONS, MODULES, searched, spec_of, toy_rewards


def test_trials_and_summary_are_read_as_they_were_kept(tmp_path: Path) -> None:
    spec = spec_of(trials=5)
    loop = SearchLoop(Space.of(spec, MODULES), spec, DIRECTIONS)
    trials = searched(loop, toy_rewards(len(MODULES)))
    files = SearchFiles(DirectoryStore(tmp_path))
    for is_settled in (False, True):
        assert (files.summary("job_1", is_settled=is_settled), files.trials("job_1", is_settled=is_settled)) == (None, [])
    files.keep("job_1", trials, loop.summary())
    for is_settled in (False, True):
        assert files.trials("job_1", is_settled=is_settled) == trials
        assert files.summary("job_1", is_settled=is_settled) == loop.summary()
    assert files.summary("job_2", is_settled=False) is None


def test_nothing_runs_of_a_search_that_is_settled_though_its_process_died_before_it_said_so(tmp_path: Path) -> None:
    summary, trials = finished()
    files = SearchFiles(DirectoryStore(tmp_path))
    files.keep("job_1", trials, summary)
    assert (files.trials("job_1", is_settled=False), files.summary("job_1", is_settled=False)) == (trials, summary)
    *others, last = files.trials("job_1", is_settled=True)
    assert others == trials[:-1]
    assert (last.state, last.reason) == ("cancelled", "It ended with its search.")
    told = files.summary("job_1", is_settled=True)
    assert told is not None
    assert told["trials"] == {"running": 0, "succeeded": 9, "pruned": 1, "failed": 1, "cancelled": 1}
    assert told | {"trials": None} == summary | {"trials": None}
