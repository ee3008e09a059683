"""The settings: what is read from the environment and what follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.errors import SettingsError
from shared.settings import Settings, get_settings, is_loopback


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


def test_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEYS", "TLS_CERTIFICATE", "SERVICE_KEY", "JOB_SLOTS", "SECRETS"):
        monkeypatch.setenv(f"LETHE_{name}", "")
    settings = Settings()
    assert (settings.keys, settings.tls_certificate, settings.service_key, settings.job_slots) == (None, None, None, 1)


def test_secrets_come_from_files_unless_the_environment_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lethe_s3_secret_key").write_text("from the file\n", encoding="utf-8")
    (tmp_path / "lethe_database_url").write_text("postgresql://file@db/lethe", encoding="utf-8")
    monkeypatch.setenv("LETHE_SECRETS", str(tmp_path))
    monkeypatch.setenv("LETHE_DATABASE_URL", "postgresql://environment@db/lethe")
    get_settings.cache_clear()
    settings = get_settings()
    get_settings.cache_clear()
    assert settings.s3_secret_key is not None
    assert settings.s3_secret_key.get_secret_value() == "from the file"
    assert settings.sql_url == "postgresql://environment@db/lethe"


@pytest.mark.parametrize("name", ["service_key", "api_key", "s3_access_key", "s3_secret_key", "database_url"])
def test_line_break_after_a_secret_is_no_part_of_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"LETHE_{name.upper()}", "open-sesame\n")
    assert getattr(Settings(), name).get_secret_value() == "open-sesame"


def test_folder_of_secrets_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_SECRETS", str(tmp_path / "absent"))
    get_settings.cache_clear()
    with pytest.raises(ValueError, match="LETHE_SECRETS"):
        get_settings()


@pytest.mark.parametrize(
    "given",
    [
        {"auth": "maybe"},
        {"trusted_proxies": "10.0.0.0/8, the proxy"},
        {"oidc_algorithms": "RS256, none"},
        {"oidc_algorithms": "HS256"},
        {"oidc_algorithms": ""},
        {"oidc_jwks_url": "http://identity.example/keys"},
        {"oidc_jwks_url": "file:///keys.json"},
        {"oidc_issuer": "https://identity.example", "oidc_jwks_url": "https://identity.example/keys"},
        {"oidc_issuer": "https://identity.example", "oidc_audience": "lethe"},
        {"tls_certificate": "tls.crt"},
        {"tls_key": "tls.key"},
    ],
)
def test_access_that_would_be_unsafe_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(given)


def test_refused_settings_show_no_secret() -> None:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"service_key": "open-sesame", "tls_key": "tls.key"})
    assert "open-sesame" not in str(raised.value)


def test_access_is_read(tmp_path: Path) -> None:
    settings = Settings(
        oidc_issuer="http://127.0.0.1:1",
        oidc_audience="lethe",
        oidc_jwks_url="http://127.0.0.1:1/keys",
        oidc_algorithms="ES256, EdDSA",
        trusted_proxies="10.0.0.0/8,192.0.2.7",
        tls_certificate=tmp_path,
        tls_key=tmp_path,
    )
    assert settings.signature_algorithms == ("ES256", "EdDSA")
    assert settings.proxy_networks == ("10.0.0.0/8", "192.0.2.7")


@pytest.mark.parametrize(
    ("host", "told"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("", False), ("lethe.local", False)],  # noqa: S104
)
def test_loopback_is_told_from_what_others_reach(host: str, *, told: bool) -> None:
    assert is_loopback(host) is told


def test_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    get_settings.cache_clear()
    first = get_settings()
    monkeypatch.setenv("LETHE_JOB_SLOTS", "7")
    assert get_settings() is first
    get_settings.cache_clear()
    assert get_settings().job_slots == 7
    get_settings.cache_clear()


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "ftp://host", "http://", "http://host:port", "http://[::1", "https://:8001"])
def test_address_of_a_service_that_nobody_can_ask_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="trainer_url"):
        Settings(trainer_url=url)


@pytest.mark.parametrize("value", ["http://user:quokka/1@host", "http://user:quokka@ho℀st", "http://host:quokka"])
@pytest.mark.parametrize("variable", ["LETHE_TRAINER_URL", "LETHE_OIDC_JWKS_URL", "LETHE_TRUSTED_PROXIES"])
def test_no_part_of_an_address_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    get_settings.cache_clear()
    with pytest.raises(SettingsError, match=f"^{variable} cannot be used: ") as raised:
        get_settings()
    assert "quokka" not in str(raised.value)


def test_settings_that_cannot_be_used_are_named_by_their_variables_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_JOB_SLOTS", "quokka")
    monkeypatch.setenv("LETHE_STORE", "wombat")
    get_settings.cache_clear()
    with pytest.raises(SettingsError, match=r"^LETHE_JOB_SLOTS cannot be used: [^.]+\. LETHE_STORE cannot be used: [^.]+\.$") as raised:
        get_settings()
    assert "quokka" not in str(raised.value)
    assert "wombat" not in str(raised.value)
