"""The trainer's routes: data sets in, models out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

import httpx
from pydantic import SecretStr

from shared.client.operations import ProgressCallback, ignore_progress, wait_for
from shared.client.replies import Film, Operation, Reply, Trial
from shared.client.transport import Transport
from shared.errors import UnavailableError

_PAGE_SIZE: Final = 200


class TrainerClient:
    """Calls to the trainer."""

    def __init__(
        self,
        url: str,
        *,
        deadline: timedelta = timedelta(seconds=60),
        key: SecretStr | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.transport = Transport(url, service="trainer", deadline=deadline, unavailable=UnavailableError, key=key, transport=transport)

    def register_dataset(self, spec: Mapping[str, Any]) -> Operation:
        """Start registering a data set."""
        return Operation.model_validate(self.transport.create("/v1/datasets", spec))

    def wait_for_dataset(self, dataset: str, *, on_progress: ProgressCallback = ignore_progress) -> Operation:
        """The data set once it is committed, with its manifest's figures."""
        return wait_for(self.transport, f"/v1/datasets/{dataset}", on_progress=on_progress)

    def get_dataset(self, dataset: str) -> Operation:
        """A data set as it is now."""
        return Operation.model_validate(self.transport.get(f"/v1/datasets/{dataset}"))

    def dataset_page(self, dataset: str) -> bytes:
        """A data set's summary for people, as HTML."""
        return self.transport.get_bytes(f"/v1/datasets/{dataset}/page")

    def list_datasets(self) -> list[Operation]:
        """The newest data sets."""
        return [Operation.model_validate(item) for item in self.transport.get("/v1/datasets")["items"]]

    def films(self, dataset: str, *, split: str | None = None) -> Iterator[Film]:
        """The records of a data set in order, page by page."""
        token: str | None = None
        while True:
            page = self.transport.get(f"/v1/datasets/{dataset}/records", split=split, page_size=_PAGE_SIZE, page_token=token)
            yield from (Film.model_validate(item) for item in page["items"])
            token = page.get("next_page_token")
            if token is None:
                return

    def film_png(self, dataset: str, record: int) -> bytes:
        """The picture of a record."""
        return self.transport.get_bytes(f"/v1/datasets/{dataset}/records/{record}/image")

    def train(self, spec: Mapping[str, Any]) -> Operation:
        """Start a training job."""
        return Operation.model_validate(self.transport.create("/v1/training-jobs", spec))

    def wait_for_training(self, job: str, *, on_progress: ProgressCallback = ignore_progress) -> Operation:
        """The job once its model is committed; the result names it."""
        return wait_for(self.transport, f"/v1/training-jobs/{job}", on_progress=on_progress)

    def cancel_training(self, job: str) -> Operation:
        """Ask a training job to stop."""
        return Operation.model_validate(self.transport.post(f"/v1/training-jobs/{job}/cancel", {}))

    def losses(self, job: str) -> list[Reply]:
        """A training's loss curves, one a phase."""
        return [Reply.model_validate(curve) for curve in self.transport.get(f"/v1/training-jobs/{job}/losses")["curves"]]

    def validation_steps(self, job: str) -> list[int]:
        """After which steps a training drew a strip."""
        return [int(step) for step in self.transport.get(f"/v1/training-jobs/{job}/validation")["steps"]]

    def validation_png(self, job: str, step: int) -> bytes:
        """The strip of a step."""
        return self.transport.get_bytes(f"/v1/training-jobs/{job}/validation/{step}")

    def search(self, spec: Mapping[str, Any]) -> Operation:
        """Start a search of parameters to tune."""
        return Operation.model_validate(self.transport.create("/v1/searches", spec))

    def wait_for_search(self, search: str, *, on_progress: ProgressCallback = ignore_progress) -> Operation:
        """The search once it is over; the result is the front that it found."""
        return wait_for(self.transport, f"/v1/searches/{search}", on_progress=on_progress)

    def get_search(self, search: str) -> Operation:
        """A search as it is now; until it has a result, `so_far` says what it found."""
        return Operation.model_validate(self.transport.get(f"/v1/searches/{search}"))

    def list_searches(self) -> list[Operation]:
        """The newest searches."""
        return [Operation.model_validate(item) for item in self.transport.get("/v1/searches")["items"]]

    def cancel_search(self, search: str) -> Operation:
        """Ask a search to stop; trials that are over are kept."""
        return Operation.model_validate(self.transport.post(f"/v1/searches/{search}/cancel", {}))

    def search_trials(self, search: str) -> list[Trial]:
        """All that a search tried so far."""
        return [Trial.model_validate(trial) for trial in self.transport.get(f"/v1/searches/{search}/trials")["trials"]]

    def search_report(self, search: str) -> bytes:
        """A search's report for people, as HTML."""
        return self.transport.get_bytes(f"/v1/searches/{search}/report")

    def search_picture(self, search: str, picture: str) -> bytes:
        """A picture of a search as PNG: front, masks or hypervolume."""
        return self.transport.get_bytes(f"/v1/searches/{search}/pictures/{picture}.png")

    def apply_search(self, search: str, body: Mapping[str, Any]) -> Operation:
        """Start a training job with what a search found."""
        return Operation.model_validate(self.transport.create(f"/v1/searches/{search}/apply", body))

    def import_model(self, spec: Mapping[str, Any]) -> Operation:
        """Start importing a diffusers folder."""
        return Operation.model_validate(self.transport.create("/v1/models/import", spec))

    def wait_for_import(self, job: str, *, on_progress: ProgressCallback = ignore_progress) -> Operation:
        """The import once its model is committed; the result names it."""
        return wait_for(self.transport, f"/v1/model-imports/{job}", on_progress=on_progress)

    def list_models(self) -> list[Reply]:
        """The newest models."""
        return [Reply.model_validate(item) for item in self.transport.get("/v1/models")["items"]]

    def get_model(self, model: str) -> Reply:
        """A model's manifest."""
        return Reply.model_validate(self.transport.get(f"/v1/models/{model}"))
