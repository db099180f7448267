# SPDX-License-Identifier: Apache-2.0
"""Random walks over all objects against a model: what memories hold, which completions come."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ndverbs as nd
from conformance.random_model import PAGES, SIZE, TOP, WORDS
from conformance.random_run import Run, is_request

WALKS, LENGTH = 200, 50
LENGTHS = st.one_of(
    st.integers(0, 64),
    st.sampled_from([4095, 4096, 65455, 65456, 65457, 65460, 65461, 65536, 131_000]),
)
OFFSETS = st.one_of(st.just(0), st.integers(0, SIZE))
SPANS = st.lists(st.tuples(OFFSETS, LENGTHS), max_size=4)
ENDS = st.sampled_from(["near", "far"])
FLAG = st.booleans()
INDEX = st.integers(0, WORDS - 1)


def step(name, *arguments):
    return st.tuples(st.just(name), *arguments)


STEPS = st.one_of(
    step("settle"),  # the first one is what failures shrink to
    step("send", ENDS, SPANS, SPANS, FLAG, FLAG),
    step("inline", ENDS, st.binary(max_size=256), SPANS, FLAG),
    step("write", ENDS, SPANS, OFFSETS, FLAG, FLAG),
    step("immediate", ENDS, SPANS, OFFSETS, st.integers(0, 2**32 - 1), FLAG),
    step("read", ENDS, SPANS, OFFSETS, FLAG),
    step("atomic", ENDS, INDEX, INDEX, st.integers(0, TOP), FLAG, FLAG),
    step("many", ENDS, st.lists(st.tuples(OFFSETS, LENGTHS, OFFSETS), max_size=6)),
    step("map", ENDS, st.permutations(range(PAGES)), st.integers(0, PAGES - 1)),
    step("bind", ENDS, OFFSETS, LENGTHS),
    step("unmap", ENDS, st.sampled_from(["region", "window"]), FLAG),
    step("mapped_write", ENDS, OFFSETS, LENGTHS, OFFSETS),
    step("mapped_read", ENDS, OFFSETS, LENGTHS, OFFSETS),
    step("window_write", ENDS, OFFSETS, LENGTHS),
    step("register", ENDS, LENGTHS, st.integers(0, 9)),
    step("deregister", ENDS),
    step("extra_write", ENDS, OFFSETS),
    step("resize", ENDS, st.integers(64, 4096)),
    step("arm", ENDS),
    step("modify", st.integers(0, 100)),
    step("reconnect", ENDS),
    step("reject", st.binary(max_size=20)),
    step(
        "transient",
        ENDS,
        st.sampled_from(
            ["cq", "pd", "mr", "fast_register_mr", "mw", "qp", "connector", "listener"]
        ),
    ),
    step(
        "refused",
        ENDS,
        st.sampled_from(
            ["flags", "segment", "sge", "inline", "atomic", "immediate", "registered", "bound"]
        ),
    ),
)


def walk(provider, steps, *, crc, is_shared):
    run = Run(provider, crc=crc, is_shared=is_shared)
    try:
        actor = None
        for taken in steps:
            if run.must_settle_before(taken, actor):
                run.settle()
            if is_request(taken):
                actor = taken[1]
            getattr(run, taken[0])(*taken[1:])
        run.settle()
    finally:
        run.pair.close()


def test_any_walk_over_the_objects_does_what_the_model_does(provider, scaled):
    with nd.Adapter.open(provider) as adapter:
        if not {"create_fast_register_mr", "create_mw"} <= adapter.info.features:
            pytest.skip("no memory that requests map")
    walked = 0

    @settings(max_examples=scaled(WALKS), suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, min_size=LENGTH, max_size=LENGTH), FLAG, FLAG)
    def walk_all(steps, crc, is_shared):
        nonlocal walked
        walk(provider, steps, crc=crc, is_shared=is_shared)
        walked += len(steps)

    walk_all()
    assert walked >= scaled(WALKS) * LENGTH
