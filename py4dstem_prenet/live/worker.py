"""A process of its own for work that takes seconds, at a low priority: what cannot wait goes on undisturbed.

Two threads of Python share one interpreter: beside one that learns, locating patterns is half as fast even where a
core is free for it. The process is a fresh interpreter at the other end of two pipes. It imports nothing of the user's
program, so that it works from notebooks and from scripts without a guard, on every system; and it ends when the pipe
to it does, so that none is left behind even where this process is killed. Only what these two processes write to each
other is ever unpickled.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import weakref
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from ..core import PrenetError

NICE = 5  # a third of the share of a core that a process of usual priority gets, where both want it
STARTED = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from {} import serve; serve()"
PATIENCE = 60.0  # seconds that a start may take; it takes a few where the machine is not busy
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Worker:
    """Calls functions in a process of its own; here, as long as that has not started, and once it has died.

    prepare: is called there first, with `args`; until it has returned, the process counts as not started. It takes
    seconds to import torch: who has the time, waits for that (`wait`). None: no process, all is done here.

    Functions are the package's own; what they take and return can be pickled.
    """

    def __init__(self, prepare, *args):
        self._lock, self._answers, self._ready, self._process = Lock(), SimpleQueue(), False, None
        if prepare is None or not sys.executable or getattr(sys, "frozen", False):  # frozen: within another program
            return
        lowered = {"creationflags": subprocess.BELOW_NORMAL_PRIORITY_CLASS} if os.name == "nt" else {}
        with suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", STARTED.format(__name__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env=os.environ | dict.fromkeys(LIBRARIES, "1"), **lowered)
            weakref.finalize(self, _end, self._process)
            Thread(target=_listen, args=(self._process.stdout, self._answers), daemon=True).start()
            _send(self._process, sys.path)
            _send(self._process, (prepare, args))

    @property
    def pid(self) -> int | None:
        """Of the process; None where there is none (any more)."""
        return None if self._process is None else self._process.pid

    def wait(self):
        """Wait until the process has started, has failed to, or has been closed; `PATIENCE` seconds at most."""
        with self._lock:
            self._is_up(PATIENCE)

    def call(self, function, *args):
        """What the function returns. Raises what it raises; PrenetError where `close` was called meanwhile."""
        with self._lock:
            process = self._process
            if self._is_up():
                try:
                    _send(process, (function, args))
                except Exception:  # it is gone, or something cannot be sent
                    _end(process)
                if (answer := self._answers.get()) is not None:
                    if answer[0]:
                        return answer[1]
                    raise answer[1]
                if self._process is None:
                    raise PrenetError("The process that was asked has been closed.")
                _end(process)
                self._process = None  # it died: from now on here
        return function(*args)

    def close(self):
        """End the process, whatever it does; later calls are made here."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _is_up(self, patience=0.0):
        if self._process is not None and not self._ready:
            with suppress(Empty):
                answer = self._answers.get(timeout=patience)
                self._ready = answer is not None and answer[0]
                if not self._ready:
                    self.close()
        return self._process is not None and self._ready


def _send(process, message):
    pickle.dump(message, process.stdin, protocol=5)
    process.stdin.flush()


def _listen(stream, answers):
    """Hand on what the process answers, and None when it ends."""
    with suppress(Exception), stream:  # half a message, too, is the end
        while True:
            answers.put(pickle.load(stream))
    answers.put(None)


def _end(process):
    process.kill()
    process.wait()
    with suppress(OSError):
        process.stdin.close()


# --- the other side
def serve():
    """Do what the other process asks, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints must not come between the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process, which then ends this one
    asked = SimpleQueue()
    Thread(target=_take, args=(asked,), daemon=True).start()
    for number in count():
        try:
            function, args = asked.get()
            answer = True, function(*args)
        except PrenetError as error:
            answer = False, error
        except Exception as error:
            answer = False, PrenetError(f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers, protocol=5)
        answers.flush()
        del answer
        if number == 0 and hasattr(os, "nice"):  # not before: at a low priority a busy machine would take minutes
            os.nice(NICE)


def _take(asked):
    """Put what comes through the pipe in line; when it ends the other process has, and so does this one, at once."""
    with suppress(Exception):
        while True:
            asked.put(pickle.load(sys.stdin.buffer))
    os._exit(0)
