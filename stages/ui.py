"""Show the runs in MLflow's own pages, or name the server that has them: `python -m stages.ui [PORT]`, as `make ui`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from http.client import HTTPConnection

from pipeline.runtime.errors import UserError
from pipeline.runtime.project import clone
from pipeline.tracking.live_run import open_store
from pipeline.tracking.place import address, place
from pipeline.tracking.saved_view import addresses
from pipeline.tracking.trouble import shown
from stages import run

HOST, DEFAULT = "127.0.0.1", "5000"


def main(port: str = DEFAULT) -> int:
    where = place()
    remote = isinstance(where, str) and where.startswith("http")
    if not remote:
        check_free(port)
        print("MLflow starts its pages, which takes some seconds ...", flush=True)
    store = open_store()
    pages = shown(where).rstrip("/") if remote else f"http://{HOST}:{port}"
    told = f"the runs: {addresses(pages, store.experiment_id, store.save_view())}"
    if remote:
        print(f"MLFLOW_TRACKING_URI names a server, which shows {told}")
        return 0
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", address(where), "--host", HOST]
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # its workers evaluate, which nothing here uses
    with subprocess.Popen([*command, "--port", port, "--workers", "1"], cwd=clone()) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        while server.poll() is None and not answers(int(port)):
            time.sleep(0.2)
        print(f"{told}\n(Ctrl-C ends it)" if server.poll() is None else "", flush=True)
        if port != DEFAULT:
            print(f"reports/index.html links here with report.mlflow_url: {pages} in params.yaml")
        return server.wait()


def answers(port: int) -> bool:
    """Return whether the server is ready; its socket is open long before."""
    with closing(HTTPConnection(HOST, port, timeout=5)) as connection, suppress(OSError):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def check_free(port: str) -> None:
    """Refuse a port that MLflow could not take: it would end with a traceback, or another program answers there."""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"PORT must be a number from 1 to 65535, got {port!r}; e.g. make ui PORT=5001")
    if trouble := taken(int(port)):
        free = next(other for other in range(5001, 65536) if not taken(other))
        raise UserError(f"port {port} cannot be used: {trouble}; take another one: make ui PORT={free}")


def taken(port: int) -> str:
    """Return what keeps us from a port, "" for none."""
    with socket.socket() as asked, socket.socket() as own:
        if asked.connect_ex((HOST, port)) == 0:
            return "another program answers there (on a Mac, AirPlay takes 5000)"
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as MLflow does: its last use may linger
        try:
            own.bind((HOST, port))
        except OSError as error:
            return str(error.strerror)
    return ""


if __name__ == "__main__":
    run(main)
