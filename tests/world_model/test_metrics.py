"""Metrics of latent actions against known answers."""

import numpy as np
import pytest

from world_model.metrics import code_use, majority_agreement, mutual_information, precision_and_recall

ACTIONS = np.array([0, 1, 2, 3] * 25)


def test_a_renamed_action_is_perfectly_named():
    codes = np.array([2, 0, 3, 1])[ACTIONS]
    assert majority_agreement(codes, ACTIONS) == 1
    assert mutual_information(codes, ACTIONS) == pytest.approx(2)  # four equal actions hold 2 bits


def test_codes_that_know_nothing():
    codes = np.repeat([0, 1, 2, 3], 25)
    assert majority_agreement(np.zeros(100, dtype=int), ACTIONS) == 0.25
    assert mutual_information(np.zeros(100, dtype=int), ACTIONS) == pytest.approx(0)
    independent = np.tile(np.repeat([0, 1], 4), 13)[:100], np.array([0, 1, 2, 3] * 25)
    assert mutual_information(*independent) == pytest.approx(0, abs=0.01)
    assert code_use(codes, num_codes=5) == [0.25, 0.25, 0.25, 0.25, 0]


def test_precision_and_recall_of_an_event():
    codes = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    event = np.array([1, 1, 0, 0, 0, 0, 0, 1], dtype=bool)
    precision, recall = precision_and_recall(codes, event)  # code 0 says the event: 2 of its 3 are, 2 of all 3 are found
    assert (precision, recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert precision_and_recall(codes, np.zeros(8, dtype=bool))[1] == 0


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="equal"):
        majority_agreement(np.zeros(3, dtype=int), np.zeros(4, dtype=int))
