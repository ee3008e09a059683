"""Quotas: how much each caller may ask for, counted in SQL so that all replicas count together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Final, Literal

from sqlalchemy import ColumnElement, Connection, case, delete, select, tuple_, update
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

    def __init__(self, database: Database, settings: Settings, *, now: Callable[[], datetime] | None = None) -> None:
        self._database = database
        self._settings = settings
        self._now = now or _now
        self._limits: dict[Meter, int] = {
            "requests": settings.quota_requests_per_minute,
            "images": settings.quota_images_per_day,
            "prompt-images": settings.quota_images_per_prompt_per_day,
        }
        self._forgotten: dict[Meter, datetime] = {}

    @property
    def count_requests(self) -> bool:
        """Whether requests are counted at all."""
        return self._limits["requests"] > 0

    def charge_request(self, caller: Caller) -> None:
        """Count one request; QuotaExceededError for one too many. What a service asks for somebody was counted at its own door."""
        if caller.kind != "service":
            self._charge(caller, [_Item("requests", self._window_start("requests"), "", 1)])

    def charge_images(
        self, caller: Caller, *, model_digest: str, token_ids: Sequence[Sequence[int]], images_per_prompt: int
    ) -> Charge | None:
        """Count the images that a request asks for, in all and for each prompt and model, all or none of them.

        A prompt is what the model reads of it: the ids of its tokens, padded to the window.
        QuotaExceededError when too few are left today, LimitExceededError when no day allows as many.
        """
        items = []
        if self._limits["images"]:
            items.append(_Item("images", self._window_start("images"), "", len(token_ids) * images_per_prompt))
        if self._limits["prompt-images"]:
            day = self._window_start("prompt-images")
            read = [f"{model_digest}\n{','.join(map(str, ids))}" for ids in token_ids]
            marks = Counter(mark["hmac"] for mark in mark_prompts(read, self._settings))
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
        self._forget_what_is_over(items)
        with self._database.writing() as connection:
            for item in items:
                used = _add(connection, charge.caller, item, limit=self._limits[item.meter])
                if used is None:
                    raise QuotaExceededError(
                        f"The quota of {self._told(item.meter)} is used up, or what is left of it is too little.",
                        retry_after_seconds=self._seconds_left(item.meter),
                    )
        return charge

    def _forget_what_is_over(self, items: Sequence[_Item]) -> None:
        """Remove what anybody used in windows that are over, once for each, in a transaction that waits for no other."""
        for meter, start in {item.meter: item.window_start for item in items}.items():
            if self._forgotten.get(meter) != start:
                with self._database.writing() as connection:
                    _forget_before(connection, meter, start)
                self._forgotten[meter] = start

    def _told(self, meter: Meter) -> str:
        """A quota in words."""
        return f"{self._limits[meter]} {_WHAT[meter]}"

    def _window_start(self, meter: Meter) -> datetime:
        """Where the window that is open now began."""
        return _EPOCH + (self._now() - _EPOCH) // _length(meter) * _length(meter)

    def _seconds_left(self, meter: Meter) -> int:
        """Seconds until the open window ends, at least one."""
        return max(1, ceil((self._window_start(meter) + _length(meter) - self._now()).total_seconds()))


def _now() -> datetime:
    """The moment."""
    return datetime.now(UTC)


def _length(meter: Meter) -> timedelta:
    """How long a window lasts."""
    return _MINUTE if meter == "requests" else _DAY


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


def _forget_before(connection: Connection, meter: Meter, start: datetime) -> None:
    """Remove what was used on a meter before; rows that somebody else removes or changes now are left to the next time."""
    columns = QUOTA_USAGE.c
    key = list(QUOTA_USAGE.primary_key)
    over = select(*key).where(columns.meter == meter, columns.window_start < start).with_for_update(skip_locked=True)
    connection.execute(delete(QUOTA_USAGE).where(tuple_(*key).in_(over)))
