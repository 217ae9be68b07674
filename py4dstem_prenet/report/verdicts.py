"""Verdicts: for each question of a user a light and an answer, made from flags.

Green: go on. Amber: read the reason, then go on. Red: do not go on yet. The light is that of the most serious flag.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core import SEVERITIES, Flag, worst_severity

LIGHTS = dict(zip(SEVERITIES, ("green", "amber", "red"), strict=True))
_TOPICS = {  # topic: question, and an answer for each light
    "calibration": ("Does the calibration belong to these data?", {
        "green": "Yes: the data did not change after the calibration.",
        "amber": "Yes, but the stored uncertainties belong to an earlier measurement.",
        "red": "No: the data or a part of the calibration changed afterward."}),
    "origin": ("Was the origin found?", {
        "green": "Yes.", "amber": "Yes, with reservations.", "red": "No."}),
    "descan": ("Is the descan fit good enough?", {
        "green": "Yes. Use the fitted origin.", "amber": "Yes. Use the fitted origin, and read the warnings.",
        "red": "No."}),
    "ellipse": ("Is the elliptical distortion known?", {
        "green": "Yes, and it is in the calibration.",
        "amber": "No: the calibration holds no ellipse, or this scan does not confirm it.",
        "red": "No: the ellipse in the calibration disagrees with this scan."}),
    "pixel_size": ("Is the pixel size known?", {
        "green": "Yes, and it is in the calibration.", "amber": "Yes, with reservations.", "red": "No."}),
    "rotation": ("Is the rotation between scan and pattern known?", {
        "green": "Yes, and it is in the calibration.", "amber": "Yes, with reservations.", "red": "No."}),
    "detector": ("Are the noise and the faults of the detector known?", {
        "green": "Yes.", "amber": "In part: read the warnings.", "red": "No."}),
    "denoising": ("Can denoised patterns be used?", {
        "green": "Yes.", "amber": "Only to look at, and to measure quantities that are kept.", "red": "No."}),
}
_OVERALL = ("Can I go on?", {"green": "Go on.", "amber": "Go on after you have read the amber answers.",
                             "red": "Do not go on yet: read the red answers."})


@dataclass(frozen=True, repr=False)
class Verdict:
    """The answer to one question.

    Attributes
    ----------
    topic : str
        "calibration", "origin", "descan", "ellipse", "pixel_size", "rotation", "detector", "denoising", or "overall".
    question : str
        The question.
    light : str
        "green", "amber" or "red".
    answer : str
        The answer.
    flags : tuple of Flag
        Why, the weightiest first.
    """

    topic: str
    question: str
    light: str
    answer: str
    flags: tuple[Flag, ...] = ()

    @property
    def why(self) -> tuple[str, ...]:
        """The flags as sentences."""
        return tuple(str(flag) for flag in self.flags)

    def __repr__(self):
        return f"<{self.topic}: {self.light}. {self.answer}>"


def make_verdict(topic: str, flags, details=()) -> Verdict:
    """Answer a question from flags.

    Parameters
    ----------
    topic : str
        "calibration", "origin", "descan", "ellipse", "pixel_size", "rotation", "detector" or "denoising".
    flags : iterable of Flag
        What decides the light.
    details : iterable of Flag
        Text that is shown beside the verdict.

    Returns
    -------
    Verdict
        The verdict, its deciding flags sorted by severity.

    Examples
    --------
    >>> from py4dstem_prenet.core import Flag
    >>> make_verdict("detector", [Flag("inverted")]).light
    'amber'
    """
    flags = tuple(sorted(flags, key=lambda flag: -SEVERITIES.index(flag.severity)))
    light = LIGHTS[worst_severity(flags)]
    question, answers = _TOPICS[topic]
    return Verdict(topic, question, light, answers[light], (*flags, *details))


def overall(verdicts) -> Verdict:
    """Join verdicts on a calibration: as bad as the worst light. Denoising does not count; a calibration needs none.

    Parameters
    ----------
    verdicts : iterable of Verdict
        The verdicts.

    Returns
    -------
    Verdict
        "Can I go on?", answered.
    """
    order = list(LIGHTS.values())
    worst = max((order.index(v.light) for v in verdicts if v.topic != "denoising"), default=0)
    question, answers = _OVERALL
    return Verdict("overall", question, order[worst], answers[order[worst]])
