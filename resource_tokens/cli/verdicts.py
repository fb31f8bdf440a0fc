"""
What an audit finds out, and what the answers of an API mean. It asks nobody.

What an API says to the right token is the measure for all else: whoever lets in what must be
refused has failed, and whoever treats everything alike, right or wrong, has told nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from resource_tokens.settings import AuditRequest

__all__ = [
    "Answer",
    "ApiReport",
    "Presented",
    "Report",
    "Result",
    "Verdict",
    "judged",
    "measured",
    "measured_by",
]


class Presented(StrEnum):
    """
    What an API is shown.
    """

    RIGHT = "right token"
    NONE = "no token"
    CANARY = "canary's token"
    EXPIRED = "expired token"
    SCOPE = "wrong scope"


class Verdict(StrEnum):
    """
    What an answer means.
    """

    LET_IN = "let in"
    """The right token, and it was taken: as it should be."""
    REFUSED = "refused"
    """What must be refused was refused."""
    ACCEPTED = "accepted"
    """What must be refused was taken."""
    UNCLEAR = "unclear"
    """Nothing can be said."""
    NOT_TRIED = "not tried"
    """Nobody has asked for it to be tried, or it cannot be had."""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What an API said.

    Attributes:
        status: The status; `None` if there was no answer.
        detail: The error code of its challenge, where it redirects to, or what went wrong.
    """

    status: int | None
    detail: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.status or ""), self.detail) if part)


@dataclass(frozen=True, slots=True)
class Result:
    """
    What came of presenting one thing to one API.

    Attributes:
        why: What there is to know beyond the verdict.
    """

    presented: Presented
    verdict: Verdict
    answer: Answer | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class ApiReport:
    """
    What came of asking one API.

    Attributes:
        line: The line of the settings that names it.
        request: What it was asked; `None` if nobody has named a request.
    """

    destination: str
    resource: str
    line: int | None
    request: AuditRequest | None
    results: tuple[Result, ...]

    def result_of(self, presented: Presented) -> Result:
        """
        What came of presenting this.
        """
        return next(result for result in self.results if result.presented is presented)

    @property
    def verdict(self) -> Literal["fails", "unclear", "holds"]:
        """
        All of it in a word.
        """
        verdicts = {result.verdict for result in self.results}
        if Verdict.ACCEPTED in verdicts:
            return "fails"
        return "unclear" if Verdict.UNCLEAR in verdicts else "holds"


@dataclass(frozen=True, slots=True)
class Report:
    """
    What came of an audit. It holds no token.

    Attributes:
        origin: The settings.
    """

    origin: str
    at: datetime
    apis: tuple[ApiReport, ...]

    @property
    def status(self) -> int:
        """
        The exit status: 1 if an API has accepted what it must refuse, 2 if something could not be
        judged, 0 if all is well.
        """
        verdicts = {api.verdict for api in self.apis}
        if "fails" in verdicts:
            return 1
        return 2 if "unclear" in verdicts or not verdicts else 0


def measured(answer: Answer) -> Result:
    """
    What the answer to the right token means.
    """
    if answer.status is not None and 200 <= answer.status < 300:
        return Result(Presented.RIGHT, Verdict.LET_IN, answer)
    why = "name a request that the right token is good for"
    if answer.status in (401, 403):
        why = f"the right token is refused as well: {why}"
    elif is_no_answer(answer):
        why = "the API did not answer it as usual: try again later"
    return Result(Presented.RIGHT, Verdict.UNCLEAR, answer, why)


def measured_by(right: Result, none: Result) -> Result:
    """
    The same beside the answer to no token: an API that refuses whoever has none, and answers the
    right one that there is nothing to be seen, has let it in.
    """
    answer = right.answer
    if right.verdict is Verdict.LET_IN or none.verdict is not Verdict.REFUSED or answer is None:
        return right
    if answer.status in (401, 403) or is_no_answer(answer):
        return right
    return replace(right, verdict=Verdict.LET_IN, why="it got further than without a token")


def judged(answer: Answer, control: Answer | None, *, alike: bool) -> tuple[Verdict, str]:
    """
    What an answer to something that must be refused means, by the side of that to the right token.

    Args:
        answer: The answer.
        control: The answer to the right token.
        alike: Whether scopes were not what was wrong.
    """
    status = answer.status
    if status is not None and 200 <= status < 300:
        return Verdict.ACCEPTED, ""
    if is_no_answer(answer):
        return Verdict.UNCLEAR, "the API did not answer it as usual: try again later"
    if status is not None and 300 <= status < 400:
        return Verdict.UNCLEAR, "it redirects, and nobody has followed it"
    if control is None or is_no_answer(control):
        return Verdict.UNCLEAR, "there is no answer to the right token to compare with"
    if status == control.status:
        return Verdict.UNCLEAR, "the right token gets the same answer"
    good = control.status is not None and 200 <= control.status < 300
    # RFC 6750 3.1, and APIs that hide what somebody may not see.
    refusals = (400, 401, 403, 404) if good else (401, 403)
    if status not in refusals:
        return Verdict.UNCLEAR, "that is no refusal of a token"
    if status in (403, 404) and not alike:
        return Verdict.UNCLEAR, (
            "it may be refused for its scopes, not for its audience: let the canary have the "
            "scopes of this API"
        )
    return Verdict.REFUSED, ""


def is_no_answer(answer: Answer) -> bool:
    """
    Whether an answer says something of the state of the API only.
    """
    return answer.status is None or answer.status == 429 or answer.status >= 500
