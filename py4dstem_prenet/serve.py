"""A small page on this machine that shows a scan under watch: maps that grow, numbers, alarms.

It asks for `state.json` once a second. The server listens on 127.0.0.1 only, and answers nothing else.
"""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Thread

import numpy as np

from .errors import PrenetError

HOST = "127.0.0.1"
SIDE = 256  # positions of a map that are shown along each axis, at most
PAGE = "watch.html"


@contextmanager
def served(port: int):
    """Serve the page within the block; yields `(address, show)`, `show` taking a `watch.Watcher` to be shown.

    port: 0 for any that is free. Raises PrenetError where it cannot be had.
    """
    state = [b"{}"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.headers.get("Host", "").rsplit(":", 1)[0] not in (HOST, "localhost"):
                return self._answer(403, "text/plain", b"")  # a page from elsewhere that gave us its name
            if self.path == "/":
                return self._answer(200, "text/html; charset=utf-8", files(__package__).joinpath(PAGE).read_bytes())
            if self.path == "/state.json":
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

    def show(watcher):
        state[0] = json.dumps(state_of(watcher)).encode()

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as problem:
        raise PrenetError(f"The port {port} cannot be used for the page ({problem}); choose another one.") from problem
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/", show
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def state_of(watcher) -> dict:
    """What the page shows, as JSON can hold it."""
    status, snapshot = watcher.status, watcher.snapshot
    state = {name: getattr(status, name) for name in (
        "total", "written", "located", "lag", "rate", "drift", "sigma", "dose", "ellipse", "descan", "state",
        "sentence")}
    state["alarms"] = [str(alarm) for alarm in status.alarms]
    state["report"] = "" if watcher.report is None else str(watcher.report)
    state["reason"], state["maps"] = "" if snapshot is None else snapshot.reason, []
    if snapshot is not None and snapshot.noise is not None and snapshot.hidden:
        state["maps"] = [_encoded("sums of patterns", snapshot.map(snapshot.total), snapshot.map(snapshot.fed), False)]
    elif snapshot is not None and snapshot.beam is not None:
        valid = snapshot.valid
        position, signal = snapshot.map(snapshot.located.position), snapshot.map(snapshot.located.signal)
        known = snapshot.known.reshape(snapshot.scan)
        state["maps"] = [_encoded("qx0, px (along rows)", position[0], valid, True),
                         _encoded("qy0, px (along columns)", position[1], valid, True),
                         _encoded("electrons around the beam", signal, known, False)]
    return state


def _encoded(title, values, known, diverging):
    """A map as bytes, base64: 0 where nothing is known, 1 to 255 from low to high."""
    step = [max(1, -(-n // SIDE)) for n in values.shape]
    values, known = values[:: step[0], :: step[1]], known[:: step[0], :: step[1]]
    low, high = (float(v) for v in np.percentile(values[known], [1, 99])) if known.any() else (0.0, 1.0)
    scaled = (np.where(known, values, low) - low) / max(high - low, 1e-9)
    levels = np.where(known, np.clip(np.rint(1 + 254 * scaled), 1, 255), 0).astype(np.uint8)
    return {"title": title, "low": low, "high": high, "rows": levels.shape[0],
            "columns": levels.shape[1], "diverging": diverging, "levels": base64.b64encode(levels.tobytes()).decode()}
