# SPDX-License-Identifier: Apache-2.0
"""The search for the region that an array lies in, against looking at every one."""

import random

import pytest
from ndverbs._testing import Ranges

RIGHTS = (0, 1, 2, 9, 13, 0x81)


def contains(outer, address, length):
    begin, size, _, _ = outer
    return begin <= address and address + length <= begin + size


def candidates(ranges, address, length, rights):
    return [
        each for each in ranges if contains(each, address, length) and each[2] & rights == rights
    ]


@pytest.mark.parametrize("seed", range(8))
def test_found_range_contains_the_bytes_grants_the_rights_and_is_innermost(seed):
    chance = random.Random(seed)
    ranges = Ranges()
    held = []
    for token in range(1, 601):
        if held and chance.random() < 0.3:
            ranges.remove(*held.pop(chance.randrange(len(held))))
        held.append((chance.randrange(64), chance.randrange(1, 40), chance.choice(RIGHTS), token))
        ranges.add(*held[-1])
        address, length, rights = (
            chance.randrange(100),
            chance.randrange(20),
            chance.choice((0, 1, 9)),
        )
        fitting = candidates(held, address, length, rights)
        found = ranges.find(address, length, rights)
        if found is None:
            assert not fitting
            continue
        (chosen,) = [each for each in fitting if each[3] == found]
        inside = [each for each in fitting if contains(chosen, *each[:2])]
        assert all(each[:2] == chosen[:2] for each in inside)


@pytest.mark.parametrize("seed", range(4))
def test_nearest_range_is_the_one_that_begins_nearest(seed):
    chance = random.Random(seed)
    ranges = Ranges()
    assert ranges.nearest(7) is None
    begins = {}
    for token in range(1, 201):
        begins[token] = chance.randrange(10_000)
        ranges.add(begins[token], 1, chance.choice(RIGHTS), token)
        address = chance.randrange(10_000)
        distance = min(abs(begin - address) for begin in begins.values())
        assert abs(begins[ranges.nearest(address)] - address) == distance


def test_range_whose_end_does_not_fit_64_bits_is_not_found():
    ranges = Ranges()
    ranges.add(2**63, 2**62, 1, 1)

    assert ranges.find(2**63 + 8, 2**64 - 1, 0) is None
    assert ranges.find(2**63 + 8, 2**62 - 8, 1) == 1


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(lambda i: (i * 4096, 4096), id="side by side"),
        pytest.param(lambda i: (i, 2 * (20_000 - i)), id="nested"),
        pytest.param(lambda i: (i * 8, 80_000), id="overlapping"),
        pytest.param(lambda i: (4096, 4096), id="the same"),
    ],
)
def test_search_goes_through_few_of_many_ranges(shape):
    count = 20_000
    ranges = Ranges()
    for token in range(1, count + 1):
        ranges.add(*shape(token), 1, token)

    assert ranges.height() <= 4 * count.bit_length()
    for token in range(1, count + 1):
        ranges.remove(*shape(token), 1, token)
    assert ranges.height() == 0
