"""A table of what an optimizer does with each parameter."""

import contextlib
import contextvars

from .. import kron

_recorded: contextvars.ContextVar[list | None] = contextvars.ContextVar(
    "_recorded", default=None
)


def record_plan(plan: kron.Plan, blocks: kron.Blocks) -> None:
    """Tells `describe`, if it is listening, how `init` cuts its parameters."""
    plans = _recorded.get()
    if plans is not None:
        plans.append((plan, blocks))
