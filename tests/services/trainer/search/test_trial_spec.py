"""What a trial's job is called: the same at every attempt, and fit for the id of a model."""

from __future__ import annotations

from services.trainer.search.trial_spec import search_of, trial_job_id, trial_jobs_of
from shared.catalog import new_id
from shared.catalog.ids import is_id


def test_ids_sort_by_number_and_make_ids_of_models() -> None:
    search = new_id("job")
    names = [trial_job_id(search, number) for number in (0, 9, 10, 999)]
    assert names == sorted(names)
    assert all(name.startswith(trial_jobs_of(search)) and len(name) <= 64 for name in names)
    assert all(is_id("model", name.replace("job_", "mdl_", 1)) for name in names)
    assert {search_of(name) for name in names} == {search}
    assert (search_of(search), search_of(f"{names[0]}-0")) == (None, None)
