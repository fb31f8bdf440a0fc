"""
The token endpoint: what is sent, and which answers are believed.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resource_tokens import (
    AudienceMismatchError,
    AuthorizationServer,
    ClientCredentials,
    ClientSecretBasic,
    ClientSecretPost,
    ConfigurationError,
    OAuthError,
    RefreshToken,
    Resource,
    ResourceTokensError,
    TokenRequestError,
)
from resource_tokens.oauth.jwt import Claims, claims_of
from resource_tokens.oauth.messages import HTTPAnswer
from resource_tokens.oauth.token_endpoint import Issued, TokenRequest, issued_token, settle
from tests.test_tokens import asked

NASTY = ["a:b", "50%", "a+b", "a b", "é", "€", "a&b=c", 'q"\\', "p%20q", "~-._", "x" * 200]


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> HTTPAnswer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HTTPAnswer(status, headers or {"content-type": "application/json"}, raw)


def judged(
    body: Any, request: TokenRequest | None = None, others: frozenset[str] = frozenset()
) -> Issued:
    return issued_token(answer(body), request or asked(), others, 1_000_000.0)


def good(**changes: Any) -> dict[str, Any]:
    """
    A success response that differs from the usual one in what is named.
    """
    usual = {"access_token": "opaque-1", "token_type": "Bearer", "expires_in": 3600}
    return usual | changes


def signed(**claims: Any) -> str:
    return jwt.encode(claims, "k" * 32, algorithm="HS256")


def test_the_request_is_what_the_standards_ask_for() -> None:
    """
    R6749-4, R6749-6, R8707-1, P5: POST, form-encoded, `resource` byte for byte, scopes sorted.
    """
    resource = Resource("https://API.example.com:443/a%2Fb", extra={"tenant": "blue"})
    message = asked(resource=resource).message("https://login.example.com/token?tenant=a", 0.0)

    assert "POST" == message.method
    assert "https://login.example.com/token?tenant=a" == message.url
    assert "application/x-www-form-urlencoded" == message.headers["Content-Type"]
    assert [
        ("grant_type", "client_credentials"),
        ("resource", "https://API.example.com:443/a%2Fb"),
        ("tenant", "blue"),
        ("scope", "a b"),
    ] == parse_qsl(message.body.decode(), strict_parsing=True)


def test_an_empty_scope_is_not_sent() -> None:
    """
    R6749-5: parameters without a value are left out.
    """
    body = asked(scopes=frozenset()).message("https://x.example/", 0.0).body

    assert b"scope" not in body


@pytest.mark.parametrize("secret", NASTY)
def test_basic_credentials_are_form_urlencoded_first(secret: str) -> None:
    """
    R6749-2: a strict decoder gets back what was configured, for every character.
    """
    message = asked(client_auth=ClientSecretBasic(f"id-{secret}", secret)).message(
        "https://x.test", 0.0
    )
    encoded = b64decode(message.headers["Authorization"].removeprefix("Basic ")).decode("ascii")
    client_id, _, client_secret = encoded.partition(":")

    assert (f"id-{secret}", secret) == (unquote_plus(client_id), unquote_plus(client_secret))
    assert b"client_secret" not in message.body


@pytest.mark.parametrize("secret", NASTY)
def test_post_credentials_are_in_the_body_only(secret: str) -> None:
    """
    R6749-1, R6749-3: one method per request, and nothing in the URL.
    """
    message = asked(client_auth=ClientSecretPost("id", secret)).message("https://x.test", 0.0)

    assert [("client_id", "id"), ("client_secret", secret)] == parse_qsl(message.body.decode())[-2:]
    assert "Authorization" not in message.headers
    assert "https://x.test" == message.url


@pytest.mark.parametrize("method", [ClientSecretBasic, ClientSecretPost])
@pytest.mark.parametrize(("client_id", "secret"), [("", "s"), ("i", ""), (None, "s"), ("i", None)])
def test_missing_credentials_are_noticed_at_once(method: Any, client_id: Any, secret: Any) -> None:
    """
    An unset environment variable is a ConfigurationError, not a refused request later.
    """
    with pytest.raises(ConfigurationError, match="environment"):
        method(client_id, secret)


def test_a_good_answer_becomes_a_token() -> None:
    """
    R6749-14: unknown members are ignored; a long token is fine.
    """
    issued = judged(good(access_token="t" * 10_240, refresh_token="never used", x={"y": 1}))

    assert "t" * 10_240 == issued.token.reveal()
    assert "urn:x:a" == issued.token.resource
    assert frozenset({"a", "b"}) == issued.token.scopes
    assert timedelta(hours=1) == issued.lifetime
    assert datetime.fromtimestamp(1_003_600, UTC) == issued.token.expires_at
    assert () == issued.remarks


@pytest.mark.parametrize("token_type", ["bearer", "Bearer", "BEARER"])
def test_the_token_type_is_case_insensitive(token_type: str) -> None:
    """
    R6749-11: and it goes out as `Bearer`.
    """
    assert "Bearer" == judged(good(token_type=token_type)).token.token_type


@pytest.mark.parametrize("token_type", ["mac", "DPoP", "N_A", "", None, 1, ["Bearer"], "Bearer "])
def test_an_unknown_token_type_is_refused(token_type: Any) -> None:
    """
    R6749-12, R8693-5, X7, R9449-6: a token that is not understood is not used.
    """
    with pytest.raises(TokenRequestError, match="token_type"):
        judged(good(token_type=token_type))


ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"


@pytest.mark.parametrize("issued_type", [ACCESS_TOKEN, "urn:ietf:params:oauth:token-type:jwt"])
def test_an_issued_access_token_is_one(issued_type: str) -> None:
    """
    R8693-5: the response may say what was issued.
    """
    assert "opaque-1" == judged(good(issued_token_type=issued_type)).token.reveal()


@pytest.mark.parametrize("issued_type", [ID_JAG, "urn:ietf:params:oauth:token-type:id_token", 5])
def test_what_is_issued_as_something_else_is_not_sent(issued_type: Any) -> None:
    """
    R8693-5, RMCP-13: an assertion for another server is no access token, whatever its token_type.
    """
    with pytest.raises(TokenRequestError, match="no access token"):
        judged(good(issued_token_type=issued_type))
    with pytest.raises(TokenRequestError, match="token_type"):
        judged(good(token_type="N_A", issued_token_type=issued_type))


def test_a_missing_token_type_is_refused() -> None:
    """
    R6749-12: it is REQUIRED.
    """
    with pytest.raises(TokenRequestError, match="token_type"):
        judged({"access_token": "t", "expires_in": 60})


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (3600, 3600),
        ("3600", 3600),
        (3600.5, 3600.5),
        ("3599", 3599),
        (1, 1),
        (86401, 86400),
        (1e30, 86400),
        (10**400, 86400),
        ("99999999999999999999", 86400),
    ],
)
def test_lifetimes_are_read_and_capped(expires_in: Any, seconds: float) -> None:
    """
    R6749-13, T10: numbers, numbers as strings (Entra ID v1), at most a day.
    """
    assert timedelta(seconds=seconds) == judged(good(expires_in=expires_in)).lifetime


@pytest.mark.parametrize(
    "expires_in",
    [
        0,
        -1,
        "0",
        "-5",
        "soon",
        "",
        "nan",
        "NaN",
        "inf",
        "1_0",
        "١٢",
        " 12 ",
        True,
        False,
        [],
        {},
        [3600],
        -1e30,
        -(10**400),
    ],
)
def test_a_lifetime_that_is_none_is_refused(expires_in: Any) -> None:
    """
    T10, T12: zero, negative, NaN, boolean and other types are an error, not a loop.
    """
    with pytest.raises(TokenRequestError, match="expires_in"):
        judged(good(expires_in=expires_in))


def test_json_constants_that_are_no_json_are_refused() -> None:
    """
    T10: `NaN` and `Infinity` make the whole answer unreadable.
    """
    for constant in (b"NaN", b"Infinity", b"-Infinity", b"1e400"):
        body = b'{"access_token": "t", "token_type": "Bearer", "expires_in": %b}' % constant
        with pytest.raises(TokenRequestError, match=r"JSON|expires_in inf"):
            judged(body)


@pytest.mark.parametrize("response", [{}, {"expires_in": None}])
def test_a_missing_lifetime_is_five_minutes_and_an_event(response: dict[str, Any]) -> None:
    """
    R6749-13, T10: never forever.
    """
    body = {"access_token": "t", "token_type": "Bearer"} | response
    issued = judged(body)

    assert timedelta(seconds=300) == issued.lifetime
    assert ("expires_in_missing", "assuming a lifetime of 300 s") == issued.remarks[0]


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a\r\nX: y",
        "a\nb",
        "a\0b",
        "é",
        "a b",
        "\t",
        "a\x7f",
        "x" * (16 * 1024 + 1),
        None,
        7,
        {},
    ],
)
def test_a_token_that_no_header_can_carry_is_refused(token: Any) -> None:
    """
    R6750-3, H4: control characters, spaces, non-ASCII, over 16 KiB; and its text is not shown.
    """
    with pytest.raises(TokenRequestError, match="access_token") as caught:
        judged(good(access_token=token))

    assert not isinstance(token, str) or len(token) < 2 or token not in str(caught.value)


@pytest.mark.parametrize("token", ["00D!AQ.x_y~z+/=", "1|abc", "x" * 16 * 1024])
def test_tokens_of_real_servers_are_taken(token: str) -> None:
    """
    RFC 6749 A.12 is wider than RFC 6750's b64token, and servers use it.
    """
    assert token == judged(good(access_token=token)).token.reveal()


def test_a_narrower_grant_is_kept_and_said() -> None:
    """
    R6749-10, R8707-13, X8: the token shows what was granted; the event what was not.
    """
    issued = judged(good(scope="b"))

    assert frozenset({"b"}) == issued.token.scopes
    assert (("scope_narrowed", "asked for and not granted: a"),) == issued.remarks


def test_a_wider_grant_is_said() -> None:
    """
    X8: rights that nobody asked for are an event.
    """
    issued = judged(good(scope="a b admin"))

    assert (("scope_widened", "granted and not asked for: admin"),) == issued.remarks
    assert () == judged(good(scope="default"), asked(scopes=frozenset())).remarks
    assert frozenset({"a", "b"}) == judged(good(scope=["a"])).token.scopes


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'"x"', b"null", b"{", b"\xff\xfe", b"[" * 60_000]
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """
    T14: an empty, HTML, truncated or absurdly nested 200.
    """
    with pytest.raises(TokenRequestError, match="no JSON object"):
        judged(body)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused(status: int) -> None:
    """
    R13: a token endpoint that points elsewhere gets no second request.
    """
    redirect = answer(b"", status, {"location": "https://evil.test/"})

    with pytest.raises(TokenRequestError, match="redirect") as caught:
        issued_token(redirect, asked(), frozenset(), 0.0)
    assert status == caught.value.status


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, "invalid_request"),
        (401, "invalid_client"),
        (400, "invalid_grant"),
        (400, "unauthorized_client"),
        (400, "unsupported_grant_type"),
        (400, "invalid_scope"),
        (400, "invalid_target"),
        (403, "something_new"),
        (503, "temporarily_unavailable"),
        (200, "bad_verification_code"),
    ],
)
def test_a_refusal_keeps_the_rfcs_fields(status: int, error: str) -> None:
    """
    R6749-15, R8707-11: error, error_description and error_uri, with the resource and advice.
    """
    body = {"error": error, "error_description": "Not you.", "error_uri": "https://e.example/1"}

    with pytest.raises(OAuthError, match="urn:x:a") as caught:
        issued_token(answer(body, status), asked(), frozenset(), 0.0)
    raised = caught.value
    assert (error, "Not you.", "https://e.example/1", status, "urn:x:a") == (
        raised.error,
        raised.error_description,
        raised.error_uri,
        raised.status,
        raised.resource,
    )


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"Traceback (most recent call last): secret"),
        (403, b""),
        (404, b"<html>"),
        (400, b'{"error": 5}'),
        (400, b'{"error": ""}'),
        (400, b'{"message": "no"}'),
        (201, b'{"access_token": "t"}'),
    ],
)
def test_any_other_answer_is_one_clear_error(status: int, body: bytes) -> None:
    """
    T14: the status is said, the body is not: it can hold anything.
    """
    with pytest.raises(TokenRequestError, match=f"answered {status}") as caught:
        issued_token(answer(body, status), asked(), frozenset(), 0.0)

    assert not isinstance(caught.value, OAuthError)
    assert "secret" not in str(caught.value)


def test_a_servers_words_are_escaped_shortened_and_free_of_secrets() -> None:
    """
    L11, P9: no forged log line, and no credential that the server echoes.
    """
    request = asked(client_auth=ClientSecretBasic("id", "s3cret value/"))
    message = request.message("https://x.test", 0.0)
    echo = f"got s3cret value/ s3cret+value%2F {message.headers}"
    body = {"error": "invalid_client\r\nERROR forged", "error_description": f"\x1b[31m{echo}"}

    with pytest.raises(OAuthError) as caught:
        issued_token(answer(body, 401), request, frozenset(), 0.0, message.secrets)
    shown = repr(caught.value.args)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert "s3cret" not in shown
    assert message.headers["Authorization"][6:] not in shown

    body = {"error": "x", "error_description": "d" * 5000}
    with pytest.raises(OAuthError) as caught:
        issued_token(answer(body, 401), request, frozenset(), 0.0)
    assert len(str(caught.value.error_description)) < 300


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


MEMBERS = (
    "access_token",
    "error",
    "error_description",
    "error_uri",
    "expires_in",
    "expires_on",
    "ext_expires_in",
    "issued_token_type",
    "refresh_token",
    "resource",
    "scope",
    "token_type",
)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize(
    "value",
    [
        b"null",
        b"true",
        b"-1",
        b"1e999",
        b"9" * 4000,
        b"9" * 9000,
        b'"\\ud800"',
        b'"\\u0000\\u001b[31m\\r\\nSet-Cookie: x"',
        b'"%b"' % (b"x" * 5120),
        b"{}",
        b"[]",
        b'["",5]',
        *(nested(depth) for depth in (900, 960, 970, 975, 980, 985, 990, 10_000)),
    ],
    ids=lambda value: f"{value[:12]!r} {len(value)}",
)
def test_no_member_of_a_response_breaks_anything(member: str, value: bytes) -> None:
    """
    T10, T14, L11: whatever stands for one member, also twice: a token or one of our errors, on
    one line and short.
    """
    rest = json.dumps({k: v for k, v in good().items() if k != member}).encode()[1:-1]
    for body in (
        b'{%b, "%b": %b}' % (rest, member.encode(), value),
        b'{"%b": %b, %b, "%b": %b}' % (member.encode(), value, rest, member.encode(), value),
    ):
        for status in (200, 400):
            # On a stack of its own: one that runs over ends the measuring of coverage on it.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(outcome_is_one_of_ours, body, status).result()


def outcome_is_one_of_ours(body: bytes, status: int) -> None:
    """
    An answer gives a token, or an error of this library that is safe to log.
    """
    request = asked(grant=RefreshToken("rt-1"))
    sent = request.message("https://x.test", 0.0).secrets
    said = answer(body, status)
    try:
        settle(said, request, sent)
        issued = issued_token(said, request, frozenset({"urn:x:b"}), 1_000_000.0, sent)
        words = [words for _, words in issued.remarks]
        lifetime = issued.lifetime
    except ResourceTokensError as error:
        request.grant.fail(error, sent)
        words, lifetime = [str(error)], timedelta(1)

    assert timedelta() < lifetime <= timedelta(days=1)
    assert [] == [said for said in words if not said.isprintable() or len(said) > 1500]


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
LIKELY = (
    ANY_JSON
    | st.sampled_from(["Bearer", "urn:x:a", "urn:x:b", 3600, "3600", signed(aud="urn:x:a")])
    | st.from_regex(r"[!-~]{1,40}", fullmatch=True)
)


@given(
    st.one_of(
        st.binary(),
        ANY_JSON.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(st.sampled_from(MEMBERS), LIKELY).map(
            lambda response: json.dumps(good() | response).encode()
        ),
    ),
    st.sampled_from([200, 201, 302, 400, 401, 500, 503]),
)
def test_any_answer_is_a_token_or_an_error_of_ours(body: bytes, status: int) -> None:
    """
    T14: a server can say what it likes.
    """
    outcome_is_one_of_ours(body, status)


def test_the_audience_of_a_jwt_is_the_resource() -> None:
    """
    R9068-2: `aud` names what was asked for, alone or in a list.
    """
    for aud in ("urn:x:a", ["urn:x:a"], ["https://userinfo.example", "urn:x:a"]):
        judged(good(access_token=signed(aud=aud)), others=frozenset({"urn:x:b"}))


@pytest.mark.parametrize("aud", ["urn:x:A", "urn:x:a/", ["urn:x:b"], [], None, 5, ["urn:x:a", 5]])
def test_a_jwt_for_something_else_is_dropped(aud: Any) -> None:
    """
    P11: a server that ignores `resource` is noticed, with the remedy in the message.
    """
    with pytest.raises(AudienceMismatchError, match="audience=") as caught:
        judged(good(access_token=signed(aud=aud)))

    assert "urn:x:a" == caught.value.resource
    assert aud not in ("urn:x:A", "urn:x:a/") or (aud,) == caught.value.audience


def test_a_jwt_without_an_audience_is_dropped() -> None:
    """
    A JWT that is for nobody in particular is for everybody.
    """
    with pytest.raises(AudienceMismatchError, match="no `aud`"):
        judged(good(access_token=signed(sub="x")))


def test_a_jwt_for_another_configured_resource_too_is_dropped() -> None:
    """
    RFC 8707 3: each of the two could replay it at the other.
    """
    token = signed(aud=["urn:x:a", "urn:x:b", "urn:x:c"])

    with pytest.raises(AudienceMismatchError, match="another configured resource") as caught:
        judged(good(access_token=token), others=frozenset({"urn:x:b"}))
    assert ("urn:x:a", "urn:x:b", "urn:x:c") == caught.value.audience
    judged(good(access_token=token), others=frozenset({"urn:x:d"}))


def test_an_expected_audience_can_be_configured() -> None:
    """
    R8707-12: the server may map the resource to another name.
    """
    request = asked(resource=Resource("urn:x:a", audience="client-7"))

    judged(good(access_token=signed(aud="client-7")), request)
    with pytest.raises(AudienceMismatchError):
        judged(good(access_token=signed(aud="urn:x:a")), request)


def test_verify_audience_off_believes_and_require_insists() -> None:
    """
    `verify_audience`: "off" takes any token, "require" only one that says its audience.
    """
    off = asked(resource=Resource("urn:x:a", verify_audience="off"))
    require = asked(resource=Resource("urn:x:a", verify_audience="require"))

    judged(good(access_token=signed(aud="urn:x:b"), resource="urn:x:b"), off)
    judged(good(access_token=signed(aud="urn:x:a")), require)
    with pytest.raises(AudienceMismatchError, match="opaque"):
        judged(good(), require)


def test_a_response_can_say_what_an_opaque_token_is_for() -> None:
    """
    RRESP-2: "require" takes a token that says its audience, or a response that says it.
    """
    require = asked(resource=Resource("urn:x:a", verify_audience="require"))

    assert "opaque-1" == judged(good(resource="urn:x:a"), require).token.reveal()
    with pytest.raises(AudienceMismatchError, match="its `aud` is 'urn:x:b'"):
        judged(good(access_token=signed(aud="urn:x:b"), resource="urn:x:a"), require)


@pytest.mark.parametrize("verify", ["auto", "require", "off"])
def test_a_server_that_was_found_at_run_time_has_to_confirm(verify: Any) -> None:
    """
    RRESP-3: unless its tokens are believed in any case. They go where the configured ones go.
    """
    configured = asked(resource=Resource("urn:x:a", verify_audience=verify))
    found = replace(
        configured,
        server=AuthorizationServer(issuer="https://found.example.com"),
        discovered_from=configured,
    )

    assert configured.identity == found.identity
    assert configured.key != found.key
    judged(good(resource="urn:x:a"), found)
    if verify == "off":
        judged(good(), found)
    else:
        with pytest.raises(AudienceMismatchError, match="opaque"):
            judged(good(), found)


@pytest.mark.parametrize("member", ["urn:x:a", ["urn:x:a"], ["urn:x:b", "urn:x:a"]])
def test_a_resource_member_that_confirms_is_taken(member: Any) -> None:
    """
    RRESP-2: one of the values is what was asked for.
    """
    assert "opaque-1" == judged(good(resource=member)).token.reveal()


def test_a_resource_member_may_be_spelled_differently() -> None:
    """
    RRESP-2: equal after the normalisation of RFC 3986 6.2.2.
    """
    request = asked(resource=Resource("https://API.example.com:443/x"))

    judged(good(resource="https://api.example.com/x"), request)
    with pytest.raises(AudienceMismatchError):
        judged(good(resource="https://api.example.com:x/"), request)
    with pytest.raises(AudienceMismatchError):
        judged(good(resource="https://api.example.com/\ud800"), request)


@pytest.mark.parametrize("member", ["urn:x:b", ["urn:x:b"], [], 5, {}, None, ["urn:x:a", 5]])
def test_a_resource_member_for_something_else_is_refused(member: Any) -> None:
    """
    RRESP-1, RRESP-2, X2, RIDJAG-5: present and different, or malformed: the token is not used.
    """
    with pytest.raises(AudienceMismatchError):
        judged(good(resource=member))


@pytest.mark.parametrize("token", ["opaque", "a.b", "a.b.c", "a.b.c.d.e", "..", "e30.e30.x.y"])
def test_what_is_no_jwt_is_opaque(token: str) -> None:
    """
    R9068-1: opaque tokens are taken as they are.
    """
    assert claims_of(token) is None
    assert token == judged(good(access_token=token)).token.reveal()


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
def test_reading_a_token_never_fails(token: str) -> None:
    """
    Whatever a server sends as a token, reading its audience raises nothing.
    """
    for text in (token, f"{token}.{token}.{token}", f"e30.{token}."):
        assert isinstance(claims_of(text), Claims | None)


def test_the_earlier_of_two_expiries_counts() -> None:
    """
    R6749-13: `expires_in` rounds, and some servers say more than the token's `exp` allows.
    """
    now = 1_000_000.0
    for exp, seconds in ((now + 59.5, 59.5), (now + 3600, 3600), (now + 9000, 3600)):
        token = signed(aud="urn:x:a", iat=int(now), exp=exp)
        issued = judged(good(access_token=token))
        assert timedelta(seconds=seconds) == issued.lifetime
        assert datetime.fromtimestamp(now + seconds, UTC) == issued.token.expires_at
        assert () == issued.remarks


SKEWS = pytest.mark.parametrize("skew", [-7200, -61, 61, 7200])


def judged_at(date: float, **claims: Any) -> Issued:
    """
    The verdict on a JWT in an answer that says what time it is at the server.
    """
    body = json.dumps(good(access_token=signed(aud="urn:x:a", **claims))).encode()
    headers = {"content-type": "application/json", "date": formatdate(date, usegmt=True)}
    return issued_token(HTTPAnswer(200, headers, body), asked(), frozenset(), 1_000_000.0)


@SKEWS
def test_a_clock_that_differs_is_said_and_does_not_shorten_the_life(skew: int) -> None:
    """
    Section 8: the wall clock of another machine is no measure of what is left, if the server says
    what time it is there.
    """
    there = 1_000_000 + skew
    issued = judged_at(there, iat=there, exp=there + 600)

    assert timedelta(seconds=600) == issued.lifetime
    assert [said(skew)] == list(issued.remarks)


def test_a_token_that_is_handed_out_again_is_as_old_as_it_is() -> None:
    """
    P7: some servers keep tokens and say their whole lifetime each time. Where the clocks agree, a
    token that was issued long ago is an old one.
    """
    for iat in (1_000_000 - 3000, 1_000_000 - 59):
        issued = judged_at(1_000_002, iat=iat, exp=iat + 3600)
        assert timedelta(seconds=iat + 3600 - 1_000_000) == issued.lifetime
        assert () == issued.remarks
    with pytest.raises(TokenRequestError, match="expired on arrival"):
        judged_at(1_000_002, iat=1_000_000 - 3700, exp=1_000_000 - 100)


def test_without_a_date_the_earlier_expiry_counts() -> None:
    """
    P7: nobody can tell an old token from a clock that is behind, so it is taken for old. Nothing is
    issued in the future, so a clock that is ahead costs no life.
    """
    for iat, lifetime in ((1_000_000 - 3000, 600), (1_000_000 + 7200, 3600), (999_900, 3500)):
        issued = judged(good(access_token=signed(aud="urn:x:a", iat=iat, exp=iat + 3600)))
        assert timedelta(seconds=lifetime) == issued.lifetime
        assert [said(iat - 1_000_000)] == list(issued.remarks)
    with pytest.raises(TokenRequestError, match="compare the clocks"):
        judged(good(access_token=signed(aud="urn:x:a", iat=900_000, exp=903_600)))


def test_a_date_that_is_wrong_by_itself_lengthens_no_life() -> None:
    """
    P7: such as that of a gateway in front of the server, or none at all.
    """
    issued = judged_at(0, iat=1_000_000, exp=1_000_600)
    assert timedelta(seconds=600) == issued.lifetime
    issued = judged_at(1_000_000, iat=1_007_200, exp=1_007_800)
    assert timedelta(seconds=600) == issued.lifetime
    assert [said(7200)] == list(issued.remarks)


def said(skew: int) -> tuple[str, str]:
    return "clock_skew", f"the server's clock is {skew:+d} s from this machine's"


@pytest.mark.parametrize("claims", [{"exp": 999_999}, {"iat": 1, "exp": 1}, {"iat": 5, "exp": 2}])
def test_a_jwt_that_had_expired_on_arrival_is_refused(claims: dict[str, int]) -> None:
    """
    T12: a typed error, not a loop of token requests.
    """
    with pytest.raises(TokenRequestError, match="expired on arrival"):
        judged(good(access_token=signed(aud="urn:x:a", **claims)))


@pytest.mark.parametrize("date", [True, "soon", None, [], 1e300, 10**400])
def test_dates_that_are_no_numbers_are_ignored(date: Any) -> None:
    """
    RFC 7519 2: a NumericDate is a number; anything else says nothing.
    """
    token = signed(aud="urn:x:a", iat=date, exp=date)

    assert Claims(("urn:x:a",), None, None) == claims_of(token)
    assert timedelta(hours=1) == judged(good(access_token=token)).lifetime


def test_a_deeply_nested_jwt_is_opaque() -> None:
    """
    A payload built to exhaust the parser is no JWT.
    """
    from base64 import urlsafe_b64encode

    header = urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    payload = urlsafe_b64encode(b'{"aud":' + b"[" * 9000).decode().rstrip("=")

    assert claims_of(f"{header}.{payload}.x") is None


def test_the_server_is_named_by_its_endpoint_if_it_has_no_issuer() -> None:
    """
    Messages name the server as it was configured.
    """
    server = AuthorizationServer(token_endpoint="https://login.example.com/token")

    with pytest.raises(OAuthError, match=r"https://login\.example\.com/token"):
        issued_token(
            answer({"error": "invalid_client"}, 401),
            TokenRequest(
                server,
                ClientSecretBasic("i", "s"),
                ClientCredentials(),
                Resource("urn:x:a"),
                frozenset(),
            ),
            frozenset(),
            0.0,
        )
