"""Who takes part in a run: told the plan, described, asked together, told again after a restart."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stic_core.errors import FederationError
from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import Describe, Instruction, Refusal, RunPlan, SiteDescription, Unprepared
from stic_server.federation.sites import Answer, Exchange, RunLimits, RunObserver, Sites, answers_of


class Participants:
    """The sites of one run.

    Args:
        plan: what they are asked to compute.
        run_id: under which they know it.
        sites: how they are reached.
        limits: how few, and how long.
        observer: is told who is left out and why.
    """

    def __init__(
        self, plan: RunPlan, *, run_id: str, sites: Sites, limits: RunLimits, observer: RunObserver
    ) -> None:
        self.plan, self.run_id, self.limits, self.observer = plan, run_id, limits, observer
        self.descriptions: dict[str, SiteDescription] = {}
        """By site, of those that take part."""
        self._sites = sites
        self._declined: set[str] = set()

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
        accepted = self._collect_acceptances(present)
        answered = set(accepted)
        self._agree(accepted)
        self._declined |= answered - accepted.keys()
        if len(accepted) < limits.min_sites:
            raise FederationError(
                "too few sites take part",
                got=f"{len(accepted)} ({', '.join(accepted) or 'none'})",
                expected=f"at least {limits.min_sites} (min_sites)",
                advice="What kept the others out stands above; mend that and start again.",
            )
        self.descriptions = accepted

    def _collect_acceptances(self, sites: Sequence[str]) -> dict[str, SiteDescription]:
        """What the sites take part with; those whose operator has to approve the plan are asked again."""
        began = time.monotonic()
        question = Describe(run_id=self.run_id, plan=self.plan)
        accepted: dict[str, SiteDescription] = {}
        open_ones, told = list(sites), set[str]()
        while True:
            exchange = self._sites.ask(
                dict.fromkeys(open_ones, question), weights=None, timeout=self.limits.join_timeout_s
            )
            pending = {
                site: answer.report.reason
                for site, answer in sorted(exchange.answers.items())
                if isinstance(answer.report, Refusal) and answer.report.pending
            }
            others = replace(
                exchange, answers={s: a for s, a in exchange.answers.items() if s not in pending}
            )
            found = answers_of(others, SiteDescription, observer=self.observer)
            accepted |= {site: description for site, (description, _) in found.items()}
            self._declined |= others.answers.keys() - found.keys()
            for site in pending.keys() - told:
                self.observer.note(f"{site}: {pending[site]}")
            told |= pending.keys()
            waited = time.monotonic() - began
            enough = len(accepted) >= self.limits.min_sites
            most = self.limits.approval_s if enough else self.limits.join_timeout_s
            if not pending or waited > most:
                for site in pending:
                    self.observer.note(f"{site} is left out: its operator did not approve the plan in time")
                return dict(sorted(accepted.items()))
            self.observer.waiting([f"{site} (has to approve the plan)" for site in pending], waited)
            time.sleep(self.limits.ask_again_s)
            open_ones = list(pending)

    def admit_late_sites(self) -> None:
        """Before a round: wait where too few sites are online, and take in those that came since.

        Raises:
            FederationError: too few came in the time for joining.
        """
        if len(self.descriptions.keys() & set(self._sites.present())) < self.limits.min_sites:
            self._sites.wait_for(
                at_least=self.limits.min_sites,
                timeout=self.limits.join_timeout_s,
                apart_from=self._declined,
            )
        late = [
            site for site in self._sites.present() if site not in self.descriptions.keys() | self._declined
        ]
        if not late:
            return
        question = Describe(run_id=self.run_id, plan=self.plan)
        timeout = self.limits.round_timeout_s
        exchange = self._sites.ask(dict.fromkeys(late, question), weights=None, timeout=timeout)
        decided = {site: answer for site, answer in exchange.answers.items() if not _is_pending(answer)}
        found = answers_of(replace(exchange, answers=decided), SiteDescription, observer=self.observer)
        joined = {site: description for site, (description, _) in found.items()}
        self._agree(joined, common=next(iter(self.descriptions.values())).backbone_digest)
        # Who said no is not asked again; who did not answer, or may still say yes, is.
        self._declined |= decided.keys() - joined.keys()
        self.descriptions = dict(sorted({**self.descriptions, **joined}.items()))
        for site in joined:
            self.observer.note(f"{site} takes part from now on")

    def ask(
        self, instruction: Instruction, *, weights: WireArray | None = None, timeout: float | None = None
    ) -> Exchange:
        """The same question to every site that takes part."""
        questions = dict.fromkeys(sorted(self.descriptions), instruction)
        return self.ask_each(questions, weights=weights, timeout=timeout)

    def ask_each(
        self,
        questions: Mapping[str, Instruction],
        *,
        weights: WireArray | None,
        timeout: float | None = None,
    ) -> Exchange:
        """Ask each site its question; again where one was restarted and had to be told the plan first.

        Args:
            weights: go with every question.
            timeout: seconds; None is a round's.
        """
        timeout = timeout or self.limits.round_timeout_s
        deadline = time.monotonic() + timeout
        exchange = self._sites.ask(questions, weights=weights, timeout=timeout)
        asked = dict(questions)
        while restarted := [site for site in asked if _is_unprepared(exchange.answers.get(site))]:
            asked = {
                site: questions[site] for site in restarted if self._describe_again(site, deadline=deadline)
            }
            left = deadline - time.monotonic()
            if not asked or left <= 0:
                break
            exchange = exchange.followed_by(self._sites.ask(asked, weights=weights, timeout=left))
        answers = {site: answer for site, answer in exchange.answers.items() if not _is_unprepared(answer)}
        return replace(exchange, answers=answers)

    def _agree(self, accepted: dict[str, SiteDescription], *, common: str | None = None) -> None:
        """Leave out sites whose image preparation is not the plan's, or whose backbone not the others'.

        Args:
            common: the others' backbone; None is the majority's.
        """
        digests = [description.backbone_digest for description in accepted.values()]
        common = common or max(sorted(set(digests)), key=digests.count, default="")
        for site, description in list(accepted.items()):
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
            elif description.patients["train"].n > self.limits.max_patients:
                self.observer.note(
                    f"{site} is left out: it claims {description.patients['train'].n} training patients, "
                    f"more than {self.limits.max_patients} (max_patients)"
                )
                del accepted[site]

    def _describe_again(self, site: str, *, deadline: float) -> bool:
        """Tell a restarted site the plan; it must come back with the data that it began with."""
        timeout = deadline - time.monotonic()
        if timeout <= 0:
            return False
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


def _is_unprepared(answer: Answer | None) -> bool:
    return answer is not None and isinstance(answer.report, Unprepared)


def _is_pending(answer: Answer) -> bool:
    return isinstance(answer.report, Refusal) and answer.report.pending
