"""Sites in the server's own process: each a `LocalRun`, asked through the text of real messages."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from stic_core.protocol.compression import WireArray
from stic_core.protocol.messages import EvaluateHeldOut, Instruction, encode
from stic_server.federation.sites import Exchange, Traffic, read_answer
from stic_server.simulation.cohorts import Datasets
from stic_server.simulation.scores import SiteScores
from stic_server.simulation.workplace import Workplaces


class SimulatedSites:
    """`sites.Sites` without a network.

    Questions and answers go through their JSON text, and weights are copied, so that a site
    computes what a hospital's would. Bytes are those of text and weights, without what Flower
    and TLS add. An error is raised, not answered: here it hides nothing of a hospital.

    Args:
        datasets: by site.
        workplaces: where the sites compute.
    """

    def __init__(self, datasets: Datasets, *, workplaces: Workplaces) -> None:
        self._datasets, self._workplaces = datasets, workplaces
        self.scores: dict[str, dict[str, SiteScores]] = {}
        """Of held-out patients, by model and site: what no hospital would give away."""

    def present(self) -> list[str]:
        """See `Sites`; all, always."""
        return sorted(self._datasets)

    def wait_for(self, *, at_least: int, timeout: float, apart_from: Collection[str] = ()) -> list[str]:
        """See `Sites`; there is nobody to wait for."""
        del at_least, timeout, apart_from
        return self.present()

    def ask(
        self, questions: Mapping[str, Instruction], *, weights: WireArray | None, timeout: float
    ) -> Exchange:
        """See `Sites`."""
        del timeout
        asked = {site: encode(question) for site, question in questions.items()}
        answers, traffic = {}, {}
        for site, answer in self._workplaces.ask(asked, self._datasets, weights).items():
            answers[site] = read_answer(answer.said, answer.weights)
            traffic[site] = Traffic(_size(asked[site], weights), _size(answer.said, answer.weights))
            question = questions[site]
            if answer.scores is not None and isinstance(question, EvaluateHeldOut):
                self.scores.setdefault(question.model, {})[site] = answer.scores
        return Exchange(answers, traffic)


def _size(text: str, weights: WireArray | None) -> int:
    return len(text.encode()) + (0 if weights is None else weights.nbytes)
