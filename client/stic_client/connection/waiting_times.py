"""How long a site's link waits for what."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

_HEARTBEAT_S = 20.0


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between what a link does; a federation keeps the defaults, tests shorten them.

    Args:
        first_wait: before the second try to reach the server; doubled before each further one.
        longest_wait: where the doubling ends.
        say_again: between notes that the server is still not reached, once the waits no longer grow.
        busy_poll: between questions for a message, for `busy_for` after one: the next is expected soon.
        idle_poll: between questions for a message later.
        object_poll: between questions for a part of a message that the server is still storing.
        heartbeat: the server calls a site gone after two of these without a sign; Flower allows
            no less than 10, times `STIC_INTERVALS`.
        beat_share: of a heartbeat, after which the next one is sent.
        sign_on: between tries to sign on while the server lists the site as online.
        missed: after which the server has missed a client that was killed.
        sign_off: for which a client that leaves waits for the server to hear of it.
    """

    first_wait: float = 0.5
    longest_wait: float = 15.0
    say_again: float = 600.0
    busy_poll: float = 0.1
    busy_for: float = 30.0
    idle_poll: float = 1.0
    object_poll: float = 0.05
    heartbeat: float = _HEARTBEAT_S
    beat_share: float = 0.6
    sign_on: float = 5.0
    missed: float = 2 * _HEARTBEAT_S + 5.0
    sign_off: float = 2.0

    def scaled(self, factor: float) -> Intervals:
        """Each so many times as long, apart from the share and the farewell; see `config_files.interval_scale`."""
        names = [field.name for field in fields(self) if field.name not in {"beat_share", "sign_off"}]
        return replace(self, **{name: factor * getattr(self, name) for name in names})
