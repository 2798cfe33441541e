"""Settings that must stand before JAX computes anything, for tests and doctests."""

import importlib.metadata
import os

import pytest


if tuple(map(int, importlib.metadata.version("jax").split(".")[:2])) < (0, 11):
    # JAX 0.10 can wait forever on few cores where a graph holds several batched
    # LAPACK calls. A larger pool of threads and the older scheduler avoid it.
    os.environ.setdefault("NPROC", "8")
    scheduler = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {scheduler}".strip()

import jax


jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True, scope="session")
def _names_of_doctests(doctest_namespace):
    # Imported here: the type-checking import hook is not yet in place above.
    import optax

    import jaxla

    doctest_namespace.update(jaxla=jaxla, jax=jax, optax=optax)
