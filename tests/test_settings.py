from __future__ import annotations

import os

import pytest

from cis_tasks.errors import SettingsError
from cis_tasks.settings import read_settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CIS_")]:
        monkeypatch.delenv(name)


def test_defaults_are_the_names_that_users_know() -> None:
    assert read_settings().input_bucket == "cis-data-input"
    assert read_settings().output_bucket == "cis-data-output"


def test_a_queue_url_is_read_for_each_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIS_QUEUE_URL_SPINE", "https://sqs.test/1/jobs.fifo")
    assert read_settings().queue_urls == {"spine": "https://sqs.test/1/jobs.fifo"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CIS_MAX_ATTEMPTS", "0"),
        ("CIS_MAX_ATTEMPTS", "many"),
        ("CIS_RETRY_BACKOFF_S", "-1"),
        ("CIS_TIME_LIMIT_S", "43201"),
        ("CIS_INPUT_BUCKET", ""),
        ("CIS_SCRATCH", "/no/such/folder"),
        ("CIS_QUEUE_URL_SPINE", "jobs.fifo"),
        ("CIS_QUEUE_URL_SPINE", "https://sqs.test/1/jobs"),
    ],
)
def test_nonsense_is_refused_at_the_start_and_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert variable.removesuffix("_SPINE") in str(caught.value)
    assert value in str(caught.value)
