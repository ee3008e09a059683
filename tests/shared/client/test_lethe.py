"""All services behind one object."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.client.lethe import LetheClient
from shared.errors import ScreenerUnavailableError, UnavailableError
from shared.settings import Settings


def test_services_are_where_the_settings_say() -> None:
    settings = Settings(trainer_url="http://127.0.0.1:9", detector_url="http://127.0.0.1:7")
    with LetheClient.from_settings(settings) as client:
        assert {transport.service: transport.url for transport in client.transports} == {
            "trainer": "http://127.0.0.1:9",
            "sampler": "http://127.0.0.1:8002",
            "detector": "http://127.0.0.1:7",
            "mitigator": "http://127.0.0.1:8004",
        }


def test_key_of_the_settings_is_shown_to_all_services() -> None:
    with LetheClient.from_settings(Settings.model_validate({"api_key": "lethe_key"})) as client:
        shown = [transport._http.headers["Authorization"] for transport in client.transports]
    assert shown == ["Bearer lethe_key"] * 4


def test_services_that_do_not_get_ready_are_named() -> None:
    urls = dict.fromkeys(("trainer_url", "sampler_url", "detector_url", "mitigator_url"), "http://127.0.0.1:9")
    with LetheClient(**urls) as client, pytest.raises(UnavailableError, match=r"Not ready: trainer .*, sampler .*, detector .*, mitigator"):
        client.wait_until_ready(patience=timedelta(0))


def test_detector_that_is_away_is_plainly_away_to_a_caller_that_releases_nothing() -> None:
    with LetheClient.from_settings(Settings(detector_url="http://127.0.0.1:9")) as client, pytest.raises(UnavailableError) as caught:
        client.detector.list_calibrations()
    assert not isinstance(caught.value, ScreenerUnavailableError)
