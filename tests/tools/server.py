"""The lab's server as a child process, for the browser tests and the screenshots."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def lab_server() -> Iterator[str]:
    """Serve the lab on a free port and yield its address; at the end its log must hold no traceback."""
    port = unused_port()
    command = [sys.executable, "-m", "cllab.launch", "--port", str(port), "--no-browser"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_healthy(f"{address}/_stcore/health", process, log)
            yield address
        finally:
            stop(process)
        text = _read(log)
        assert "Traceback" not in text, f"the lab's server printed an error:\n{text}"


def stop(process: subprocess.Popen, seconds: float = 10.0) -> None:
    """Ask a server that was started in its own session to end; end it and its children after `seconds`."""
    process.terminate()
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def unused_port() -> int:
    """A port that the operating system says is free: workers that start together get different ones."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(url: str, process: subprocess.Popen, log, seconds: float = 60.0) -> None:
    """Return once `url` answers "ok"; RuntimeError with the log when the process ends or the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            if urllib.request.urlopen(url, timeout=5).read() == b"ok":
                return
        time.sleep(0.2)
    raise RuntimeError(f"no answer from {url} (exit status {process.poll()}):\n{_read(log)[-4000:]}")


def _read(log) -> str:
    log.seek(0)
    return log.read()
