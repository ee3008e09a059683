"""lethe key: made, listed, rotated, revoked; shown once, told in the audit log."""

from __future__ import annotations

import json
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared.access.key_records import KeyRecords
from shared.auditing import Anchors, AuditLog
from shared.database import Database
from shared.errors import UnauthenticatedError, UnavailableError
from shared.settings import Settings, get_settings

if TYPE_CHECKING:
    from tests.shared.cli.conftest import Lethe


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own."""
    monkeypatch.setenv("LETHE_HOME", str(tmp_path / "home"))
    get_settings.cache_clear()
    return tmp_path / "home"


def opens_to(home: Path, key: str) -> dict[str, Any]:
    """The caller of a key, as a service would find it."""
    settings = Settings(home=home)
    with closing(Database.open(settings)) as database:
        try:
            caller = KeyRecords.of(settings, database).caller_of(key)
        except UnauthenticatedError as error:
            return {"refused": error.reason}
    return {"id": caller.id, "kind": caller.kind, "scopes": sorted(caller.scopes)}


def made(lethe: Lethe, *arguments: str) -> dict[str, str]:
    """What a command that makes a key prints."""
    assert lethe("key", *arguments, "--json") == 0, lethe.err
    shown: dict[str, str] = json.loads(lethe.out)
    return shown


def test_created_key_is_shown_and_opens(lethe: Lethe, home: Path) -> None:
    assert lethe("key", "create", "ward a", "--scope", "read", "--scope", "score") == 0
    shown = dict(line.split(maxsplit=1) for line in lethe.out.splitlines())
    assert opens_to(home, shown["key"]) == {"id": shown["id"], "kind": "key", "scopes": ["read", "score"]}


def test_key_of_a_service_is_marked(lethe: Lethe, home: Path) -> None:
    shown = made(lethe, "create", "mitigator", "--scope", "score", "--service", "--days", "0")
    assert opens_to(home, shown["key"])["kind"] == "service"


def test_key_in_a_file_is_its_owners_only_and_made_once(lethe: Lethe, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "lethe_service_key"
    arguments = ("key", "create", "mitigator", "--scope", "score", "--into", str(path))
    assert lethe(*arguments) == 0
    text = path.read_text(encoding="utf-8")
    assert text.strip() not in lethe.out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert lethe(*arguments) == 0
    assert "already" in lethe.out
    assert path.read_text(encoding="utf-8") == text
    assert opens_to(home, text.strip())["scopes"] == ["score"]


@pytest.mark.parametrize("held", ["", "not a key\n", "lethe_000000000000_" + "A" * 43])
def test_file_without_a_valid_key_gets_one(lethe: Lethe, home: Path, tmp_path: Path, held: str) -> None:
    path = tmp_path / "lethe_api_key"
    path.write_text(held, encoding="utf-8")
    assert lethe("key", "create", "ward a", "--scope", "read", "--into", str(path)) == 0
    assert opens_to(home, path.read_text(encoding="utf-8").strip())["kind"] == "key"


def test_file_that_cannot_be_written_is_told(lethe: Lethe, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert lethe("key", "create", "ward a", "--scope", "read", "--into", str(tmp_path / "file" / "key")) == 2
    words = " ".join(lethe.err.split())
    assert "cannot be written" in words
    assert lethe("key", "list", "--json") == 0
    (made_in_vain,) = json.loads(lethe.out)
    assert f"rotate {made_in_vain['id']} into another file, or revoke it" in words


def test_list_shows_no_secret(lethe: Lethe) -> None:
    shown = made(lethe, "create", "ward a", "--scope", "read")
    assert lethe("key", "list") == 0
    _, prefix, secret = shown["key"].split("_", 2)
    assert prefix in lethe.out
    assert "ward a" in lethe.out
    assert "valid" in lethe.out
    assert secret not in lethe.out
    assert lethe("key", "list", "--json") == 0
    (record,) = json.loads(lethe.out)
    assert (record["id"], record["scopes"], record["revoked"]) == (shown["id"], ["read"], None)
    assert [(held["prefix"], held["last_used"]) for held in record["secrets"]] == [(prefix, None)]
    assert secret not in lethe.out


def test_list_can_be_read_on_a_narrow_terminal_and_piped(lethe: Lethe) -> None:
    scopes = ("generate", "mitigate", "read", "score")
    shown = made(lethe, "create", "ward a", *(word for scope in scopes for word in ("--scope", scope)))
    assert lethe("key", "list") == 0
    (row,) = (line for line in lethe.out.splitlines() if shown["id"] in line)
    assert row.split("│")[2].split() == list(scopes)
    lethe.on_a_terminal(80)
    assert lethe("key", "list") == 0
    lines = lethe.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == f"id {shown['id']}"
    assert f"scopes: {' '.join(scopes)}" in lethe.out


def test_rotated_key_overlaps_with_the_one_before(lethe: Lethe, home: Path) -> None:
    first = made(lethe, "create", "ward a", "--scope", "read")
    second = made(lethe, "rotate", first["id"])
    assert opens_to(home, first["key"]) == opens_to(home, second["key"])
    third = made(lethe, "rotate", first["id"], "--overlap-hours", "0")
    refused = {"refused": "expired"}
    assert [opens_to(home, each["key"]) == refused for each in (first, second, third)] == [True, True, False]
    assert lethe("key", "list") == 0
    assert lethe.out.count("expired") == 2


def test_revoked_key_opens_no_more(lethe: Lethe, home: Path) -> None:
    shown = made(lethe, "create", "ward a", "--scope", "read")
    assert lethe("key", "revoke", shown["id"]) == 0
    assert opens_to(home, shown["key"]) == {"refused": "revoked"}
    assert lethe("key", "list") == 0
    assert "revoked" in lethe.out
    assert lethe("key", "rotate", shown["id"]) == 1


def test_unknown_key_and_scope_are_told(lethe: Lethe) -> None:
    assert lethe("key", "revoke", "key_none") == 1
    assert "key_none" in lethe.err
    assert lethe("key", "create", "ward a", "--scope", "root") == 2
    assert "'root'" in lethe.err


def test_each_change_is_in_the_audit_log(lethe: Lethe, home: Path) -> None:
    shown = made(lethe, "create", "ward a", "--scope", "read")
    made(lethe, "rotate", shown["id"])
    assert lethe("key", "revoke", shown["id"]) == 0
    log = AuditLog.open(Settings(home=home))
    told = [json.loads(event.content) for event in log.read()]
    log.close()
    assert [(event["action"], event["route"]) for event in told] == [
        ("admin", f"lethe key {verb}") for verb in ("create", "rotate", "revoke")
    ]
    assert [event["resources"] for event in told] == [{"key": shown["id"]}] * 3


def test_change_is_anchored_and_looking_is_not(lethe: Lethe, home: Path) -> None:
    shown = made(lethe, "create", "ward", "--scope", "read")
    assert lethe("key", "revoke", shown["id"]) == 0
    assert lethe("key", "list") == 0
    with closing(Anchors.open(Settings(home=home))) as anchors:
        assert [anchor.sequence for anchor in anchors.read()] == [1, 2]


def test_key_is_handed_over_where_the_log_cannot_be_anchored(lethe: Lethe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_anchors: Anchors, _head: object) -> None:
        raise UnavailableError("The object store does not answer.")

    monkeypatch.setattr(Anchors, "write", refuse)
    assert lethe("key", "create", "ward", "--scope", "read") == 0
    assert "key" in lethe.out
    assert "was not anchored" in lethe.err
