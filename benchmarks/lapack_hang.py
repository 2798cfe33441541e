"""Does a program with several batched LAPACK calls end, and under which settings?"""

import os
import resource
import subprocess
import sys
import time
from typing import NamedTuple

from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table


QUESTION = """How many of some attempts to run one compiled program do not end, where it
holds two independent batched Cholesky factorizations and their gradient? On two cores of
the CPU, each attempt in a process of its own, with the settings that avoid it and
without them, and with the two calls stacked into one."""

LIMIT = 15
PROGRAM = """
import jax, jax.numpy as jnp

def separate(a, b):
    return jnp.linalg.cholesky(a).sum() + (jnp.linalg.cholesky(b) ** 2).sum()

def stacked(a, b):
    first, second = jnp.linalg.cholesky(jnp.stack([a, b]))
    return first.sum() + (second ** 2).sum()

x = jax.random.normal(jax.random.key(0), ({batch}, 16, 16))
a = x @ x.mT + 16 * jnp.eye(16)
step = jax.jit(jax.grad(lambda a: {calls}(a, a + jnp.eye(16))))
for _ in range({steps}):
    assert jnp.isfinite(step(a)).all()
"""
POOL = {"NPROC": "8"}
SCHEDULER = {"XLA_FLAGS": "--xla_cpu_enable_concurrency_optimized_scheduler=false"}
SETTINGS = {"none": {}, "both": POOL | SCHEDULER}
CASES = [
    ("separate", 512, "none"),
    ("separate", 512, "both"),
    ("stacked", 512, "none"),
    ("separate", 256, "none"),
    ("separate", 128, "none"),
    ("separate", 64, "none"),
]


class Attempt(NamedTuple):
    """How one process came to its end."""

    outcome: str  # "ended", "failed" or "killed", at the limit
    seconds: float
    cpu_seconds: float


def main(arguments=None):
    return run_script("lapack_hang", QUESTION, measure, arguments, cores=2)


def measure(settings: Settings) -> Findings:
    limit = settings.choose(LIMIT, 60)
    attempts = settings.num_rounds(6)
    rows, figures = [], []
    for calls, batch, setting in settings.choose(CASES, [("separate", 8, "both")]):
        program = PROGRAM.format(calls=calls, batch=batch, steps=settings.choose(100, 1))
        tried = [attempt(program, SETTINGS[setting], limit) for _ in range(attempts)]
        ended, failed, killed = (
            [a for a in tried if a.outcome == outcome]
            for outcome in ("ended", "failed", "killed")
        )
        what = f"calls {calls}, batch {batch}, settings: {setting}"
        say(f"{what}: {len(killed)} of {attempts} did not end within {limit} seconds")
        rows.append(
            (
                calls, batch, setting, attempts, len(killed), len(failed),
                max((a.seconds for a in ended), default=None),
                max((a.cpu_seconds for a in killed), default=None),
            )
        )  # fmt: skip
        if setting == "both" or calls == "stacked":
            figures.append(Figure(f"did not end, {what}", 0, len(killed)))
    columns = (
        "calls", "batch", "settings", "attempts", f"did not end in {limit} s", "failed",
        "longest s of those that ended", "longest CPU s of those that did not",
    )  # fmt: skip
    both = " and ".join(f"`{k}={v}`" for k, v in SETTINGS["both"].items())
    note = (
        f"Batches of 16 x 16 matrices in float32. Both settings: {both} in the "
        "environment. A process that has used little CPU time when it is ended is not "
        "slow: it waits."
    )
    return Findings([Table("Attempts", columns, rows, note)], figures)


def attempt(program: str, setting: dict[str, str], limit: float) -> Attempt:
    """Runs a program, and ends it after so many seconds."""
    env = {k: v for k, v in os.environ.items() if k not in POOL | SCHEDULER}
    start, before = time.perf_counter(), _cpu_of_children()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=env | {"JAX_PLATFORMS": "cpu"} | setting,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        outcome = "killed"
    else:
        outcome = "failed" if done.returncode else "ended"
        if done.returncode:
            say(f"exit status {done.returncode}: {done.stderr.strip()[-300:]}")
    seconds = time.perf_counter() - start
    return Attempt(outcome, seconds, _cpu_of_children() - before)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
