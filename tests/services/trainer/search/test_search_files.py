"""What a search keeps in the store for people to look at."""

from __future__ import annotations

from pathlib import Path

from services.trainer.search.loop import SearchLoop
from services.trainer.search.search_files import SearchFiles
from services.trainer.search.space import Space
from shared.storage.directory import DirectoryStore
from tests.services.trainer.search.toy import DIRECTIONS, MODULES, searched, spec_of, toy_rewards


def test_trials_and_summary_are_read_as_they_were_kept(tmp_path: Path) -> None:
    spec = spec_of(trials=5)
    loop = SearchLoop(Space.of(spec, MODULES), spec, DIRECTIONS)
    trials = searched(loop, toy_rewards(len(MODULES)))
    files = SearchFiles(DirectoryStore(tmp_path))
    assert (files.summary("job_1"), files.trials("job_1")) == (None, [])
    files.keep("job_1", trials, loop.summary())
    assert files.trials("job_1") == trials
    assert files.summary("job_1") == loop.summary()
    assert files.summary("job_2") is None
