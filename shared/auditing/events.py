"""What the audit log holds: one event per action, and its place in the chain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from shared.auditing.prompt_marks import PromptMark

# `read` is plain reading, of which only denials are told.
Action = Literal["generate", "train", "score", "mitigate", "download", "admin", "read"]

# done: released, or committed together with its event. begun: written before a change that cannot be committed together with it.
# refused, failed: came to nothing, by what was asked or by Lethe. denied: 401, 403 or 429.
Outcome = Literal["done", "begun", "refused", "failed", "denied"]

_LONGEST_NAME: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Who did what, when, to what, and how it ended; never a prompt, a key or a patient's name."""

    moment: datetime
    service: str
    action: Action
    outcome: Outcome
    caller: str
    caller_kind: str
    on_behalf_of: str | None = None
    route: str
    status: int | None = None
    resources: Mapping[str, str] = field(default_factory=dict)
    prompts: Sequence[PromptMark] = ()
    images: int = 0
    left_out: int = 0  # events like this one, of callers who showed nothing valid, that came just before and were not written
    trace_id: str | None = None

    def content(self) -> str:
        """The event as canonical JSON: one event has one text."""
        told = {
            "moment": self.moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "service": self.service,
            "action": self.action,
            "outcome": self.outcome,
            "caller": _printable(self.caller),
            "caller_kind": self.caller_kind,
            "on_behalf_of": None if self.on_behalf_of is None else _printable(self.on_behalf_of),
            "route": self.route,
            "status": self.status,
            "resources": dict(self.resources),
            "prompts": list(self.prompts),
            "images": self.images,
            "left_out": self.left_out,
            "trace_id": self.trace_id,
        }
        return json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedEvent:
    """An event as it is kept: its number from 1 on, its canonical JSON, its predecessor's hash, and its own."""

    sequence: int
    content: str
    previous: str
    hash: str

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON; content that somebody made unreadable is told as the text that it is."""
        try:
            event = json.loads(self.content)
        except ValueError:
            event = self.content
        return {"sequence": self.sequence, "event": event, "previous": self.previous, "hash": self.hash}


def _printable(name: str) -> str:
    """A caller's name, which an identity provider may have given, fit for every database and terminal."""
    return "".join(character if character.isprintable() else "?" for character in name[:_LONGEST_NAME])
