"""The head check: what images do is judged by what leaves, and a model without columns is not judged by columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stic_core.errors import PlanRefusedError
from stic_core.models.stic import NaiveHead, STICHead, build_head
from stic_core.training.head_check import (
    check_columns,
    classifier_inputs,
    fault_of_scores,
    least_in_order,
)

N = 40


def inputs_of(head: STICHead | NaiveHead) -> list[torch.Tensor]:
    """What the last layer sees of random patients."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(N, 3, 4, 7, 7))).float()
    clinical = torch.from_numpy(rng.random((N, 20)) < 0.3).float()
    with torch.inference_mode(), classifier_inputs(head) as parts:
        head(features if isinstance(head, STICHead) else features[:, :1], clinical)
    return parts


def test_a_head_without_columns_has_none() -> None:
    """The RGB model's last hidden units are not clinical columns, however large their weights."""
    head = NaiveHead(channels=4, classes=3, clinical=False)
    with torch.no_grad():
        head.classifier.output.weight[0, -1] = 50.0
    check_columns(head, name="federated")
    assert least_in_order(head, inputs_of(head)) is None


def test_images_of_a_class_that_is_never_predicted_do_not_count() -> None:
    """The third class takes all that the images say and has no part in the others' scores."""
    head = build_head(channels=4, classes=3, seed=0)
    assert least_in_order(head, inputs_of(head)) > 0.05  # pyright: ignore[reportOptionalOperand]
    with torch.no_grad():
        output = head.classifier.output
        output.weight[:2, :-20] = 0.0
        output.weight[2, :-20] *= 100.0
        output.bias.copy_(torch.tensor([0.0, 0.0, -5000.0]))
    inputs = inputs_of(head)
    logits = head.classifier(torch.cat(inputs)).detach().double().numpy()
    assert "order" in fault_of_scores(head, logits, inputs)


def test_fresh_and_trained_heads_pass() -> None:
    """Fresh weights on random features have little of the images, and enough."""
    for seed in range(5):
        head = build_head(channels=4, classes=3, seed=seed)
        inputs = inputs_of(head)
        logits = head.classifier(torch.cat(inputs)).detach().double().numpy()
        assert fault_of_scores(head, logits, inputs) == ""
        check_columns(head, name="federated")


def test_tied_and_huge_scores_are_faults() -> None:
    """All patients but one equal, and logits beside which a float32 forgets what a patient adds."""
    head = build_head(channels=4, classes=3, seed=0)
    inputs = inputs_of(head)
    tied = np.zeros((N, 3))
    tied[0] = [1.0, 0.0, 0.0]
    huge = np.random.default_rng(0).normal(size=(N, 3)) * 1e6
    assert "different scores" in fault_of_scores(head, tied, inputs)
    assert "beyond" in fault_of_scores(head, huge, inputs)
    strong = build_head(channels=4, classes=3, seed=0)
    with torch.no_grad():
        strong.classifier.output.weight[0, -1] = 40.0
    with pytest.raises(PlanRefusedError):
        check_columns(strong, name="federated")
