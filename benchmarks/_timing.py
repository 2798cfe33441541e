"""How time is measured: compiling apart from running, and always side by side.

Speeds of a shared machine drift, so two measurements that were taken one after
the other say little. Here competitors take turns, in an order that is reversed
every round, and ratios are taken within a round before their median is.
"""

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


_METADATA = re.compile(r", metadata=\{[^}]*\}")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """An executable, and what it took to make.

    - `call`: the executable.
    - `lower_seconds`, `compile_seconds`: wall time of tracing and lowering, and of
        compiling; `lower_cpu`, `compile_cpu` the CPU time of all threads.
    - `instructions`, `lines`: of the optimized HLO module.
    - `memory`: bytes of temporaries, outputs and arguments.
    - `program`: these instructions, without remarks on where they come from.
    - `flops`: as the compiler counts them, or `None`. It counts the body of a loop
        once, and not what a library does.
    """

    call: Callable[..., Any]
    lower_seconds: float
    lower_cpu: float
    compile_seconds: float
    compile_cpu: float
    instructions: int
    lines: int
    memory: dict[str, int]
    program: str
    flops: float | None

    @property
    def seconds(self) -> float:
        """Wall time from the Python function to the executable."""
        return self.lower_seconds + self.compile_seconds

    @property
    def cpu_seconds(self) -> float:
        return self.lower_cpu + self.compile_cpu

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory.values())


@dataclasses.dataclass(frozen=True)
class Samples:
    """Wall and CPU seconds of one competitor, one entry a round."""

    wall: np.ndarray
    cpu: np.ndarray


def compile_ahead(fn: Callable, *args: Any) -> Compiled:
    """Compiles `fn` for these arguments, without the persistent cache."""

    def fresh(*args):  # not a function that JAX has seen before
        return fn(*args)

    with _no_persistent_cache():
        start = _clocks()
        lowered = jax.jit(fresh).lower(*args)
        middle = _clocks()
        executable = lowered.compile()
        end = _clocks()
    text = executable.as_text()
    instructions = _INSTRUCTION.findall(text)
    return Compiled(
        executable,
        *(middle - start),
        *(end - middle),
        instructions=len(instructions),
        lines=text.count("\n"),
        memory=_memory(executable),
        program=_METADATA.sub("", "\n".join(instructions)),
        flops=_flops(executable),
    )


def compile_interleaved(
    jobs: Mapping[str, tuple[Callable, Sequence[Any]]],
    *,
    rounds: int,
    warmup: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, list[Compiled]]:
    """Compiles every job once a round, competitors taking turns.

    The start-up of the compiler is paid by something unrelated, and `warmup` rounds
    are not counted: they pay for the traces of library functions that JAX caches.
    """
    compile_ahead(lambda x: jnp.tanh(x) @ x.T + x.sum(), jnp.ones((7, 5)))
    out: dict[str, list[Compiled]] = {name: [] for name in jobs}
    for turn in range(-warmup, rounds):
        for name in _order(list(jobs), turn):
            fn, args = jobs[name]
            compiled = compile_ahead(fn, *args)
            progress(f"compiled {name} in {compiled.seconds:.2f} s")
            if turn >= 0:
                out[name].append(compiled)
    return out


def time_interleaved(
    thunks: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 2,
    budget: float = float("inf"),
) -> dict[str, Samples]:
    """Calls every thunk once a round and waits for what it returns.

    **Arguments:**

    - `thunks`: the competitors by name.
    - `rounds`: how many times each is timed.
    - `warmup`: rounds before them that do not count.
    - `budget`: seconds after which no further round begins, once three were counted.
    """
    taken: dict[str, list[np.ndarray]] = {name: [] for name in thunks}
    begin = time.perf_counter()
    for turn in range(-warmup, rounds):
        if turn >= 3 and time.perf_counter() - begin > budget:
            break
        for name in _order(list(thunks), turn):
            start = _clocks()
            jax.block_until_ready(thunks[name]())
            elapsed = _clocks() - start
            if turn >= 0:
                taken[name].append(elapsed)
    return {name: Samples(*np.array(times).T) for name, times in taken.items()}


class Stepper:
    """Calls an executable again and again, each time on what it returned before."""

    def __init__(self, call, params, state, *rest):
        self.call, self.params, self.state, self.rest = call, params, state, rest

    def __call__(self):
        self.params, self.state = self.call(self.params, self.state, *self.rest)
        return self.params, self.state


def summary(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The median and the spread of some measurements."""
    array = np.asarray(values)
    low, q1, median, q3, p99, high = np.percentile(array, [0, 25, 50, 75, 99, 100])
    return {
        "median": float(median),
        "q1": float(q1),
        "q3": float(q3),
        "min": float(low),
        "max": float(high),
        "p99": float(p99),
        "samples": int(array.size),
    }


def ratio(
    values: Sequence[float] | np.ndarray, base: Sequence[float] | np.ndarray
) -> float:
    """The median of the ratios within each round."""
    values, base = np.asarray(values), np.asarray(base)
    if values.shape != base.shape:
        raise ValueError(
            "`values` and `base` must have one entry a round each; got "
            f"{values.shape} and {base.shape}."
        )
    return float(np.median(values / base))


def _order(names: list[str], turn: int) -> list[str]:
    return names if turn % 2 == 0 else names[::-1]


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


@contextlib.contextmanager
def _no_persistent_cache() -> Iterator[None]:
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)


def _memory(executable: Any) -> dict[str, int]:
    analysis = executable.memory_analysis()
    if analysis is None:  # some backends have none
        return {}
    return {
        "temporaries": int(analysis.temp_size_in_bytes),
        "outputs": int(analysis.output_size_in_bytes),
        "arguments": int(analysis.argument_size_in_bytes),
    }


def _flops(executable: Any) -> float | None:
    analysis = executable.cost_analysis() or {}
    return float(analysis["flops"]) if "flops" in analysis else None
