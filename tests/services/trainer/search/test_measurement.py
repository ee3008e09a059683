"""What a model scores: numbers, or an error that names the figure."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from services.trainer.search import measurement
from services.trainer.search.measurement import measured
from shared.errors import ConflictError, JobCancelledError
from tests.denoisers import tiny_model
from tests.services.trainer.search.toy import estimates, spec_of


def test_figure_that_is_no_number_is_named_with_whose_it_is() -> None:
    found = mock.patch.object(measurement, "measure", return_value=estimates({"memorization": float("inf")}))
    with found, pytest.raises(ConflictError, match="The base's memorization is no finite number"):
        measured("base", tiny_model(), mock.Mock(), spec_of(), lambda: None)


def test_check_stops_the_first_pass_and_is_gone_afterwards() -> None:
    model = tiny_model()

    def stop() -> None:
        raise JobCancelledError("The job was cancelled.")

    def passes(looked_at: Any, *_told: Any) -> Any:
        return looked_at.unet(None)

    with mock.patch.object(measurement, "measure", passes), pytest.raises(JobCancelledError):
        measured("trial", model, mock.Mock(), spec_of(), stop)
    assert not model.unet._forward_pre_hooks
