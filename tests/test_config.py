"""The lab's server settings hold: as Streamlit reads them, and as the running server behaves."""

import json
import socket
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / ".streamlit/config.toml").read_text())
FLAT = [
    (f"{section}.{name}", value)
    for section, values in SETTINGS.items()
    for name, value in values.items()
    if not isinstance(value, dict)
]


@pytest.fixture(scope="module")
def loaded():
    """Every setting of config.toml as Streamlit reads it to run app.py, and what it prints about them."""
    program = (
        "import json, sys; from streamlit import config;"
        "from streamlit.web.bootstrap import load_config_options;"
        "load_config_options({});"
        "print(json.dumps({name: config.get_option(name) for name in json.loads(sys.argv[1])}))"
    )
    names = json.dumps([name for name, _ in FLAT])
    command = [sys.executable, "-c", program, names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


@pytest.mark.parametrize(("name", "value"), FLAT, ids=[name for name, _ in FLAT])
def test_streamlit_reads_the_setting(loaded, name, value):
    assert loaded[0][name] == value


def test_streamlit_knows_every_setting(loaded):
    assert "not a valid config option" not in loaded[1] and "deprecated" not in loaded[1].lower()


def test_the_settings_are_the_ones_that_were_decided():
    wanted = {
        "server.address": "127.0.0.1",
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.allowedHosts": ["localhost", "127.0.0.1"],
        "browser.gatherUsageStats": False,
        "runner.postScriptGC": False,
        "runner.fastReruns": False,
    }
    assert wanted.items() <= dict(FLAT).items()


def test_the_hidden_option_still_exists():
    """postScriptGC is in no documentation: when Streamlit drops it, this test is how we learn."""
    from streamlit import config

    assert isinstance(config.get_option("runner.postScriptGC"), bool)


def test_chart_colours_are_the_librarys():
    from cllab.plots import palette

    assert SETTINGS["theme"]["chartCategoricalColors"] == list(palette.TASK_COLOURS)


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 101), ("evil.example", 403)])
def test_only_this_machines_names_open_the_socket(lab_url, host, status):
    """A page of another site that resolves its name to 127.0.0.1 (DNS rebinding) must not reach the lab."""
    assert handshake(lab_url, host) == status


def test_the_server_listens_on_one_address_only(lab_url):
    """A server bound to every interface would answer on 127.0.0.2 as well."""
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", int(lab_url.rsplit(":", 1)[1])), timeout=5).close()


def test_the_lab_answers(lab_url):
    with urllib.request.urlopen(lab_url, timeout=20) as answer:
        assert answer.status == 200 and b"<html" in answer.read()


def handshake(url: str, host: str) -> int:
    """HTTP status that the server answers to a WebSocket handshake which names `host`."""
    port = int(url.rsplit(":", 1)[1])
    lines = [
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host}:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(1024).split()[1])
