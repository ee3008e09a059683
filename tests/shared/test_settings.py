"""The settings: what is read from the environment and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.settings import Settings, get_settings


def test_empty_environment_gives_embedded_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.store == "directory"
    assert settings.sql_url == f"sqlite:///{tmp_path.resolve()}/var/lethe.db"
    assert settings.import_folders == []


def test_environment_overrides_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_DATABASE_URL", "postgresql+psycopg://lethe@127.0.0.1/lethe")
    monkeypatch.setenv("LETHE_BODY_LIMIT_BYTES", "2048")
    settings = Settings()
    assert settings.sql_url == "postgresql+psycopg://lethe@127.0.0.1/lethe"
    assert settings.body_limit_bytes == 2048


def test_import_roots_are_parted_and_resolved(tmp_path: Path) -> None:
    settings = Settings(import_roots=f"{tmp_path}/a/../b::{tmp_path}/c")
    assert settings.import_folders == [tmp_path.resolve() / "b", tmp_path.resolve() / "c"]


@pytest.mark.parametrize(("name", "value"), [("torch_threads", "-1"), ("job_slots", "0"), ("body_limit_bytes", "10"), ("store", "ftp")])
def test_setting_out_of_bounds_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})


def test_secret_key_does_not_show() -> None:
    settings = Settings.model_validate({"s3_secret_key": "open-sesame"})
    assert "open-sesame" not in repr(settings)
    assert settings.s3_secret_key is not None
    assert settings.s3_secret_key.get_secret_value() == "open-sesame"


def test_database_url_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_DATABASE_URL", "postgresql://lethe:open-sesame@db/lethe")
    assert "open-sesame" not in repr(Settings())


def test_keys_lie_in_the_home_unless_replicas_share_them(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).keys_folder == tmp_path.resolve()
    assert Settings(home=tmp_path, keys=tmp_path / "shared").keys_folder == tmp_path.resolve() / "shared"


def test_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    first = get_settings()
    monkeypatch.setenv("LETHE_JOB_SLOTS", "7")
    assert get_settings() is first
    get_settings.cache_clear()
    assert get_settings().job_slots == 7
    get_settings.cache_clear()
