"""The OpenAPI document says what the API does: schemathesis finds nothing."""

from __future__ import annotations

import os
from typing import Any

import hypothesis
import pytest
import schemathesis
from running import Running
from schemathesis import GenerationMode
from schemathesis.config import (
    ChecksConfig,
    PositiveDataAcceptanceConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "6"))
# Bytes that fit the schema are hardly ever an image, and names hardly ever a job's inputs.
ACCEPTED = ["2xx", "400", "404", "409", "413", "415", "422"]


@pytest.fixture(scope="module")
def api(tier: Running) -> Any:
    checks = ChecksConfig(
        positive_data_acceptance=PositiveDataAcceptanceConfig(expected_statuses=ACCEPTED)
    )
    config = SchemathesisConfig(projects=ProjectsConfig(default=ProjectConfig(checks=checks)))
    return schemathesis.openapi.from_url(f"{tier.url}/openapi.json", config=config)


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_operation_is_as_its_description(api: Any, mode: GenerationMode) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) >= 12
    for operation in operations:
        try:
            cases = operation.as_strategy(generation_mode=mode)
            _check(cases)
        except hypothesis.errors.Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # what takes nothing takes nothing wrong


def _check(cases: Any) -> None:
    @hypothesis.given(case=cases)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def validate(case: schemathesis.Case) -> None:
        case.call_and_validate(timeout=120)

    validate()
