"""Two processes on one machine compute what one does."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest


WORKER = pathlib.Path(__file__).with_name("worker.py")
ROOT = WORKER.parents[2]
SECONDS = 90


@pytest.mark.timeout(SECONDS + 20)
def test_two_processes_equal_one(tmp_path):
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    address = f"127.0.0.1:{_free_port()}"
    commands = [
        ["none", "1", "0", one],
        [address, "2", "0", two],
        [address, "2", "1", two],
    ]
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_worker(args, tmp_path / f"{i}.log"))
            for i, args in enumerate(commands)
        ]
        _wait(workers, tmp_path)
    with np.load(one) as expected, np.load(two) as actual:
        assert set(actual) == set(expected) == {"bias", "cols", "rows", "roots"}
        for name in expected:
            np.testing.assert_allclose(
                actual[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name
            )


@contextlib.contextmanager
def _worker(args, log):
    """A process that does not outlive the test."""
    # No flags of this process: the number of its devices, for instance.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    env |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, WORKER, *args]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(workers, logs):
    """Until all are done; the first that fails ends the test, as the clock does."""
    deadline = time.monotonic() + SECONDS
    while any(worker.poll() is None for worker in workers):
        failed = any(worker.poll() for worker in workers)
        if failed or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    codes = [worker.poll() for worker in workers]
    told = "\n".join(f"{log.name}:\n{log.read_text()}" for log in logs.glob("*.log"))
    assert codes == [0, 0, 0], f"exit codes {codes} (None: out of time)\n{told}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
