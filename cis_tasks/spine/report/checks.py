"""The quality checks, and what to note."""

from __future__ import annotations

from cis_tasks.spine.calibration import Calibration, Gate
from cis_tasks.spine.markup import Markup, element, join
from cis_tasks.spine.report.parts import kind, sign, table
from cis_tasks.spine.report.words import capital, number, share

SHARES = frozenset({"video_and_sensors_disagree", "recording_partial", "tag_seldom_seen"})


def list_checks(calibration: Calibration) -> Markup:
    """The quality checks as a table."""
    rows = [
        (
            join(sign(kind(gate)), " ", element("span", _outcome(gate))),
            element("span", capital(gate.name)),
            _value(gate, gate.value),
            f"{'≤' if gate.sense == 'at_most' else '≥'} {_value(gate, gate.limit)}",
            _explained(gate),
        )
        for gate in calibration.gates
    ]
    return join(
        element("p", "A required check that is not passed makes the session unusable; the others "
                "ask for attention. Values are those of the sensor that does worst."),
        table(("Result", "Check", "Found", "Needed", "What it says"), rows, numbers=(2, 3)),
    )  # fmt: skip


def _explained(gate: Gate) -> Markup:
    hint = [] if gate.passed else [element("br"), element("strong", gate.hint)]
    look = "soft passed" if gate.passed else "soft"  # left out where there is little room
    return element("span", capital(gate.why), ".", *hint, class_=look)


def list_warnings(calibration: Calibration) -> Markup:
    """What to note; nothing where there is nothing."""
    if not calibration.warnings:
        return Markup("")
    return element("ul", *(element("li", warning) for warning in calibration.warnings))


def _outcome(gate: Gate) -> str:
    if gate.passed:
        return "Passed"
    return "Failed" if gate.level == "fail" else "Attention"


def _value(gate: Gate, value: float) -> str:
    if gate.code in SHARES:
        return share(value)
    gap = "" if gate.unit in {"", "°"} else " "
    return f"{number(value, '.3g')}{gap}{gate.unit}"
