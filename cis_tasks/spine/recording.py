"""The recording: what the IMUs measured, sensor by sensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cis_tasks.errors import PermanentError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Track:
    """One sensor's readings.

    Attributes:
        sensor: sensor id.
        time_s: (N,) the sensors' clock, strictly increasing.
        gyr: (N, 3) angular rate, rad/s, sensor axes.
        acc: (N, 3) specific force, m/s², sensor axes; NaN where not measured.
    """

    sensor: str
    time_s: Floats
    gyr: Floats
    acc: Floats

    @property
    def rate_hz(self) -> float:
        """Sample rate, from the median step."""
        return float(1 / np.median(np.diff(self.time_s)))

    def between(self, start_s: float, end_s: float) -> Track:
        """The readings from ``start_s`` to ``end_s``."""
        part = (self.time_s >= start_s) & (self.time_s <= end_s)
        return Track(self.sensor, self.time_s[part], self.gyr[part], self.acc[part])


@dataclass(frozen=True)
class Recording:
    """All sensors of one session.

    Attributes:
        file: name of the file, without folders.
        tracks: the sensors, by id.
        warnings: what was dropped, inferred or doubtful, in sentences.
    """

    file: str
    tracks: dict[str, Track]
    warnings: tuple[str, ...] = ()

    def select(self, sensors: Sequence[str]) -> tuple[Track, ...]:
        """The tracks of the named sensors.

        Raises:
            PermanentError: ``sensor_absent`` where the file lacks one, naming those it has.
        """
        if absent := [sensor for sensor in sensors if sensor not in self.tracks]:
            raise PermanentError(
                "sensor_absent",
                f"The rig names sensor {', '.join(absent)}, which {self.file} does not have; it "
                f"has {', '.join(sorted(self.tracks))}.",
                "Use the same sensor ids in the rig and in the recording: those of its sensor_id "
                "column, of its column names, or of its file names. A sensor that failed to "
                "record can be taken out of the rig.",
            )
        return tuple(self.tracks[sensor] for sensor in sensors)
