import numpy as np
import torch

from tacit.randomness import generator, key, mix, uniform_mask, words


def test_mix_is_splitmix64():
    # The published reference: a splitmix64 generator seeded with 1234567 (Rosetta Code, from
    # Vigna's C code) gives these outputs; the state grows by the golden constant each call.
    golden, state = 0x9E3779B97F4A7C15, 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for value in expected:
        assert int(mix(np.uint64(state))) == value
        state = (state + golden) % 2**64


def test_streams_differ_by_every_part_of_their_address():
    keys = {
        key(seed, purpose, round, node)
        for seed in (0, 1)
        for purpose in ("a", "b")
        for round in range(5)
        for node in range(5)
    }
    assert len(keys) == 100
    # No concatenation ambiguity: (1, 11) is not (11, 1).
    assert key(0, "a", 1, 11) != key(0, "a", 11, 1)


def test_generator_is_a_function_of_its_address():
    first = generator(3, "x", 1, 2).random(4)
    generator(3, "x", 1, 3).random(100)
    np.testing.assert_array_equal(first, generator(3, "x", 1, 2).random(4))


def test_words_do_not_depend_on_what_is_asked_together():
    together = words(7, np.arange(10)[:, None], np.arange(5))
    one = words(7, np.array(4), np.array(3))
    assert together[4, 3] == one
    assert len(np.unique(together)) == 50


def test_masks_keep_the_right_share_and_depend_on_the_stream_alone():
    streams = torch.tensor([5, 2**62, -3])
    masks = uniform_mask(streams, (100, 100), 0.7)
    # 30,000 draws: a deviation of 5 standard deviations, 0.013, is a false alarm in 1.7 million.
    assert abs(masks.float().mean() - 0.7) < 0.0132
    torch.testing.assert_close(masks[1], uniform_mask(streams[1:2], (100, 100), 0.7)[0])
    # The first rows of a larger mask are the smaller mask: padding a batch changes nothing.
    torch.testing.assert_close(masks[:, :30], uniform_mask(streams, (30, 100), 0.7))
    # Neighbouring elements are uncorrelated: 5 standard deviations again.
    pairs = (masks[:, :, 1:] == masks[:, :, :-1]).float().mean()
    assert abs(pairs - (0.7**2 + 0.3**2)) < 0.015
