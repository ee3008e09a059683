"""Who calls, and what they may do: callers, scopes, API keys, tokens of an identity provider."""

from shared.access.caller import ANONYMOUS, EVERY_SCOPE, NOBODY, ON_BEHALF_OF, Caller, CallerKind, Scope, bound_caller, current_caller

__all__ = ["ANONYMOUS", "EVERY_SCOPE", "NOBODY", "ON_BEHALF_OF", "Caller", "CallerKind", "Scope", "bound_caller", "current_caller"]
