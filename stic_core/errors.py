"""The one tree of errors; each says what it got, what it expected and what to do next.

SticError                     exit code 1
├── UsageError                2  the command line or a configuration is wrong
│   └── ConfigError              a key of a YAML file
├── RefusedError              3  a policy, or trust, says no
│   ├── NotAdmittedError         the server does not know this site's key
│   ├── UntrustedServerError     the server's certificate is not from the pinned CA
│   ├── PlanRefusedError         the site does not accept what the server asks
│   └── PlanPendingError         nobody at the site has approved the plan yet
├── DataError                 1  a patient, a file or a dataset
│   └── PatientError             one patient; the others go on
├── NoRoomError               1  a disk is full; somebody can free some space
├── WeightsError              1  backbone weights that are missing or differ
├── ProtocolError             1  a message that breaks the protocol
├── SiteReportError           1  a site's report that cannot be used; names the site
├── FederationError           1  the federation cannot go on (quorum, time)
└── ListenError               1  the server cannot listen where it should

An error's `code` may travel to the other side; its text may not, unless it is made of
configuration alone. No text ever holds anything of a patient but the pseudonym.
"""

from __future__ import annotations


class SticError(Exception):
    """Base of every error that a user is meant to read.

    Args:
        what: what went wrong, one clause, no full stop.
        got: what was found.
        expected: what would have been right.
        advice: what to do next, a sentence.
    """

    exit_code = 1

    def __init__(
        self, what: str, *, got: object = None, expected: object = None, advice: str | None = None
    ) -> None:
        self.what, self.got, self.expected, self.advice = what, got, expected, advice
        parts = [what]
        if got is not None:
            parts.append(f"got {got}")
        if expected is not None:
            parts.append(f"expected {expected}")
        text = "; ".join(parts)
        super().__init__(f"{text}. {advice}" if advice else text)

    @property
    def code(self) -> str:
        """A name that says the kind and nothing else, safe to send."""
        return type(self).__name__


class UsageError(SticError):
    """The command line or the surroundings are not as the command needs them."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file cannot be used; the message names the file and the key."""


class RefusedError(SticError):
    """A policy, or the lack of trust, says no."""

    exit_code = 3


class NotAdmittedError(RefusedError):
    """The server does not know this site's public key."""


class UntrustedServerError(RefusedError):
    """The server's certificate does not come from the CA that this site pinned."""


class PlanRefusedError(RefusedError):
    """The site does not accept what a server's plan asks of it."""


class PlanPendingError(RefusedError):
    """Nobody at the site has approved the server's plan yet; somebody still may."""


class DataError(SticError):
    """A dataset, or a file of one, cannot be used."""


class PatientError(DataError):
    """One patient cannot be used: it is quarantined, the others go on.

    Args:
        subject: the pseudonym.
        file: the path as the manifest gives it, never an absolute one.
    """

    def __init__(
        self,
        what: str,
        *,
        subject: str,
        file: str | None = None,
        got: object = None,
        expected: object = None,
        advice: str | None = None,
    ) -> None:
        self.subject, self.file = subject, file
        where = f"{subject}, {file}: " if file else f"{subject}: "
        super().__init__(where + what, got=got, expected=expected, advice=advice)
        self.what = what


class NoRoomError(SticError):
    """A disk has not the room that is needed; a site waits until it has, and says so by this error's code."""


class WeightsError(SticError):
    """Backbone weights cannot be had, or are not the ones that were agreed."""


class ProtocolError(SticError):
    """A message breaks the protocol."""


class SiteReportError(SticError):
    """A site's report cannot be used.

    Args:
        site: the site's name.
    """

    def __init__(
        self,
        what: str,
        *,
        site: str,
        got: object = None,
        expected: object = None,
        advice: str | None = None,
    ) -> None:
        self.site = site
        super().__init__(f"{site}: {what}", got=got, expected=expected, advice=advice)


class FederationError(SticError):
    """The federation cannot go on: too few sites, or too long a wait."""


class ListenError(SticError):
    """The server cannot listen on its address."""
