"""Bringing the system of compose up makes each secret once, keeps it readable by containers alone, and issues keys that are missing."""

from __future__ import annotations

import json
import re
import stat
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from deploy.compose import up

# Stands for Compose: notes what it is asked, and issues a key when asked for one.
COMPOSE = """\
import json, pathlib, sys
notes = pathlib.Path(sys.argv[1])
notes.write_text(notes.read_text() + json.dumps(sys.argv[2:]) + "\\n" if notes.exists() else json.dumps(sys.argv[2:]) + "\\n")
if "create" in sys.argv:
    print(json.dumps({"id": "key_1", "key": "a key for " + sys.argv[sys.argv.index("create") + 1]}))
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in for Compose notes what it is asked."""
    notes = tmp_path / "notes"
    monkeypatch.chdir(tmp_path)
    for name in ("SECRETS_FOLDER", "DATA_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "compose.py").write_text(COMPOSE)
    command = f"{sys.executable} {tmp_path / 'compose.py'} {notes}"
    monkeypatch.setattr(sys, "argv", ["up.py", "--compose", command, "--secrets", str(tmp_path / "secrets"), "trainer"])
    return notes


def asked(notes: Path) -> list[list[str]]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


def test_secrets_are_random_and_lie_in_a_closed_folder(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        up.make_secrets(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}
        password = (folder / "database_password").read_text()
        assert re.fullmatch(r"[0-9a-f]{48}", password)
        assert (folder / "lethe_database_url").read_text() == f"postgresql://lethe:{password}@database:5432/lethe"
        services = make_url((folder / "lethe_services_database_url").read_text())
        assert (services.username, services.host, services.database) == ("lethe_service", "database", "lethe")
        assert services.password not in {password, None}
    assert all((folders[0] / path.name).read_text() != path.read_text() for path in folders[1].iterdir())


def test_each_user_of_the_store_has_keys_that_no_other_has(tmp_path: Path) -> None:
    up.make_secrets(tmp_path)
    pairs = {
        user: [(tmp_path / f"{user}_s3_{half}_key").read_text() for half in ("access", "secret")] for user in (*up.STORE_USERS, "lethe")
    }
    assert len({key for pair in pairs.values() for key in pair}) == 14
    # What AWS issues is as long; longer ones not every server takes.
    assert [user for user in up.STORE_USERS if len(pairs[user][0]) > 20 or len(pairs[user][1]) != 40] == []


def test_secrets_of_an_older_installation_stay_what_they_are_and_are_joined_by_the_new_ones(tmp_path: Path) -> None:
    older = {
        "database_password": "older",
        "grafana_password": "older",
        "lethe_database_url": "postgresql://lethe:older@database:5432/lethe",
        "lethe_s3_access_key": "lethe-older",
        "lethe_s3_secret_key": "older-secret",
    }
    for name, secret in older.items():
        (tmp_path / name).write_text(secret)
    up.make_secrets(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in older} == older
    pairs = {f"{user}_s3_{half}_key" for user in up.STORE_USERS for half in ("access", "secret")}
    assert {path.name for path in tmp_path.iterdir()} == {*older, "lethe_services_database_url", *pairs}


def test_secret_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "database_password").write_text("of-the-hospital")
    up.make_secrets(tmp_path)
    assert (tmp_path / "database_password").read_text() == "of-the-hospital"
    assert ":of-the-hospital@" in (tmp_path / "lethe_database_url").read_text()


@pytest.mark.parametrize("password", ["s3cr/et@ward:1?", "100%25", "Prüfung 7"])
def test_password_of_any_letters_is_the_one_that_the_url_gives(tmp_path: Path, password: str) -> None:
    (tmp_path / "database_password").write_text(password + "\n", encoding="utf-8")
    up.make_secrets(tmp_path)
    url = make_url((tmp_path / "lethe_database_url").read_text())
    assert (url.password, url.host, url.database) == (password, "database", "lethe")


@pytest.mark.parametrize("line", ["SECRETS_FOLDER=elsewhere", "SECRETS_FOLDER='elsewhere'  # ours", "A=b\nSECRETS_FOLDER = elsewhere\nC=d"])
def test_secrets_lie_where_compose_looks_for_them(notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv[:3])
    (tmp_path / ".env").write_text(line + "\n")
    up.main()
    assert (tmp_path / "elsewhere" / "database_password").exists()
    monkeypatch.setenv("SECRETS_FOLDER", str(tmp_path / "shell"))
    up.main()
    assert (tmp_path / "shell" / "database_password").exists()
    monkeypatch.setenv("SECRETS_FOLDER", "")
    up.main()
    assert (tmp_path / "deploy" / "secrets" / "database_password").exists()
    assert asked(notes)[-1] == ["up", "--detach"]


def test_folder_of_data_is_the_operators(notes: Path, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATA_FOLDER=films\n")
    up.main()
    assert (tmp_path / "films").is_dir()
    assert asked(notes)


def test_tables_come_before_keys_and_keys_before_services(notes: Path, tmp_path: Path) -> None:
    up.main()
    first, *keys, last = asked(notes)
    assert first == ["run", "--rm", "bootstrap"]
    assert [command[:7] for command in keys] == [["run", "--rm", "-T", "--no-deps", "lethe", "key", "create"]] * 3
    assert last == ["up", "--detach", "trainer"]
    assert (tmp_path / "secrets" / "lethe_metrics_key").read_text() == "a key for prometheus"


def test_second_time_issues_no_key(notes: Path) -> None:
    up.main()
    before = len(asked(notes))
    up.main()
    assert asked(notes)[before:] == [["run", "--rm", "bootstrap"], ["up", "--detach", "trainer"]]
