"""Serve a web page that shows the calibration of a running scan: growing maps, numbers, alarms.

The page requests `state.json` once a second. The server listens on 127.0.0.1 only and serves nothing else.
"""

from __future__ import annotations

import base64
import json
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Thread

import numpy as np

from ..core import PrenetError

HOST = "127.0.0.1"
MAX_MAP_SIDE = 256  # positions; largest side of a map that is sent: of a larger map, every n-th position is sent
MAX_REQUEST_GAP_S = 3.0  # seconds; longest time between requests of an open page, and wait for the last one at the end


@contextmanager
def served(port: int, name: str = ""):
    """Serve the page within the block.

    Parameters
    ----------
    port : int
        The port; 0 for any free one.
    name : str, optional
        Name of the scan.

    Yields
    ------
    address : str
        Address of the page.
    show : callable
        Takes the `Watcher` whose state is shown from now on.

    Raises
    ------
    PrenetError
        If the port cannot be used.
    """
    state, requested, latest = [json.dumps({"name": name}).encode()], [-np.inf], [-np.inf]

    class _Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.headers.get("Host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):
                return self._answer(403, "text/plain", b"")  # DNS rebinding: the name of another host leads here
            if self.path == "/":
                page = files(__package__).joinpath("watch.html")
                return self._answer(200, "text/html; charset=utf-8", page.read_bytes())
            if self.path == "/state.json":
                requested[0] = time.monotonic()
                return self._answer(200, "application/json", state[0])
            return self._answer(404, "text/plain", b"")

        def _answer(self, status, kind, content):
            self.send_response(status)
            for name, value in (("Content-Type", kind), ("Content-Length", len(content)), ("Cache-Control", "no-store"),
                                ("Content-Security-Policy", "default-src 'self' 'unsafe-inline'")):
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    def _show(watcher):
        state[0], latest[0] = json.dumps({"name": name} | state_of(watcher)).encode(), time.monotonic()

    try:
        server = ThreadingHTTPServer((HOST, port), _Handler)
    except (OSError, OverflowError) as problem:
        raise PrenetError(f"The port {port} cannot be used for the page ({problem}); choose another one.") from problem
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/", _show
        wait = MAX_REQUEST_GAP_S
        while requested[0] < latest[0] < requested[0] + wait and time.monotonic() < latest[0] + wait:
            time.sleep(0.05)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def state_of(watcher) -> dict:
    """Return what the page shows.

    Parameters
    ----------
    watcher : Watcher
        The scan that is watched.

    Returns
    -------
    dict
        Status, alarms, report and maps, in types of JSON.
    """
    status, snapshot = watcher.status, watcher.snapshot
    state = {name: getattr(status, name) for name in (
        "scan", "total", "written", "located", "lag", "rate", "drift", "row", "sigma", "dose", "ellipse", "descan",
        "judged", "reason", "state", "sentence", "complete", "note")}
    state["alarms"] = [{"kind": alarm.kind, "text": str(alarm), "over": alarm.over} for alarm in status.alarms]
    state["report"] = "" if watcher.report is None else str(watcher.report)
    state["maps"] = []
    if snapshot is not None and snapshot.noise is not None and snapshot.hidden:
        fed = snapshot.map(snapshot.fed)
        state["maps"] = [_encoded("Sum of each pattern", "detector units", snapshot.map(snapshot.total), fed, fed)]
    elif snapshot is not None and snapshot.beam is not None:
        valid = snapshot.valid
        position, signal = snapshot.map(snapshot.located.position), snapshot.map(snapshot.located.signal)
        known = snapshot.processed.reshape(snapshot.scan)
        state["maps"] = [_encoded("Beam position qx0", "px", position[0], valid, known, 2),
                         _encoded("Beam position qy0", "px", position[1], valid, known, 2),
                         _encoded("Electrons around the beam", "e", signal, valid, known)]
    return state


def _encoded(title, unit, values, valid, known, digits=0):
    """Encode a map as base64 bytes: 0 without a processed pattern, 1 without a beam, 2 to 255 from low to high.

    digits: decimals of low and high.
    """
    step = [max(1, -(-n // MAX_MAP_SIDE)) for n in values.shape]
    values, valid, known = (of[:: step[0], :: step[1]] for of in (values, valid, known))
    low, high = (float(v) for v in np.percentile(values[valid], [1, 99])) if valid.any() else (0.0, 1.0)
    scaled = (np.where(valid, values, low) - low) / max(high - low, 1e-9)
    levels = np.where(valid, np.clip(np.rint(2 + 253 * scaled), 2, 255), known).astype(np.uint8)
    return {"title": title, "unit": unit, "low": low, "high": high, "rows": levels.shape[0],
            "columns": levels.shape[1], "digits": digits, "dark": bool((levels == 1).any()),
            "levels": base64.b64encode(levels.tobytes()).decode()}
