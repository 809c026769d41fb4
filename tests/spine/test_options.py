from __future__ import annotations

import pytest

from cis_tasks.errors import PermanentError
from cis_tasks.spine.options import Options


def test_parameters_override_the_defaults():
    assert Options.from_params({"max_outlier_share": 0.1}).max_outlier_share == 0.1
    assert Options.from_params({}) == Options()


def test_an_unknown_parameter_is_named_with_the_known_ones():
    with pytest.raises(PermanentError, match="smoothing") as caught:
        Options.from_params({"smoothing": 1})
    assert caught.value.code == "params_unknown"
    assert "smoothing_deg_sqrt_s" in caught.value.hint


@pytest.mark.parametrize(
    "params",
    [
        {"max_outlier_share": 2},
        {"max_outlier_share": "much"},
        {"max_offset_sd_ms": 0},
        {"max_offset_sd_ms": float("nan")},
        {"max_iterations": 2.5},
        {"full_search_frames": 0},
        {"full_search_frames": True},
        {"device": "tpu"},
        {"device": 0},
        {"device": "cuda:x"},
    ],
)
def test_a_senseless_parameter_is_named(params):
    with pytest.raises(PermanentError) as caught:
        Options.from_params(params)
    assert caught.value.code == "params_invalid"
    assert f"{next(iter(params))}=" in caught.value.message
