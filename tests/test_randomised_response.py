"""Randomised response by arithmetic, and by counting with a false alarm of 1e-6."""

import math

import numpy as np
import pytest
from scipy import stats

from tacit.errors import InputError
from tacit.protection.accounting import spent
from tacit.protection.randomised import RandomisedResponse
from tacit.protection.sampling import secure, seeded

COUNT = 200_000


def test_probabilities_by_hand():
    # k = 4, epsilon = ln 3: p = 3/(3 + 3) = 1/2 and q = 1/6 for each of the three others.
    response = RandomisedResponse(math.log(3))
    assert response.truth(4) == pytest.approx(1 / 2)
    assert response.lie(4) == pytest.approx(1 / 6)


@pytest.mark.parametrize(("categories", "epsilon"), [(2, 0.1), (10, 2.0), (1000, 20.0)])
def test_the_guarantee_is_the_ratio_and_costs_it(categories, epsilon):
    response = RandomisedResponse(epsilon)
    truth, lie = response.truth(categories), response.lie(categories)
    assert truth + (categories - 1) * lie == pytest.approx(1)
    assert math.log(truth / lie) == pytest.approx(epsilon, rel=1e-9)
    assert epsilon * 0.99 <= spent(response.release, 1, 1e-9) <= epsilon + 1e-9


@pytest.mark.parametrize("source", [seeded(5, "answers"), secure()])
def test_answers_have_these_probabilities(source):
    response = RandomisedResponse(1.2)
    labels = np.full(COUNT, 3)
    seen = np.bincount(response.answer(source, labels, 5), minlength=5)
    expected = np.full(5, COUNT * response.lie(5))
    expected[3] = COUNT * response.truth(5)
    assert stats.chisquare(seen, expected).pvalue > 1e-6
    wrong = RandomisedResponse(1.2 * 1.03)
    expected[:] = COUNT * wrong.lie(5)
    expected[3] = COUNT * wrong.truth(5)
    assert stats.chisquare(seen, expected).pvalue < 1e-6


def test_two_categories_are_warners_coin():
    response = RandomisedResponse(math.log(3))
    labels = np.arange(COUNT) % 2
    agree = (response.answer(seeded(5, "coin"), labels, 2) == labels).sum()
    assert stats.binomtest(int(agree), COUNT, 0.75).pvalue > 1e-6


def test_a_rare_lie_keeps_its_rate():
    # epsilon 10 in two categories: 4.54e-5 of 2^20 words lie, 47.6 on average.
    labels = np.zeros(2**20, dtype=np.int64)
    lies = int(RandomisedResponse(10.0).answer(seeded(5, "rare"), labels, 2).sum())
    assert stats.binomtest(lies, 2**20, 1 / (1 + math.exp(10))).pvalue > 1e-6


def test_debiasing_by_hand():
    # p = 1/2, q = 1/6, 12 answers seen as 5, 3, 2, 2: (seen - 2) / (1/3) = 9, 3, 0, 0.
    answers = np.repeat(np.arange(4), [5, 3, 2, 2])
    histogram = RandomisedResponse(math.log(3)).histogram(answers, 4)
    assert histogram == pytest.approx([9, 3, 0, 0])
    assert histogram.sum() == pytest.approx(12)


def test_the_histogram_is_unbiased():
    # Each count deviates by sqrt(sum of x(1 - x))/(p - q), at most sqrt(n)/2/(p - q); five of them.
    response = RandomisedResponse(1.0)
    truth = np.array([120_000, 60_000, 20_000])
    answers = response.answer(seeded(5, "unbiased"), np.repeat(np.arange(3), truth), 3)
    bound = 5 * math.sqrt(COUNT) / 2 / (response.truth(3) - response.lie(3))
    assert np.abs(response.histogram(answers, 3) - truth).max() < bound
    assert np.abs(np.bincount(answers) - truth).max() > bound


def test_no_answers():
    response = RandomisedResponse(1.0)
    nobody = np.zeros(0, dtype=np.int64)
    assert len(response.answer(secure(), nobody, 3)) == 0
    assert response.histogram(nobody, 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("epsilon", [0.0, 21.0, math.nan])
def test_settings_that_are_refused(epsilon):
    with pytest.raises(InputError, match=r"protection\.epsilon: .* allowed is"):
        RandomisedResponse(epsilon)


def test_one_category_hides_nothing():
    with pytest.raises(InputError, match="categories: 1 was given; allowed is a whole number from"):
        RandomisedResponse(1.0).answer(secure(), np.zeros(3, np.int64), 1)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_are_refused_without_showing_them(label):
    response = RandomisedResponse(1.0)
    for method in (lambda x: response.answer(secure(), x, 3), lambda x: response.histogram(x, 3)):
        with pytest.raises(InputError, match="labels: 'one outside' was given; allowed is 0 to 2"):
            method(np.array([0, label]))
