"""Names of owners, and whether they are gone."""

from __future__ import annotations

import subprocess
import sys

from shared.jobs.leases import new_owner, owner_is_gone


def test_owner_of_this_process_is_there() -> None:
    assert not owner_is_gone(new_owner())


def test_owners_of_one_process_differ() -> None:
    assert new_owner() != new_owner()


def test_owner_whose_process_ended_is_gone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from shared.jobs.leases import new_owner; print(new_owner())"], capture_output=True, text=True, check=True
    )
    assert owner_is_gone(done.stdout.strip())


def test_owner_that_waits_to_be_reaped_is_gone() -> None:
    script = "from shared.jobs.leases import new_owner; print(new_owner(), flush=True)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()
        process.stdout.read()
        while not owner_is_gone(owner):
            assert process.returncode is None
        assert process.wait() == 0


def test_reused_process_id_is_another_owner() -> None:
    host, namespace, pid, _, token = new_owner().split("/")
    assert owner_is_gone(f"{host}/{namespace}/{pid}/1/{token}")


def test_owner_elsewhere_or_unknown_is_not_called_gone() -> None:
    _, namespace, _, _, token = new_owner().split("/")
    assert not owner_is_gone(f"other-host/{namespace}/1/1/{token}")
    assert not owner_is_gone(f"{new_owner().split('/')[0]}/other-namespace/1/1/{token}")
    assert not owner_is_gone("")
