"""IMU recordings and AprilTag video in, calibrated spinal angles out.

>>> from cis_tasks.spine import calibrate
>>> result = calibrate(Path("session.csv"), Path("session.mp4"), Path("session.json"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cis_tasks.spine.calibration import Calibration as Calibration
    from cis_tasks.spine.options import Options as Options
    from cis_tasks.spine.procedure import calibrate as calibrate
    from cis_tasks.spine.rig import Rig as Rig

__all__ = ["Calibration", "Options", "Rig", "calibrate"]

_HOMES = {
    "Calibration": "calibration",
    "Options": "options",
    "Rig": "rig",
    "calibrate": "procedure",
}


def __getattr__(name: str) -> Any:
    """Load torch and OpenCV only when something of theirs is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
