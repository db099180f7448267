# SPDX-License-Identifier: Apache-2.0
"""The runner of the long campaigns: what it counts, and that it sees a failure."""

import pytest

import soak


@pytest.fixture(autouse=True)
def logs(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "ROOT", tmp_path)
    monkeypatch.setattr(soak, "LOGS", tmp_path)
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--effort'), parser.addoption('--first-seed', type=int)\n"
    )
    return tmp_path


def test_a_campaign_that_passes_is_one_clean_line(logs):
    (logs / "test_it.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    campaign = soak.Campaign(1, ("test_it.py",))

    line = soak.run("some", campaign, 0)

    assert line.startswith("some: 1 rounds, 2 passed, ")
    assert line.endswith(" min: clean")
    assert not campaign.failed


def test_a_campaign_that_fails_names_its_output_and_counts_on(logs):
    (logs / "test_it.py").write_text("def test_one(): assert not 'a wrong thing'\n")
    campaign = soak.Campaign(1, ("test_it.py",))

    line = soak.run("some", campaign, 0)

    assert "1 failed" in line
    assert "exit status 1, some-" in line
    (log,) = logs.glob("some-*.log")
    assert "a wrong thing" in log.read_text()


def test_a_campaign_without_tests_fails(logs):
    campaign = soak.Campaign(1, ("test_missing.py",))

    assert "nothing ran" in soak.run("some", campaign, 0)
    assert campaign.failed


def test_a_fuzz_target_that_did_not_end_fails_the_campaign():
    fuzzing = soak.Fuzzing(1, ())

    fuzzing.tally("stat::number_of_executed_units: 1200\n")

    assert fuzzing.counts["inputs"] == 1200
    assert fuzzing.failed == [f"1 of {len(soak.FUZZ_TARGETS)} targets ended in order"]


def test_every_round_draws_from_another_seed():
    commands = [" ".join(soak.Campaign(1, ("tests",)).command(seed, 0)) for seed in (1, 2)]

    assert "--first-seed=1000" in commands[0]
    assert "--first-seed=2000" in commands[1]


def test_tests_of_all_campaigns_exist(monkeypatch):
    monkeypatch.undo()
    for campaign in soak.campaigns().values():
        for test in campaign.tests:
            assert (soak.ROOT / test).exists(), test


def test_what_a_command_that_never_ends_has_started_is_ended_with_it():
    # The shell's child holds the output open for as long as it lives.
    assert soak.complete(["sh", "-c", "sleep 1000 & wait"], 0.1) == ("", "it never ended")
