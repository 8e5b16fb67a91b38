"""How a series was taken, by its tags: MR or not, T1-weighted or not, with contrast or without."""

import re
from dataclasses import dataclass

from ..scan import pydicom


KNOWS = "the network knows T1-weighted MR with contrast alone."

# In names, digits end a word as blanks do: "3DT1", "T1GD", "AXT1POST".
T1_NAMES = re.compile(
    r"(?<![A-Z])(AX|SAG|COR|TRA|[23]D|[SE])?T1|MP2?-?RAGE|SPGR|BRAVO|VIBE|THRIVE|LAVA|TFL3D", re.IGNORECASE
)
OTHER_NAMES = re.compile(
    r"T2|FLAIR|DWI|DTI|ADC|SWI|SWAN|BOLD|PERF|TOF|ASL|TRACE|SCOUT|\bPD\b|LOCALI[SZ]ER", re.IGNORECASE
)
# An examination "w/wo contrast" has series of both kinds.
BOTH_NAMES = re.compile(
    r"\b(W(ITH)?\W*(AND\W*)?W(/?O|ITHOUT)|W(/?O|ITHOUT)\W*(AND\W*)?W(ITH)?|PRE\W*(AND\W*)?POST)\b( CON\w*| GAD\w*)?",
    re.IGNORECASE,
)
# "Pre" and "post" may mean a treatment or a saturation pulse, "without" the suppression of fat or other extras.
TREATMENT = r"OP|RT|SURG|RESEC|BIOPS|TREAT|TX|RAD|SAT"
WITHOUT_NAMES = re.compile(
    r"((?<![A-Z])(NON?|OHNE|SANS|SENZA|SIN|BEZ|PRE)[- ]?([CK]ON|ENH|GA?D|KM)"
    rf"|(?<![A-Z])PRE(?![A-Z]|[- ]?({TREATMENT}))"
    r"|(?<![A-Z])(W[/ ]?O|WITHOUT|OHNE)(?![A-Z]| ?(F|MT|MPR))|(?<![A-Z])(VOR|O\.?) ?KM"
    r"|(?<![A-Z])NATIV|UNENH|(?<![A-Z])C-(?!\w)|(?<!\S)-C(?![A-Z]))\w*(\W+([CK]ONTRAST|GA?D|KM)\w*)?",
    re.IGNORECASE,
)
CONTRAST_NAMES = re.compile(
    r"[CK]ONTRAST|GAD|(?<![A-Z])GD|\+ ?C\b|(?<![A-Z])C ?\+|T1-?C(?![A-Z])|(?<![A-Z])(CE|[MNP]?KM)(?![A-Z])"
    rf"|(?<![A-Z])POST((GD|KM|CON|C(?![A-Z]))|(?![A-Z]|[- ]?({TREATMENT})))",
    re.IGNORECASE,
)
NO_AGENT = re.compile(r"N(/?A)?|NO(NE)?(?!\.).*", re.IGNORECASE)
# In ms, for a spin echo: T1 weighting takes both short.
MAX_T1_REPETITION_MS = 1200
MAX_T1_ECHO_MS = 35


@dataclass(frozen=True)
class Protocol:
    """What the tags say; None where they say nothing, or contradict each other.

    Attributes:
        is_mr: whether it is MR.
        is_t1: whether it is T1-weighted.
        has_contrast: whether the person had a contrast agent.
    """

    is_mr: bool
    is_t1: bool | None
    has_contrast: bool | None

    @property
    def rank(self) -> tuple[int, ...]:
        """The higher, the nearer to what the network knows."""
        certainty = {True: 2, None: 1, False: 0}
        return int(self.is_mr), certainty[self.is_t1], certainty[self.has_contrast]

    @property
    def words(self) -> str:
        if not self.is_mr:
            return "no MR"
        weighting = {True: "T1-weighted", None: "of unknown weighting", False: "not T1-weighted"}[self.is_t1]
        contrast = {True: " with contrast", None: "", False: " without contrast"}[self.has_contrast]
        return weighting + contrast

    @property
    def warning(self) -> str | None:
        """A sentence unless this is T1-weighted MR with contrast."""
        if not self.is_mr:
            return f"By its tags this is no MR scan: {KNOWS}"
        if self.is_t1 is False:
            return f"By its tags this series is not T1-weighted: {KNOWS}"
        if self.has_contrast is False:
            return f"By its tags this series was taken without contrast: {KNOWS}"
        if self.is_t1 and self.has_contrast:
            return None
        return f"The tags do not say whether this is T1-weighted with contrast: {KNOWS}"


def protocol_of(tags: "pydicom.Dataset") -> Protocol:
    """How the series of a file was taken."""
    return Protocol(str(tags.get("Modality", "MR")) == "MR", _is_t1(tags), _has_contrast(tags))


def _names(dataset: "pydicom.Dataset") -> list[str]:
    keywords = ("AcquisitionContrast", "SeriesDescription", "ProtocolName", "SequenceName")
    return [str(dataset.get(keyword, "")).replace("_", " ") for keyword in keywords]


def _is_t1(dataset: "pydicom.Dataset") -> bool | None:
    description = " ".join(_names(dataset))
    # "T1 FLAIR" is T1-weighted, "T2 FLAIR" is not.
    if T1_NAMES.search(description) and "T2" not in description.upper():
        return True
    if OTHER_NAMES.search(description):
        return False
    repetition, echo = dataset.get("RepetitionTime"), dataset.get("EchoTime")
    if not repetition or not echo:
        return None
    return float(repetition) <= MAX_T1_REPETITION_MS and float(echo) <= MAX_T1_ECHO_MS


def _has_contrast(dataset: "pydicom.Dataset") -> bool | None:
    """None if the tags say nothing about it, or contradict each other."""
    description = " ".join(BOTH_NAMES.sub("", name) for name in _names(dataset))
    agent = str(dataset.get("ContrastBolusAgent") or "").strip()
    no_agent = bool(NO_AGENT.fullmatch(agent))
    is_without = no_agent or bool(WITHOUT_NAMES.search(description))
    is_with = bool(
        (agent and not no_agent)
        or dataset.get("ContrastBolusAgentSequence")
        or CONTRAST_NAMES.search(WITHOUT_NAMES.sub(" ", description))
    )
    return None if is_with == is_without else is_with
