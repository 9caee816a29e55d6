"""How often a site's link to its server does what: signs of life, looks for a message, tries again."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds.

    Args:
        heartbeat: the server misses a site after two of these without a sign; it is told so at sign-on.
        busy_poll, idle_poll: between looks for a message; the first while one is expected soon,
            which is for `busy_for` after the last one.
        first_wait, longest_wait: before a request that failed is tried again; each wait is twice the one before.
        sign_on_again: between sign-ons while the server still takes this site for online.
    """

    heartbeat: float = 20.0
    busy_poll: float = 0.1
    idle_poll: float = 1.0
    busy_for: float = 30.0
    first_wait: float = 0.5
    longest_wait: float = 15.0
    sign_on_again: float = 5.0

    @property
    def missed(self) -> float:
        """A client that was killed is missed by now, and its site may sign on."""
        return 2 * self.heartbeat + self.sign_on_again

    def scaled(self, factor: float) -> Intervals:
        """All of them so many times as long; see `config.interval_scale`."""
        return Intervals(**{field.name: factor * getattr(self, field.name) for field in fields(self)})
