"""What the report cannot say, and how it came about."""

from __future__ import annotations

from cis_tasks.spine.calibration import Calibration
from cis_tasks.spine.markup import Markup, element, join

LIMITS = (
    (
        "The tags and sensors sit on the skin. The angles are those between patches of skin over "
        "the spine, not between vertebrae; skin moves over bone, and no image of the bone was used."
    ),
    "The angles are not Cobb angles, and cannot be read as such.",
    (
        "This report is a measurement, not a diagnosis. What it means for a person is for a "
        "clinician to say, who knows the person and how the recording was made."
    ),
    (
        "The ±95 % bands hold the noise of the measurement alone: not the movement of the skin, "
        "nor how exactly the tags were stuck on."
    ),
)
METHOD = (
    "Each segment of the spine carries a motion sensor (IMU) with a printed AprilTag; a calibrated "
    "camera sees how the tags are turned while the sensors' gyroscopes measure how fast they turn. "
    "A robust least-squares fit over the whole session finds what makes the two agree: the offset "
    "and the rate between the clocks, and each sensor's bias and its mounting on its tag. "
    "Camera and gyroscope are then combined frame by frame, and the angles of each segment are "
    "taken relative to the one below it."
)


def list_limits() -> Markup:
    """What the angles are not."""
    return join(
        element("ul", *(element("li", limit) for limit in LIMITS)),
    )


def explain(calibration: Calibration) -> Markup:
    """The method, and what each term means."""
    terms = (
        (
            "Flexion",
            (
                "turning about the lower segment's axis to the right; bending forwards is "
                "positive, backwards negative."
            ),
        ),
        (
            "Lateral bending",
            (
                "turning about the axis to the front that is square to the other two; "
                "to the person's right is positive."
            ),
        ),
        (
            "Axial rotation",
            (
                "turning about the upper segment's axis towards the head; to the "
                "person's left is positive."
            ),
        ),
        (
            "Segment axes",
            (
                "x to the front, y towards the head, z to the right (ISB; Wu et al., "
                "J Biomech 35:543, 2002). The angles are Cardan angles in the order flexion, "
                "lateral bending, axial rotation (Grood & Suntay, J Biomech Eng 105:136, 1983). "
                f"{_zero(calibration)}"
            ),
        ),
        (
            "Disagreement",
            (
                "the angle between a tag as the camera sees it in a frame and as the "
                "gyroscope carries it there."
            ),
        ),
        ("Bias", "what a gyroscope reads at rest, in the sensor's own axes."),
        (
            "Mounting",
            ("the rotation that takes the tag's axes to the sensor's, as an angle about an axis."),
        ),
        (
            "Reprojection",
            (
                "root mean square distance in the image between a tag's corners as found "
                "and as its pose puts them."
            ),
        ),
        (
            "χ²",
            (
                "mean squared disagreement over its expected size: near 1 when the errors are as "
                "large as expected, below when they are smaller."
            ),
        ),
    )
    listed = [element("div", element("dt", term), element("dd", said)) for term, said in terms]
    return join(
        element("p", METHOD),
        element("dl", *listed, class_="terms"),
    )


def _zero(calibration: Calibration) -> str:
    rig = calibration.rig
    given = [tag.R_tag_segment is not None for _, tag in rig.ordered_tags]
    if all(given):
        return "Zero is where the axes that the rig gives for the segments are parallel."
    if rig.neutral_s:
        start, end = rig.neutral_s
        return f"Zero is the neutral pose between {start:g} and {end:g} s of the video."
    return "Zero is where the tags are parallel, as if all were stuck upright on the back."
