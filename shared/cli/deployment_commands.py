"""The commands that make a deployment's database and object store ready: migrate and bootstrap; both may be repeated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from shared.cli.console import ERRORS, print_facts
from shared.database import Database, ServicesRole, grant_services, require_lesser, services_role
from shared.errors import InvalidRequestError, UnavailableError
from shared.http.migrations import migrate as migrate_all
from shared.settings import Settings, get_settings
from shared.storage import open_store
from shared.storage.buckets import POLICIES, SERVICES, Buckets, bucket_policy, open_buckets
from shared.storage.minio_users import MinioUser, MinioUsers, read_users

_RETRY_SECONDS: Final = 1.0
_SIX_YEARS: Final = 2190  # days that records of access to patients' data are commonly kept

AnswerT = TypeVar("AnswerT")

Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that does not answer yet.")]


def migrate(wait: Wait = 60) -> None:
    """Bring the tables of LETHE_DATABASE_URL to this version, before its services start, and let LETHE_SERVICES_DATABASE_URL use them."""
    settings, patience = get_settings(), timedelta(seconds=wait)
    with closing(rightly_set(lambda: Database.open(settings))) as database:
        role = services_role_of(settings, database)
        if role is not None:
            patiently(lambda: require_lesser(database, role), patience)
        ran = patiently(lambda: migrate_all(database), patience)
        print_facts({f"tables of {name}": f"{steps} steps" if steps else "up to date" for name, steps in ran.items()})
        if role is not None:
            told = patiently(lambda: grant_services(database, role), patience)
            print_facts({f"{role.name}: {what}": outcome for what, outcome in told.items()})


def bootstrap(
    wait: Wait = 60,
    principal: Annotated[
        list[str] | None,
        typer.Option(
            help="Who a service is to the S3 server, to be granted its policy: trainer=arn:aws:iam:::user/trainer. May be repeated; "
            "those of LETHE_S3_PRINCIPALS unless given."
        ),
    ] = None,
    policies: Annotated[
        Path, typer.Option(help="Folder of the services' policies, to grant others than Lethe's own.", show_default=False)
    ] = POLICIES,
    minio_users: Annotated[
        Path | None,
        typer.Option(
            help="For MinIO and its forks, whose bucket policies know no users: make one for each service, the operator and backups, "
            "by the files trainer_s3_access_key, trainer_s3_secret_key and so on in this folder, with its policy."
        ),
    ] = None,
    audit_retention_days: Annotated[
        int, typer.Option(min=0, help="Days that an object of LETHE_AUDIT_BUCKET cannot be changed or deleted; 0 leaves it to its writers.")
    ] = _SIX_YEARS,
) -> None:
    """Make buckets and tables, and policies where users are named; with an operator's credentials, as often as one likes."""
    settings = get_settings()
    principals = read_principals(principal or settings.store_principals)
    grants = {settings.s3_bucket: bucket_policy(policies, principals, bucket=settings.s3_bucket)} if principals else {}
    if principals and settings.audit_bucket:
        grants[settings.audit_bucket] = bucket_policy(policies, principals, bucket=settings.audit_bucket, is_audit=True)
    users = rightly_set(lambda: read_users(minio_users, policies, settings)) if minio_users else []
    patience = timedelta(seconds=wait)
    if settings.store == "s3":
        with closing(rightly_set(lambda: open_buckets(settings))) as buckets:
            patiently(lambda: _prepare_buckets(buckets, settings, audit_retention_days), patience)
            for bucket, policy in grants.items():
                buckets.grant(bucket, policy)
                print_facts({f"{bucket}: policy": f"granted to {', '.join(sorted(principals))}"})
        if users:
            patiently(lambda: _make_users(settings, users), patience)
        warn_of_ungranted(set(SERVICES) - set(principals) - {user.name for user in users})
    found = patiently(lambda: _probe(settings), patience)
    print_facts({f"store: {capability}": "yes" if present else "no" for capability, present in found.items()})
    migrate(wait)


def warn_of_ungranted(services: Iterable[str]) -> None:
    """Say which services this run granted nothing, and what to do about it; by another tool, or an earlier run, they may have been."""
    if names := ", ".join(sorted(services)):
        ERRORS.print(
            f"No policy was granted to {names}: nobody says who they are to the S3 server. Name them in LETHE_S3_PRINCIPALS or by "
            "--principal (trainer=arn:…), make them by --minio-users, or attach shared/storage/policies by the server's own tool; "
            "see docs/storage.md.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def services_role_of(settings: Settings, owner: Database) -> ServicesRole | None:
    """The role that services have, where the settings name one."""
    url = settings.services_database_url
    return None if url is None else rightly_set(lambda: services_role(url.get_secret_value(), owner=owner))


def rightly_set(open_it: Callable[[], AnswerT]) -> AnswerT:
    """What the settings name; what is wrong with them is told in their own sentence."""
    try:
        return open_it()
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error


def read_principals(given: Sequence[str]) -> Mapping[str, str]:
    """Service and principal of each `service=principal`."""
    parted = [text.partition("=") for text in given]
    if not all(service and name for service, _, name in parted):
        raise typer.BadParameter("write service=principal", param_hint="--principal or LETHE_S3_PRINCIPALS")
    return {service: name for service, _, name in parted}


def patiently(ask: Callable[[], AnswerT], patience: timedelta) -> AnswerT:
    """Ask a server, which may still be starting, until it answers."""
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        try:
            return ask()
        except UnavailableError as error:
            if time.monotonic() >= deadline:
                raise
            ERRORS.print(f"{error} Asked again in {_RETRY_SECONDS:g} s.", markup=False, highlight=False, soft_wrap=True)
            time.sleep(_RETRY_SECONDS)


def _make_users(settings: Settings, users: Sequence[MinioUser]) -> None:
    """Users of a store that keeps policies by user."""
    with closing(MinioUsers.open(settings)) as made:
        for user in users:
            made.keep(user)
            print_facts({f"user of {user.name}": "has its policy"})


def _probe(settings: Settings) -> dict[str, bool]:
    """What the store can do now."""
    with closing(open_store(settings)) as store:
        return store.probe()


def _prepare_buckets(buckets: Buckets, settings: Settings, retention_days: int) -> None:
    """Both buckets, or the one for everything."""
    done = buckets.prepare(settings.s3_bucket, honours_conditions=lambda: _probe(settings)["conditional_put"])
    print_facts({f"{settings.s3_bucket}: {step}": told for step, told in done.items()})
    if settings.audit_bucket:
        done = buckets.prepare_audit(settings.audit_bucket, retention_days=retention_days)
        print_facts({f"{settings.audit_bucket}: {step}": told for step, told in done.items()})
