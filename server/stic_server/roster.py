"""Who takes part in a run: told the plan, described, asked together, told again after a restart."""

from __future__ import annotations

from collections.abc import Mapping

from stic_core.errors import FederationError
from stic_core.protocol import Describe, Instruction, RunPlan, SiteDescription, Unprepared
from stic_core.tensors import FlatArray
from stic_server.asking import Exchange, Limits, Observer, Sites, answers_of


class Roster:
    """The sites of one run.

    Args:
        plan: what they are asked to compute.
        run_id: under which they know it.
        sites: how they are reached.
        limits: how few, and how long.
        observer: is told who is left out and why.
    """

    def __init__(
        self, plan: RunPlan, *, run_id: str, sites: Sites, limits: Limits, observer: Observer
    ) -> None:
        self.plan, self.run_id, self.limits, self.observer = plan, run_id, limits, observer
        self.descriptions: dict[str, SiteDescription] = {}
        """By site, of those that take part."""
        self._sites = sites

    @property
    def phantom(self) -> bool:
        """At least one site's patients are phantoms."""
        return any(description.phantom for description in self.descriptions.values())

    def gather(self) -> None:
        """Wait for the sites, tell them the plan, and keep those that accept it.

        Raises:
            FederationError: too few.
        """
        limits = self.limits
        self.observer.stage("waiting for the sites")
        present = self._sites.wait_for(at_least=limits.min_sites, timeout=limits.join_timeout_s)
        self.observer.stage("sites load their data and compute the backbone's features")
        question = Describe(run_id=self.run_id, plan=self.plan)
        exchange = self._sites.ask(
            dict.fromkeys(present, question), weights=None, timeout=limits.join_timeout_s
        )
        found = answers_of(exchange, SiteDescription, observer=self.observer)
        accepted = {site: description for site, (description, _) in found.items()}
        self._agree(accepted)
        if len(accepted) < limits.min_sites:
            raise FederationError(
                "too few sites take part",
                got=f"{len(accepted)} ({', '.join(accepted) or 'none'})",
                expected=f"at least {limits.min_sites} (min_sites)",
            )
        self.descriptions = accepted

    def wait_for_quorum(self) -> None:
        """Wait until enough sites are online again.

        Raises:
            FederationError: too few came in the time for joining.
        """
        self._sites.wait_for(at_least=self.limits.min_sites, timeout=self.limits.join_timeout_s)

    def ask(
        self, instruction: Instruction, *, weights: FlatArray | None = None, timeout: float | None = None
    ) -> Exchange:
        """The same question to every site that takes part."""
        questions = dict.fromkeys(sorted(self.descriptions), instruction)
        return self.put(questions, weights=weights, timeout=timeout)

    def put(
        self,
        questions: Mapping[str, Instruction],
        *,
        weights: FlatArray | None,
        timeout: float | None = None,
    ) -> Exchange:
        """Ask each site its question; again where one was restarted and had to be told the plan first.

        Args:
            weights: go with every question.
            timeout: seconds; None is a round's.
        """
        timeout = timeout or self.limits.round_timeout_s
        exchange = self._sites.ask(questions, weights=weights, timeout=timeout)
        restarted = [
            site for site, answer in exchange.answers.items() if isinstance(answer.report, Unprepared)
        ]
        again = {site: questions[site] for site in restarted if self._describe_again(site, timeout=timeout)}
        if not again:
            return exchange
        second = self._sites.ask(again, weights=weights, timeout=timeout)
        return Exchange(
            {**exchange.answers, **second.answers},
            exchange.bytes_down + second.bytes_down,
            exchange.bytes_up + second.bytes_up,
        )

    def _agree(self, accepted: dict[str, SiteDescription]) -> None:
        """Leave out sites whose backbone or image preparation is not the plan's and the majority's."""
        digests = [description.backbone_digest for description in accepted.values()]
        for site, description in list(accepted.items()):
            common = max(sorted(set(digests)), key=digests.count)
            if description.backbone_digest != common:
                self.observer.note(
                    f"{site} is left out: its backbone has digest {description.backbone_digest[:12]}, "
                    f"the others' {common[:12]}; install the same weights file there"
                )
                del accepted[site]
            elif description.image != self.plan.image:
                self.observer.note(
                    f"{site} is left out: its images are prepared with {description.image}, "
                    f"the plan asks for {self.plan.image}; set dataset.image in site.yaml and prepare again"
                )
                del accepted[site]

    def _describe_again(self, site: str, *, timeout: float) -> bool:
        """Tell a restarted site the plan; it must come back with the data that it began with."""
        self.observer.note(f"{site} was restarted; it is told the plan again")
        question = Describe(run_id=self.run_id, plan=self.plan)
        exchange = self._sites.ask({site: question}, weights=None, timeout=timeout)
        found = answers_of(exchange, SiteDescription, observer=self.observer)
        if site not in found:
            return False
        before, (now, _) = self.descriptions[site], found[site]
        if now.model_copy(update={"versions": before.versions}) != before:
            self.observer.note(
                f"{site} is left out: it came back with other data or weights than it began with"
            )
            return False
        return True
