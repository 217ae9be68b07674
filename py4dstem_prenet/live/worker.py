"""Run functions that take seconds in a separate process of low priority.

Two Python threads share one interpreter: locating patterns beside a thread that learns is half as fast even if a core
is free. The process is a new interpreter that is connected by two pipes. It does not import the program of the user, so
that it works from notebooks and from scripts without a `__main__` guard on every system. It ends when its pipe is
closed, also if this process is killed. Only data that these two processes write to each other are unpickled.
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

MAX_START_S = 60.0  # seconds; longest duration of a start before it has failed: a few seconds on an idle machine
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_PROGRAM = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from {} import serve; serve()"


class Worker:
    """Calls functions in a separate process, or in this one until that has started and after it has died.

    Parameters
    ----------
    prepare : callable or None
        Called in the process first; until it has returned, the process counts as not started. None: use no process.
    *args
        Arguments of `prepare`.

    Notes
    -----
    The functions must belong to this package, and their arguments and results must be picklable. The process imports
    torch, which takes seconds; `wait` waits for it.

    Examples
    --------
    >>> worker = Worker(None)
    >>> worker.call(divmod, 7, 3)
    (2, 1)
    """

    def __init__(self, prepare, *args):
        self._lock, self._answers, self._ready, self._process = Lock(), SimpleQueue(), False, None
        if prepare is None or not sys.executable or getattr(sys, "frozen", False):  # frozen: inside another program
            return
        lowered = {"creationflags": subprocess.BELOW_NORMAL_PRIORITY_CLASS} if os.name == "nt" else {}
        with suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM.format(__name__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env=os.environ | _ONE_THREAD, **lowered)
            weakref.finalize(self, _end, self._process)
            Thread(target=_listen, args=(self._process.stdout, self._answers), daemon=True).start()
            _send(self._process, sys.path)
            _send(self._process, (prepare, args))

    @property
    def pid(self) -> int | None:
        """Identifier of the process.

        Returns
        -------
        int or None
            None if there is no process.
        """
        return None if self._process is None else self._process.pid

    def wait(self):
        """Wait until the process has started, has failed to start, or was closed; at most MAX_START_S."""
        with self._lock:
            self._is_up(MAX_START_S)

    def call(self, function, *args):
        """Call a function.

        Parameters
        ----------
        function : callable
            A function of a module.
        *args
            Its arguments.

        Returns
        -------
        object
            Result of the function.

        Raises
        ------
        PrenetError
            If `close` was called meanwhile. Exceptions of the function are raised, too; in the process all but
            PrenetError become PrenetError.
        """
        with self._lock:
            process = self._process
            if self._is_up():
                try:
                    _send(process, (function, args))
                except Exception:  # the process has ended, or an argument cannot be pickled
                    _end(process)
                if (answer := self._answers.get()) is not None:
                    if answer[0]:
                        return answer[1]
                    raise answer[1]
                if self._process is None:
                    raise PrenetError("The worker process was closed during a call.")
                _end(process)
                self._process = None  # it died: later calls run in this process
        return function(*args)

    def close(self):
        """End the process at once; later calls run in this process."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _is_up(self, timeout=0.0):
        """Return whether the process has started; wait for that for at most `timeout` seconds."""
        if self._process is not None and not self._ready:
            with suppress(Empty):
                answer = self._answers.get(timeout=timeout)
                self._ready = answer is not None and answer[0]
                if not self._ready:
                    self.close()
        return self._process is not None and self._ready


def _send(process, message):
    pickle.dump(message, process.stdin, protocol=5)
    process.stdin.flush()


def _listen(stream, answers):
    """Put the answers of the process into the queue, and None when it ends."""
    with suppress(Exception), stream:  # an incomplete message is the end, too
        while True:
            answers.put(pickle.load(stream))
    answers.put(None)


def _end(process):
    process.kill()
    process.wait()
    with suppress(OSError):
        process.stdin.close()


# --- in the process
def serve():
    """Call the functions that the other process sends, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # printed text must not get between the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process, which then ends this one
    requests = SimpleQueue()
    Thread(target=_receive, args=(requests,), daemon=True).start()
    for number in count():
        try:
            function, args = requests.get()
            answer = True, function(*args)
        except PrenetError as error:
            answer = False, error
        except Exception as error:
            answer = False, PrenetError(f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers, protocol=5)
        answers.flush()
        del answer
        if number == 0 and hasattr(os, "nice"):  # not earlier: on a busy machine a start at low priority takes minutes
            os.nice(5)  # a third of the share of a core that one of normal priority gets


def _receive(requests):
    """Put the messages from the pipe into the queue; end this process at once when the pipe is closed."""
    with suppress(Exception):
        while True:
            requests.put(pickle.load(sys.stdin.buffer))
    os._exit(0)
