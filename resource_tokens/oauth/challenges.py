"""
Challenges: why a resource server refused, in its own words (RFC 9110 11.6.1, RFC 6750 3).

What is read here was written by a server: it may explain an answer, and decides nothing by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.resources import parse_scopes

__all__ = ["Challenge", "challenges_in"]


@dataclass(frozen=True, slots=True)
class Challenge:
    """
    One challenge of a `WWW-Authenticate` header.

    Attributes:
        scheme: The authentication scheme, in lower case.
        parameters: Its parameters, their names in lower case.
    """

    scheme: str
    parameters: Mapping[str, str]

    @property
    def error(self) -> str:
        """
        The error code (RFC 6750 3.1); empty if there is none.
        """
        return self.parameters.get("error", "")

    @property
    def scopes(self) -> frozenset[str]:
        """
        The scopes it asks for (RFC 6750 3); none if one of them is no scope.
        """
        try:
            return parse_scopes(self.parameters.get("scope", ""))
        except ConfigurationError:
            return frozenset()

    @property
    def resource_metadata(self) -> str | None:
        """
        Where the metadata of the resource is (RFC 9728 5.1), as the server says.
        """
        return self.parameters.get("resource_metadata")

    @property
    def acr_values(self) -> tuple[str, ...]:
        """
        The authentication contexts it would accept, the preferred one first (RFC 9470 3).
        """
        return tuple(self.parameters.get("acr_values", "").split())

    @property
    def max_age(self) -> timedelta | None:
        """
        How long ago the user may have authenticated (RFC 9470 3).
        """
        value = self.parameters.get("max_age", "")
        # RFC 9470 3: "a non-negative integer".
        if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
            return None
        return timedelta(seconds=int(value))

    @property
    def claims(self) -> str | None:
        """
        The claims that the token misses, as Microsoft's APIs write them.
        """
        return self.parameters.get("claims")


def challenges_in(lines: Iterable[str]) -> list[Challenge]:
    """
    The challenges in the lines of a `WWW-Authenticate` header, in their order.

    A challenge with a parameter twice is left out. Where a line stops making sense, the challenge
    before that place is left out, and so is the rest of the line: nobody can say what belongs to
    what.

    Args:
        lines: The value of each header line.
    """
    found: list[Challenge] = []
    room = _MAX_LENGTH
    for line in lines:
        room -= len(line)
        if room < 0:
            break
        found += _challenges_in_line(line)
    return found


def _challenges_in_line(line: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    malformed: set[int] = set()
    at = _skip(line, 0)
    while at < len(line):
        # RFC 9110 11.6.1: "each challenge can contain a comma-separated list of authentication
        # parameters", so what follows a comma goes with the challenge before it if it is a
        # parameter.
        if found and (match := _PARAMETER.match(line, at)):
            name, parameters = match[1].lower(), found[-1][1]
            # RFC 6750 3: each "MUST NOT appear more than once".
            if name in parameters:
                malformed.add(len(found) - 1)
            parameters[name] = match[2] or _ESCAPED.sub(r"\1", match[3])
        elif match := _SCHEME.match(line, at):
            found.append((match[1].lower(), {}))
        else:
            malformed.add(len(found) - 1)
            break
        at = _skip(line, match.end())
    return [
        Challenge(scheme, MappingProxyType(parameters))
        for index, (scheme, parameters) in enumerate(found)
        if index not in malformed
    ]


def _skip(line: str, at: int) -> int:
    # RFC 9110 5.6.1.2: "A recipient MUST parse and ignore a reasonable number of empty list
    # elements".
    while at < len(line) and line[at] in " \t,":
        at += 1
    return at


_MAX_LENGTH = 16 * 1024

# None of these gives back what it has matched (`++`, `*+`), so that no input takes long.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # noqa: S105 - RFC 9110's word, no secret
_TEXT = r"[^\x00-\x08\x0a-\x1f\x7f"
_QUOTED = rf'"((?:{_TEXT}"\\]|\\{_TEXT}])*+)"'
_END = r"[ \t]*+(?=,|\Z)"
_ESCAPED = re.compile(r"\\(.)")
# RFC 9110 11.2: auth-param = token BWS "=" BWS ( token / quoted-string )
_PARAMETER = re.compile(rf"({_TOKEN})[ \t]*+=[ \t]*+(?:({_TOKEN})|{_QUOTED}){_END}")
# RFC 9110 11.3: challenge = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
_SCHEME = re.compile(
    rf"({_TOKEN})(?:{_END}| ++(?:[A-Za-z0-9._~+/-]++=*+{_END}|(?={_TOKEN}[ \t]*+=)))"
)
