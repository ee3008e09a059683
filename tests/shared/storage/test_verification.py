"""A digest that does not match is counted once and raised."""

from __future__ import annotations

from typing import get_args

import pytest
from prometheus_client import REGISTRY

from shared.errors import IntegrityError
from shared.storage.verification import VerifiedKind, count_failure, integrity_failure, verify_digest


def failures(kind: str) -> float:
    return REGISTRY.get_sample_value("lethe_storage_verification_failures_total", {"kind": kind}) or 0.0


def test_every_kind_is_shown_before_its_first_failure() -> None:
    shown = [REGISTRY.get_sample_value("lethe_storage_verification_failures_total", {"kind": kind}) for kind in get_args(VerifiedKind)]
    assert None not in shown


def test_equal_digests_pass_uncounted() -> None:
    before = failures("object")
    verify_digest(what="The object", kind="object", expected="aa", actual="aa")
    assert failures("object") == before


def test_other_digest_is_counted_and_raised() -> None:
    before = failures("manifest")
    with pytest.raises(IntegrityError, match="The manifest of model mdl_1 is not what was committed"):
        verify_digest(what="The manifest of model mdl_1", kind="manifest", expected="aa", actual="ab")
    assert failures("manifest") == before + 1


def test_failure_is_counted_by_kind() -> None:
    before = failures("cache"), failures("object")
    count_failure("cache")
    assert isinstance(integrity_failure("The object", kind="object"), IntegrityError)
    assert (failures("cache"), failures("object")) == (before[0] + 1, before[1] + 1)
