"""
Reading `WWW-Authenticate` (RFC 9110 11.6.1, RFC 6750 3, RFC 9470 3, RFC 9728 5.1).
"""

from __future__ import annotations

import string
import time
from datetime import timedelta
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resource_tokens.oauth.challenges import Challenge, challenges_in

TOKEN = st.text(alphabet=string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1)
TEXT = st.text(alphabet=st.characters(codec="latin-1", exclude_categories=["Cc"]))


def read(*lines: str) -> list[tuple[str, dict[str, str]]]:
    return [(found.scheme, dict(found.parameters)) for found in challenges_in(lines)]


def the(line: str) -> Challenge:
    (found,) = challenges_in([line])
    return found


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        (" , ,", []),
        ("Bearer", [("bearer", {})]),
        ("Bearer , ", [("bearer", {})]),
        ('BEARER ERROR="invalid_token"', [("bearer", {"error": "invalid_token"})]),
        ("Bearer error=invalid_token", [("bearer", {"error": "invalid_token"})]),
        ('Bearer\trealm="x"', []),
        ('Bearer   realm = "x" ,, scope\t=\t"a b"', [("bearer", {"realm": "x", "scope": "a b"})]),
        (r'Bearer realm="a, \"b\\", x=""', [("bearer", {"realm": 'a, "b\\', "x": ""})]),
        ('Bearer realm="Basic realm=x, DPoP"', [("bearer", {"realm": "Basic realm=x, DPoP"})]),
        ('Bearer, realm="x"', [("bearer", {"realm": "x"})]),
        ("Bearer realm=x, Basic", [("bearer", {"realm": "x"}), ("basic", {})]),
        ("Negotiate, Bearer a=b", [("negotiate", {}), ("bearer", {"a": "b"})]),
        ("Negotiate YWJj+/==, Bearer a=b", [("negotiate", {}), ("bearer", {"a": "b"})]),
        ('DPoP algs="ES256 PS256", Bearer', [("dpop", {"algs": "ES256 PS256"}), ("bearer", {})]),
        ('Bearer realm="\xe9"', [("bearer", {"realm": "\xe9"})]),
    ],
)
def test_what_a_line_says(line: str, expected: Any) -> None:
    """
    R9110-3: several challenges may share one field; names are compared without their case.
    """
    assert expected == read(line)


def test_challenges_of_several_lines() -> None:
    """
    R9110-3, R6750-4: in their order, and a line that makes no sense costs none of the others.
    """
    lines = ['Basic realm="x"', 'Bearer "', 'Bearer error="a", DPoP error="b"']

    expected = [("basic", {"realm": "x"}), ("bearer", {"error": "a"}), ("dpop", {"error": "b"})]
    assert expected == read(*lines)


@pytest.mark.parametrize(
    "line",
    [
        'Bearer error="a", error="b"',
        'Bearer error="a", Error="a"',
        'Bearer error="a" scope="b"',
        'Bearer error="a',
        'Bearer error="a\\"',
        "Bearer error=https://x",
        "Bearer error=",
        'Bearer "x"',
        "Bearer a b",
        'error="a"',
        "=",
        'Bearer error="a\x00b"',
        'Bearer error="a\x7fb"',
        'Bearer error="a\\\nb"',
        'Bearer error="a"\n',
    ],
)
def test_a_malformed_challenge_is_left_out(line: str) -> None:
    """
    R6750-4: a parameter twice, and whatever is no challenge. `Bearer error=` is a token68.
    """
    assert [] == [found for found in challenges_in([line]) if found.error]


def test_the_others_of_the_line_stay() -> None:
    """
    R6750-4: a challenge with a parameter twice ends where the next one begins; where a line stops
    making sense, what was whole before is kept.
    """
    assert [("dpop", {"a": "c"})] == read("Bearer a=b, a=b, DPoP a=c")
    assert [("bearer", {"a": "b"})] == read('Bearer a=b, DPoP a=c, x="')


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda m: m.__name__)
def test_the_lines_of_a_real_response(library: Any) -> None:
    """
    R6750-4: as both libraries hand the lines of a header over.
    """
    headers = [("WWW-Authenticate", "Basic realm=x"), ("www-authenticate", 'Bearer error="a"')]
    response = library.Response(401, headers=headers)

    lines = response.headers.get_list("WWW-Authenticate")

    assert [("basic", {"realm": "x"}), ("bearer", {"error": "a"})] == read(*lines)


def test_the_parameters_that_have_a_meaning() -> None:
    """
    R6750-4, R9470-1, R9728-5: each by its own name, on whatever scheme.
    """
    found = the(
        'DPoP error="insufficient_user_authentication", scope="b a  b", max_age="300", '
        'acr_values="urn:x:two urn:x:one", claims="eyJ9", '
        'resource_metadata="https://api.example.com/.well-known/oauth-protected-resource"'
    )

    assert "insufficient_user_authentication" == found.error
    assert {"a", "b"} == found.scopes
    assert timedelta(minutes=5) == found.max_age
    assert ("urn:x:two", "urn:x:one") == found.acr_values
    assert "eyJ9" == found.claims
    expected = "https://api.example.com/.well-known/oauth-protected-resource"
    assert expected == found.resource_metadata


def test_the_parameters_that_are_not_there() -> None:
    """
    R6750-8: a challenge without an error says nothing.
    """
    found = the("Bearer")

    assert ("", frozenset(), ()) == (found.error, found.scopes, found.acr_values)
    assert (None, None, None) == (found.max_age, found.claims, found.resource_metadata)


@pytest.mark.parametrize("max_age", ["-1", "1.5", "1e3", "", "\u0663", "1" * 10, " 1"])
def test_a_max_age_that_is_no_number_of_seconds(max_age: str) -> None:
    """
    R9470-1: a non-negative integer, or nothing.
    """
    assert the(f"Bearer max_age={quoted(max_age)}").max_age is None


@pytest.mark.parametrize("scope", ['a "b', "a\tb", "a \xe9", "a\\b"])
def test_scopes_with_one_that_is_none(scope: str) -> None:
    """
    R6749-9: what is no scope is never asked for, nor is what stands beside it.
    """
    assert frozenset() == the(f"Bearer scope={quoted(scope)}").scopes


def test_what_is_too_long_is_not_read() -> None:
    """
    P10: 16 KiB in all; the lines before that are read.
    """
    long = f"Bearer realm={quoted('x' * 9000)}"

    assert 1 == len(challenges_in([long, long, "Bearer"]))


@pytest.mark.parametrize(
    "line",
    [
        '"' * 16_000,
        "a" * 16_000,
        "a " * 8_000,
        "a," * 8_000,
        "a=b," * 4_000,
        'Bearer a="' + '\\"' * 7_900,
        "Bearer" + " " * 15_000 + "=",
        "Bearer " + "a\t" * 7_000 + "=",
        "Bearer a" + "\t" * 15_000,
        "Bearer" + ", " * 7_000 + "=",
        "Bearer a" + "=" * 15_000 + "!",
        "Bearer a=b," * 1_400,
    ],
)
def test_no_line_takes_long(line: str) -> None:
    """
    P10: the time grows with the length, not with its square. The longest line takes milliseconds.
    """
    begun = time.perf_counter()

    challenges_in([line])

    assert time.perf_counter() - begun < 1


@given(st.lists(st.text(alphabet='Bearer =",\\ \t\x00ab\xe9', max_size=40) | st.text()))
def test_whatever_comes_is_a_list(lines: list[str]) -> None:
    """
    P10: no header raises, and what was read has no parameter without a name.
    """
    for found in challenges_in(lines):
        assert found.scheme == found.scheme.lower() != ""
        assert all(found.parameters)
        assert isinstance(found.scopes, frozenset)
        assert found.max_age is None or found.max_age >= timedelta()


@given(TOKEN, st.dictionaries(TOKEN.map(str.lower), TEXT, min_size=1, max_size=4))
def test_a_quoted_string_says_what_was_quoted(scheme: str, parameters: dict[str, str]) -> None:
    """
    R9110-3: commas, quotes and backslashes inside of quotes belong to the text.
    """
    line = f"{scheme} " + ", ".join(f"{name}={quoted(text)}" for name, text in parameters.items())

    assert [(scheme.lower(), parameters)] == read(line, "")


@given(st.lists(st.tuples(TOKEN, st.dictionaries(TOKEN.map(str.lower), TEXT)), max_size=3))
def test_challenges_one_after_the_other(wanted: list[tuple[str, dict[str, str]]]) -> None:
    """
    R9110-3: however many share a line, each keeps its own parameters.
    """
    line = ", ".join(
        " ".join([scheme, ", ".join(f"{n}={quoted(t)}" for n, t in parameters.items())])
        for scheme, parameters in wanted
    )

    assert [(scheme.lower(), parameters) for scheme, parameters in wanted] == read(line)
