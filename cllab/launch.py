"""Start the lab: `python -m cllab.launch` from a shell, and the card in JupyterLab's launcher.

Streamlit runs in this process (so Ctrl-C ends it); a thread waits until it answers, prints the address and
opens the browser.
"""

import argparse
import os
import runpy
import socket
import sys
import threading
import time
import urllib.request
import webbrowser
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> None:
    """Serve the lab until Ctrl-C; see `python -m cllab.launch --help` for the arguments."""
    options = _parser().parse_args(arguments)
    if not (CHECKOUT / "app.py").is_file():
        sys.exit("The lab runs from a checkout of cllab: install it with `pip install -e .[all]` inside one.")
    os.chdir(CHECKOUT)  # pages and .streamlit/config.toml are found from here
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    port = options.port if options.base_url else free_port(options.port)
    if port != options.port:
        print(f"Port {options.port} is taken; using {port}.", flush=True)
    threading.Thread(target=_announce, args=(port, options), daemon=True).start()
    sys.argv = ["streamlit", *streamlit_arguments(port, options.base_url)]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def streamlit_arguments(port: int, base_url: str = "") -> list[str]:
    """What follows `streamlit` on the command line; `base_url`: the path under which a proxy serves it."""
    arguments = ["run", "app.py", f"--server.port={port}"]
    if base_url:
        # The visitor's own host name passes through the proxy, which has already checked who asks.
        arguments += [f"--server.baseUrlPath={base_url.strip('/')}", "--server.allowedHosts="]
    return arguments


def free_port(first: int = 8501, tries: int = 100) -> int:
    """The first port from `first` on that nobody listens on; OSError when all `tries` are taken."""
    for port in range(first, min(first + tries, 65536)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {first} and {first + tries - 1}")


def jupyter_entry() -> dict:
    """What jupyter-server-proxy needs to start the lab beside JupyterLab and to show its card."""
    return {
        "command": [
            sys.executable,
            "-m",
            "cllab.launch",
            "--port",
            "{port}",
            "--base-url",
            "{base_url}cllab",
        ],
        "absolute_url": True,
        "timeout": 60,
        "launcher_entry": {"title": "cllab lab", "category": "Notebook"},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cllab.launch", description="Open the lab in the browser.")
    parser.add_argument("--port", type=int, default=8501, help="first port to try (default 8501)")
    parser.add_argument("--base-url", default="", help="path under which a proxy serves the lab (default: none)")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    return parser


def _announce(port: int, options: argparse.Namespace) -> None:
    """Wait until the server answers, then say where it is and open the browser where there is a screen."""
    address = f"http://127.0.0.1:{port}"
    _warm_up()
    while not _healthy(f"{address}/{options.base_url.strip('/')}"):
        time.sleep(0.1)
    if options.base_url:
        return
    print(f"\n  The lab is open at {address}  (Ctrl-C ends it)\n", flush=True)
    screen = (
        os.name == "nt" or sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if screen and not options.no_browser:
        webbrowser.open(address)


def _warm_up() -> None:
    """Load the largest thing that the pages need before anyone is invited: the first visitor would wait for it."""
    import torch

    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first optimiser loads half of torch


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/_stcore/health", timeout=2) as answer:
            return answer.read() == b"ok"
    except OSError:
        return False


if __name__ == "__main__":
    main()
