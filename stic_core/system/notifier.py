"""Telling people who look at no screen: a command of theirs, or a webhook, is given each event as JSON.

It is bounded in time and in number, and whatever fails is said and stops nothing. An event holds names of
sites, ids of runs and hashes of plans; nothing of a patient, and nothing of a site's files.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import queue
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NoReturn, get_args

Event = Literal["approval-waiting", "site-gone", "site-back", "run-over", "run-failed"]
EVENTS: tuple[Event, ...] = get_args(Event)

_WAITING = 50
"""Events that wait to be told; what comes on top of them is dropped, and that is said."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is sent goes to the address that was configured, or nowhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None: the answer counts as a failure."""


class Notifier:
    """Tells of events, one after the other, in a thread of its own.

    Args:
        side: `server` or `client`.
        name: the federation's or the site's.
        command: a program and its arguments, started without a shell, the event on its stdin.
        webhook: an https address, which gets the event in a POST.
        events: which of them.
        timeout_s: seconds that one command or request may take.
    """

    def __init__(
        self,
        *,
        side: Literal["server", "client"],
        name: str,
        command: Sequence[str] = (),
        webhook: str | None = None,
        events: Collection[str] = EVENTS,
        timeout_s: float = 10.0,
    ) -> None:
        self._side, self._name, self._events, self._timeout_s = side, name, events, timeout_s
        self._command, self._webhook = list(command), webhook
        self._queue: queue.Queue[tuple[bytes, Callable[[str], None]]] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def tell(
        self, what: str, text: str, *, facts: Mapping[str, object], failed: Callable[[str], None]
    ) -> None:
        """Tell of an event soon; returns at once.

        Args:
            failed: receives a line where that did not work.
        """
        if what not in self._events:
            return
        document = {
            "event": what,
            "time": dt.datetime.now().astimezone().isoformat(timespec="seconds"),
            "side": self._side,
            "name": self._name,
            "text": text,
            **facts,
        }
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="notifier")
                self._thread.start()
        try:
            self._queue.put_nowait((json.dumps(document).encode(), failed))
        except queue.Full:
            failed(f"notification of {what} dropped: {_WAITING} others are still waiting to be sent")

    def close(self) -> None:
        """Wait for what is still to be told, but no longer than one event may take on both ways."""
        if self._thread is None:
            return
        done = threading.Event()

        def waited() -> None:
            self._queue.join()
            done.set()

        threading.Thread(target=waited, daemon=True, name="notifier-end").start()
        done.wait(2 * self._timeout_s + 1.0)

    def _work(self) -> NoReturn:
        while True:
            content, failed = self._queue.get()
            try:
                for send in (self._run, self._post):
                    if (why := send(content)) is not None:
                        failed(f"notification failed: {why}")
            finally:
                self._queue.task_done()

    def _run(self, content: bytes) -> str | None:
        """Start the command; why it failed."""
        if not self._command:
            return None
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is not for it, and it is ended with all that it started
            )
        except OSError as error:
            return f"the command cannot be started ({error.strerror})"
        except ValueError:
            return "the command cannot be started (it contains a NUL character)"
        try:
            process.communicate(content, timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"the command took more than {self._timeout_s:g} s"
        return None if process.returncode == 0 else f"the command ended with exit code {process.returncode}"

    def _post(self, content: bytes) -> str | None:
        """Send to the webhook; why it failed, without its address, which may hold a secret.

        The socket's own limit is one of each wait, and of none for a name: an answer that drips would never end.
        """
        if self._webhook is None:
            return None
        webhook, why = self._webhook, list[str | None]()
        thread = threading.Thread(
            target=lambda: why.append(self._posted(webhook, content)), daemon=True, name="webhook"
        )
        thread.start()
        thread.join(self._timeout_s)
        return why[0] if why else f"the webhook took more than {self._timeout_s:g} s"

    def _posted(self, webhook: str, content: bytes) -> str | None:
        opener = urllib.request.build_opener(_NoRedirect)
        request = urllib.request.Request(  # noqa: S310 - https alone passes the configuration
            webhook, data=content, headers={"Content-Type": "application/json"}
        )
        try:
            with opener.open(request, timeout=self._timeout_s):
                return None
        except urllib.error.HTTPError as error:
            return f"the webhook answers HTTP {error.code}"
        except urllib.error.URLError as error:
            return f"the webhook cannot be reached ({type(error.reason).__name__})"
        except (OSError, ValueError, http.client.HTTPException) as error:
            return f"the webhook cannot be reached ({type(error).__name__})"
