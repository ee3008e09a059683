"""Quotas: how much each caller may ask for, counted in SQL so that all replicas count together."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Final, Literal

from sqlalchemy import ColumnElement, Connection, case, delete, update
from sqlalchemy.dialects import postgresql, sqlite

from shared.access.caller import Caller
from shared.access.quota_tables import QUOTA_USAGE
from shared.auditing import mark_prompts
from shared.database import Database
from shared.errors import LimitExceededError, QuotaExceededError
from shared.settings import Settings

Meter = Literal["requests", "images", "prompt-images"]

_MINUTE: Final = timedelta(minutes=1)
_DAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WHAT: Final[Mapping[Meter, str]] = {
    "requests": "requests a minute",
    "images": "images a day",
    "prompt-images": "images of one prompt and model a day",
}


@dataclass(frozen=True, slots=True)
class _Item:
    """So many units on one meter, of a window that is open now."""

    meter: Meter
    window_start: datetime
    subject: str
    amount: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What a caller was charged, to be given back if nothing comes of it."""

    caller: str
    items: tuple[_Item, ...]


class Quotas:
    """The quotas of every caller; those that are 0 limit nothing and cost nothing. Safe to share between threads.

    Windows are whole minutes and whole days in UTC: what was used of one is forgotten at its end.
    """

    def __init__(self, database: Database, settings: Settings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._settings = settings
        self._now = now
        self._limits: dict[Meter, int] = {
            "requests": settings.quota_requests_per_minute,
            "images": settings.quota_images_per_day,
            "prompt-images": settings.quota_images_per_prompt_per_day,
        }

    @property
    def count_requests(self) -> bool:
        """Whether requests are counted at all."""
        return self._limits["requests"] > 0

    def charge_request(self, caller: Caller) -> None:
        """Count one request; QuotaExceededError for one too many. What a service asks for somebody was counted at its own door."""
        if caller.kind != "service":
            self._charge(caller, [_Item("requests", self._window_start("requests"), "", 1)])

    def charge_images(self, caller: Caller, *, model: str, prompts: Sequence[str], images_per_prompt: int) -> Charge | None:
        """Count the images that a request asks for, in all and for each prompt and model, all or none of them.

        QuotaExceededError when too few are left today, LimitExceededError when no day allows as many.
        """
        items = []
        if self._limits["images"]:
            items.append(_Item("images", self._window_start("images"), "", len(prompts) * images_per_prompt))
        if self._limits["prompt-images"]:
            day = self._window_start("prompt-images")
            marks = Counter(mark["hmac"] for mark in mark_prompts([f"{model}\n{_plain(prompt)}" for prompt in prompts], self._settings))
            items += [_Item("prompt-images", day, mark, count * images_per_prompt) for mark, count in sorted(marks.items())]
        return self._charge(caller, items) if items else None

    def give_back(self, charge: Charge) -> None:
        """Take back what was charged, where its window is still known."""
        with self._database.writing() as connection:
            for item in charge.items:
                left = QUOTA_USAGE.c.used - item.amount
                connection.execute(update(QUOTA_USAGE).where(*_row_of(charge.caller, item)).values(used=case((left > 0, left), else_=0)))

    def _charge(self, caller: Caller, items: Sequence[_Item]) -> Charge:
        """Charge all items in one transaction, those of all callers in the same order, so that none waits for the other."""
        charge = Charge(caller=caller.on_behalf_of or caller.id, items=tuple(items))
        for item in items:
            if item.amount > self._limits[item.meter]:
                raise LimitExceededError(f"The request asks for {item.amount} at once; {self._told(item.meter)} are allowed.")
        with self._database.writing() as connection:
            for item in items:
                used = _add(connection, charge.caller, item, limit=self._limits[item.meter])
                if used is None:
                    raise QuotaExceededError(
                        f"The quota of {self._told(item.meter)} is used up, or what is left of it is too little.",
                        retry_after_seconds=self._seconds_left(item.meter),
                    )
                if used == item.amount:
                    _forget_before(connection, charge.caller, item)
        return charge

    def _told(self, meter: Meter) -> str:
        """A quota in words."""
        return f"{self._limits[meter]} {_WHAT[meter]}"

    def _window_start(self, meter: Meter) -> datetime:
        """Where the window that is open now began."""
        return _EPOCH + (self._now() - _EPOCH) // _length(meter) * _length(meter)

    def _seconds_left(self, meter: Meter) -> int:
        """Seconds until the open window ends, at least one."""
        return max(1, ceil((self._window_start(meter) + _length(meter) - self._now()).total_seconds()))


def _length(meter: Meter) -> timedelta:
    """How long a window lasts."""
    return _MINUTE if meter == "requests" else _DAY


def _plain(prompt: str) -> str:
    """The prompt as tokenizers take it: case, width and spaces make no other prompt."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def _row_of(caller: str, item: _Item) -> tuple[ColumnElement[bool], ...]:
    """Where an item is counted."""
    columns = QUOTA_USAGE.c
    return (
        columns.caller == caller,
        columns.meter == item.meter,
        columns.window_start == item.window_start,
        columns.subject == item.subject,
    )


def _add(connection: Connection, caller: str, item: _Item, *, limit: int) -> int | None:
    """Count an item unless that exceeds the limit; what is used now, or None."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    row = {"caller": caller, "meter": item.meter, "window_start": item.window_start, "subject": item.subject, "used": item.amount}
    after = QUOTA_USAGE.c.used + item.amount
    counted = insert(QUOTA_USAGE).values(row)
    counted = counted.on_conflict_do_update(index_elements=list(QUOTA_USAGE.primary_key), set_={"used": after}, where=after <= limit)
    used: int | None = connection.scalar(counted.returning(QUOTA_USAGE.c.used))
    return used


def _forget_before(connection: Connection, caller: str, item: _Item) -> None:
    """Remove what a caller used on a meter in windows that are over."""
    columns = QUOTA_USAGE.c
    over = (columns.caller == caller, columns.meter == item.meter, columns.window_start < item.window_start)
    connection.execute(delete(QUOTA_USAGE).where(*over))
