"""Starting the lab: from a shell, and from JupyterLab's launcher through jupyter-server-proxy."""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from importlib.metadata import entry_points

import pytest

from cllab import launch
from tests.tools.server import ROOT, stop, unused_port, wait_until_healthy


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert launch.free_port(port) > port
        with pytest.raises(OSError, match=f"no free port between {port} and {port}"):
            launch.free_port(port, tries=1)


def test_without_a_proxy_no_host_list_is_given_up():
    assert launch.streamlit_arguments(8501) == ["run", "app.py", "--server.port=8501"]


def test_behind_a_proxy_the_page_knows_its_path():
    arguments = launch.streamlit_arguments(9000, "/user/ada/cllab")
    assert "--server.baseUrlPath=user/ada/cllab" in arguments and "--server.allowedHosts=" in arguments


def test_outside_a_checkout_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "CHECKOUT", tmp_path)
    with pytest.raises(SystemExit, match="checkout of cllab"):
        launch.main([])


def test_jupyter_finds_the_entry_point():
    (found,) = [entry for entry in entry_points(group="jupyter_serverproxy_servers") if entry.name == "cllab"]
    entry = found.load()()
    assert entry["command"][:3] == [sys.executable, "-m", "cllab.launch"]
    assert not [part for part in entry["command"][1:] if str(ROOT) in part]
    assert entry["launcher_entry"]["title"] == "cllab lab"


@pytest.mark.slow
def test_the_lab_runs_beside_jupyter(tmp_path):
    """A real Jupyter server, started in another folder, offers the card and serves the lab under its path."""
    port = unused_port()
    private = {
        name: str(tmp_path) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
    }
    command = [sys.executable, "-m", "jupyter_server", f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1"]
    command += [
        "--ServerApp.base_url=/user/ada/",
        "--IdentityProvider.token=",
        "--allow-root",
        "--no-browser",
    ]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, **private},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            base = f"http://127.0.0.1:{port}/user/ada"
            wait_until_healthy(f"{base}/cllab/_stcore/health", process, log)
            with urllib.request.urlopen(f"{base}/server-proxy/servers-info", timeout=20) as answer:
                cards = {server["name"]: server["launcher_entry"] for server in json.load(answer)["server_processes"]}
            assert cards["cllab"]["title"] == "cllab lab"
            with urllib.request.urlopen(f"{base}/cllab/", timeout=20) as answer:
                assert b"<html" in answer.read()
        finally:
            stop(process)
