"""The audit log: append-only, chained events of what callers did, and the marks that stand for their prompts."""

from shared.auditing.administration import record_administration
from shared.auditing.anchors import Anchor, Anchors
from shared.auditing.events import Action, AuditEvent, ChainedEvent, Outcome
from shared.auditing.log import AuditLog
from shared.auditing.prompt_marks import PromptMark, mark_prompts
from shared.auditing.tables import AUDIT_SCHEMA
from shared.auditing.verification import Finding, Verification, verify_log
from shared.auditing.writer import AuditWriter

__all__ = [
    "AUDIT_SCHEMA",
    "Action",
    "Anchor",
    "Anchors",
    "AuditEvent",
    "AuditLog",
    "AuditWriter",
    "ChainedEvent",
    "Finding",
    "Outcome",
    "PromptMark",
    "Verification",
    "mark_prompts",
    "record_administration",
    "verify_log",
]
