"""What a measurement was taken with: versions, device, and how busy the machine was."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax


LIBRARIES = ("jaxla", "jax", "jaxlib", "optax", "numpy", "scipy")


def environment(peers: Iterable[str] = ()) -> dict[str, Any]:
    """Versions and machine, without the name of the machine and without paths.

    **Arguments:**

    - `peers`: distributions to tell the versions of, besides the usual ones.
    """
    versions = {name: version(name) for name in (*LIBRARIES, *peers)}
    return {
        "python": platform.python_version(),
        **{name: number or "not installed" for name, number in versions.items()},
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "machine": machine(),
        "XLA flags": os.environ.get("XLA_FLAGS", "") or "none",
        "default float": str(jax.numpy.ones([]).dtype),
    }


def version(distribution: str) -> str | None:
    """The version of an installed distribution, or `None`."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> str:
    """The processor in words, such as `AMD EPYC, 2 cores, Linux`."""
    cores = num_cpus()
    return f"{_processor()}, {cores} core{'s' * (cores != 1)}, {platform.system()}"


def num_cpus() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cores(number: int | None) -> None:
    """Keeps this process to so many cores, where the system can; all by default.

    Takes effect on XLA's threads as long as JAX has not computed anything.
    """
    if number is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def load_average() -> float | None:
    """The processes that wanted a core, on average over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()
