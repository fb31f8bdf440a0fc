"""
The token endpoint: the request to send, and the answer to believe (RFC 6749 4 and 5, RFC 8707).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, NamedTuple

from resource_tokens._httpx import http
from resource_tokens.exceptions import (
    AudienceMismatchError,
    ConfigurationError,
    OAuthError,
    TokenRequestError,
)
from resource_tokens.oauth.client_auth import ClientAuth, Recipient
from resource_tokens.oauth.dialects import Target
from resource_tokens.oauth.dpop import ProofKey
from resource_tokens.oauth.grants import Grant, expired_grant, is_refresh_token
from resource_tokens.oauth.jwt import Claims, claims_of
from resource_tokens.oauth.messages import (
    HTTPAnswer,
    HTTPRequest,
    Members,
    base64url,
    date_of,
    foreign_text,
    form,
    json_object,
    quoted,
    refused_redirect,
    spellings,
)
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.tls_client_auth import TlsClientAuth
from resource_tokens.resources import Resource
from resource_tokens.tokens import AccessToken, Freshness, Secret, TokenKey

__all__ = ["Identity", "Issued", "TokenRequest", "check_told_apart", "issued_token", "settle"]


class Identity(NamedTuple):
    """
    What a token is for, whatever its scopes: two destinations whose tokens have one identity may
    see each other's.

    Attributes:
        subject: On whose behalf it was asked for.
    """

    resource: str
    key: TokenKey
    subject: bytes = b""

    def on_behalf_of(self, other: Identity | None) -> Identity:
        """
        The same for the subject of another one; for nobody in particular without one.
        """
        return self._replace(subject=b"" if other is None else other.subject)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """
    Everything that is asked for. The key and the message are both made from this one object, so
    a renewal repeats every parameter and nothing is asked for that is not in the key.

    Attributes:
        key: What the token is kept under.
        identity: What the token is for, whatever its scopes.
        target: The parameters that say which API it is for, with those of the resource's own.
        scopes_sent: The scopes as this server writes them.
        discovered_from: What was configured, where the resource itself has named the server.
        proof_key: The key that the token is to be bound to, for `Resource(sender="dpop")`.
        certificate: The SHA-256 thumbprint of the certificate that it is to be bound to, for
            `Resource(sender="mtls")`.
    """

    server: AuthorizationServer
    client_auth: ClientAuth
    grant: Grant
    resource: Resource
    scopes: frozenset[str]
    discovered_from: TokenRequest | None = None
    proof_key: ProofKey | None = None
    # Not in the `repr`: reporters of errors ask for that of one that is refused half-made.
    key: TokenKey = field(init=False, repr=False)
    identity: Identity = field(init=False, repr=False)
    target: tuple[tuple[str, str], ...] = field(init=False, repr=False)
    scopes_sent: frozenset[str] = field(init=False, repr=False)
    certificate: bytes | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._check_grant()
        target = Target(self.resource.identifier, self.resource.expected_audience)
        dialect, grant_type = self.server.dialect, self.grant.grant_type
        extra = dict(self.resource.extra)
        parameters = self.grant.target or dialect.parameters([target], grant_type)
        for name, _ in parameters:
            # RFC 6749 3.2: "Request and response parameters MUST NOT be included more than once."
            if name in extra:
                raise ConfigurationError(
                    f"extra={{{name!r}: ...}} for {target.resource!r}: the dialect "
                    f"{dialect.name!r} sets {name!r} itself, from the identifier of the resource "
                    "or its audience=."
                )
        object.__setattr__(self, "target", (*parameters, *extra.items()))
        scopes_sent = self.scopes
        if self.grant.target is None:
            scopes_sent = dialect.scopes(self.scopes, target, grant_type)
        object.__setattr__(self, "scopes_sent", scopes_sent)
        # `issuer` and not the discovered endpoint: what a metadata document says is no identity
        # (RFC 9700 4.4).
        parts: list[str | bytes] = [
            self.server.issuer or "",
            self.server.token_endpoint or "",
            self.client_auth.client_id,
            self.client_auth.method,
            target.resource,
            target.audience,
            self.resource.sender,
            self.verify_audience,
            str(dialect.says_audience),
            dialect.confirmation,
        ]
        # As one grant names it, since it is the same resource on whosever behalf it is called.
        for name, value in (*dialect.parameters([target], _USUAL), *extra.items()):
            parts += (name, value)
        parts += ("scope", *sorted(dialect.scopes(frozenset(), target, _USUAL)))
        identity = Identity(target.resource, TokenKey.of(parts), self.grant.principal())
        # Not before: a credential that is replaced does not make the token for somewhere else.
        fingerprint = self.client_auth.fingerprint()
        # RFC 8705 3: it is bound to the certificate that is shown to the token endpoint.
        mutual_tls = self.resource.sender == "mtls"
        object.__setattr__(self, "certificate", fingerprint if mutual_tls else None)
        # RFC 9449 6: a token that is bound to one key is of no use with another.
        thumbprint = "" if self.proof_key is None else self.proof_key.thumbprint
        parts = [identity.key, fingerprint, thumbprint, grant_type, self.grant.fingerprint()]
        for name, value in self.target:
            parts += (name, value)
        parts += ("scope", *sorted(self.scopes), "scope", *sorted(scopes_sent))
        object.__setattr__(self, "key", TokenKey.of(parts))
        if self.discovered_from is not None:
            # The destinations of a resource are the same, wherever its tokens come from.
            identity = self.discovered_from.identity
        object.__setattr__(self, "identity", identity)

    @property
    def verify_audience(self) -> Literal["auto", "require", "off"]:
        """
        How much is asked of a token.
        """
        # draft-mcguinness-oauth-resource-token-resp: a client that has discovered the server at
        # run time does not use a token whose response does not say what it is for.
        if self.discovered_from is not None and self.resource.verify_audience == "auto":
            return "require"
        return self.resource.verify_audience

    def message(self, token_endpoint: str, now: float) -> HTTPRequest:
        """
        The request to send; made anew for each attempt. It holds the client's credentials.

        Args:
            token_endpoint: Where it goes.
            now: Seconds since the epoch.

        Raises:
            TokenRequestError: If what the grant rests on has expired.
        """
        dialect, expires_at = self.server.dialect, self.grant.expires_at
        if expires_at is not None and now >= expires_at:
            raise expired_grant(self.resource.identifier)
        presented = self.grant.parameters()
        recipient = Recipient(self.server, token_endpoint, now, self.resource.identifier)
        proof = self.client_auth.authenticate(recipient)
        headers = {"Accept": "application/json", **dict(dialect.headers), **proof.headers}
        secrets = (*proof.secrets, *spellings(presented))
        # RFC 6749 3.2: "Parameters sent without a value MUST be treated as if they were omitted
        # from the request", so an empty scope is not sent.
        scope = [("scope", " ".join(sorted(self.scopes_sent)))] if self.scopes_sent else []
        rest = (*presented, *self.target, *scope, *proof.parameters)
        if dialect.form == "get":
            # RFC 6749 3.2: a query of the endpoint "MUST be retained when adding additional
            # query parameters."
            url = f"{token_endpoint}{'&' if '?' in token_endpoint else '?'}{form(rest).decode()}"
            return HTTPRequest("GET", url, headers, b"", secrets, proof.certificate)
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = form((("grant_type", self.grant.grant_type), *rest))
        return HTTPRequest("POST", token_endpoint, headers, body, secrets, proof.certificate)

    def _check_grant(self) -> None:
        if (self.resource.sender == "dpop") != (self.proof_key is not None):
            raise ConfigurationError(
                f"Resource({self.resource.identifier!r}, sender={self.resource.sender!r}): a proof "
                "key goes with sender='dpop', and with nothing else."
            )
        if self.resource.sender == "mtls" and not isinstance(self.client_auth, TlsClientAuth):
            raise ConfigurationError(
                f"Resource({self.resource.identifier!r}, sender='mtls'): its tokens are bound to "
                "the certificate that the client authenticates with (RFC 8705 3), so that is by "
                "TlsClientAuth."
            )
        grant, resource = self.grant, self.resource.identifier
        public, local = not self.client_auth.confidential, self.server.dialect.form == "get"
        if grant.confidential and public and not local:
            raise ConfigurationError(
                f"A public client cannot have a token for {resource!r} by {grant.grant_type!r} "
                "(RFC 6749 4.4): anybody could ask in its name. Authenticate the client, or use "
                "another grant."
            )
        # RFC 6749 2.3.1: credentials "MUST NOT be included in the request URI."
        if local and not (public and grant.grant_type == "client_credentials"):
            raise ConfigurationError(
                f"The dialect {self.server.dialect.name!r} puts its parameters into a URL, where "
                f"no credential belongs. For {resource!r} use PublicClient(...) and "
                "ClientCredentials() with it."
            )
        # RFC 6749 10.4: a refresh token is shared "only among the authorization server and the
        # client to whom the refresh tokens were issued".
        configured = self.server == (self.discovered_from or self).server
        own = configured and self.resource.server is None
        if not grant.may_go_to(self.server.issuer, own=own, configured=configured):
            raise grant.kept_from(self.server.name, resource)
        # RFC 9449 5: of a public client, a refresh token is bound to the key as well.
        if (
            public
            and grant.grant_type == "refresh_token"
            and self.proof_key is not None
            and not self.proof_key.lasting
        ):
            raise ConfigurationError(
                f"The refresh token of a public client for {resource!r} is bound to the proof "
                "key, and this one ends with the process. Give one that lasts: "
                "ResourceTokenAuth(..., proof_key=ProofKey(pathlib.Path(...)))."
            )
        # RFC 6749 6: "The requested scope MUST NOT include any scope not originally granted".
        if grant.scopes is not None and self.scopes - grant.scopes:
            raise ConfigurationError(
                f"The scopes {' '.join(sorted(self.scopes - grant.scopes))!r} for {resource!r} "
                "are not among those granted with the refresh token. Get a new authorization "
                "with them."
            )


def check_told_apart(requests: Iterable[TokenRequest]) -> None:
    """
    See that a server can tell the resources of a program apart, before anything is asked for.

    Where a dialect names no target, two resources with the same scopes would get the same rights.
    A JWT or the same string twice shows that; two opaque tokens do not.

    Raises:
        ConfigurationError: If two requests for two resources say the same.
    """
    seen: dict[tuple[object, ...], TokenRequest] = {}
    for request in requests:
        server, client = request.server, request.client_auth
        same = (server.issuer, server.token_endpoint, client.client_id, request.grant.grant_type)
        twin = seen.setdefault((*same, request.target, request.scopes_sent), request)
        if twin.resource.identifier != request.resource.identifier:
            raise ConfigurationError(
                f"{server.name!r}, spoken to in the dialect {server.dialect.name!r}, cannot tell "
                f"{twin.resource.identifier!r} from {request.resource.identifier!r}: both are "
                "asked for in the same words, so each token would be good at the other. Give "
                "each scopes or a server= of its own, choose another dialect, or map both "
                "destinations to one resource."
            )


Remark = tuple[Literal["clock_skew", "expires_in_missing", "scope_narrowed", "scope_widened"], str]
"""
What is worth an event in an answer: its name, and words.
"""


@dataclass(frozen=True, slots=True)
class Issued:
    """
    An answer that was believed.

    Attributes:
        final: Whether no other token would live longer, as what it was got with ends.
    """

    token: AccessToken
    lifetime: timedelta
    remarks: tuple[Remark, ...]
    final: bool = False


def settle(answer: HTTPAnswer, request: TokenRequest, secrets: tuple[Secret, ...]) -> bool:
    """
    Hand the refresh token in an answer to the grant of its request; to be called before the answer
    is judged, as it replaces the one that was sent even if the rest is refused.

    Args:
        answer: What the token endpoint sent back.
        request: What it was asked for.
        secrets: The secrets of the request (`HTTPRequest.secrets`).

    Returns:
        Whether the grant has a new refresh token.

    Raises:
        TokenRequestError: If the new one could not be stored. The answer is then not to be used.
    """
    response = json_object(answer) if answer.status == 200 else None
    if response is None or "error" in response or "access_token" not in response:
        return False
    # Wrapped before it is looked at: reporters of errors show the variables of a frame.
    member = response.pop("refresh_token", None)
    received = Secret(member if isinstance(member, str) else "")
    del member
    # Azure's instance metadata writes an empty string for none.
    usable = is_refresh_token(received)
    return request.grant.accept(received if usable else None, secrets, request.resource.identifier)


def issued_token(
    answer: HTTPAnswer,
    request: TokenRequest,
    other_audiences: AbstractSet[str],
    requested_at: float,
    secrets: tuple[Secret, ...] = (),
) -> Issued:
    """
    The token in an answer of the token endpoint, if all of the answer can be believed.

    Args:
        answer: What the token endpoint sent back.
        request: What it was asked for.
        other_audiences: The audiences of all other configured resources.
        requested_at: When the request was sent, in seconds since the epoch.
        secrets: What was sent along and must not show up in an error.

    Raises:
        OAuthError: If the server refused.
        TokenRequestError: If the answer is no token response.
        AudienceMismatchError: If the token is not, or not only, for the resource asked for.
    """
    resource = request.resource.identifier
    if 300 <= answer.status < 400:
        raise refused_redirect(answer, f"The token endpoint of {request.server.name!r}", resource)
    response = json_object(answer)
    if answer.status != 200 or (response is not None and "error" in response):
        raise _refusal(answer, response, request, secrets)
    if response is None:
        raise _unusable(request, "is no JSON object")
    value = _access_token(response, request)
    token_type, answers = _token_type(response, request), request.grant.answers
    issued_type = response.get("issued_token_type", answers.issued_token_types[0])
    if issued_type not in answers.issued_token_types:
        raise _unusable(request, f"has issued_token_type {_shown(issued_type)}, no {answers.what}")
    remarks: list[Remark] = []
    lifetime = _lifetime(response, request, requested_at, remarks)
    scopes = _granted(response.get("scope"), request, remarks)
    confirmed = _is_confirmed(response, request)
    claims = claims_of(value.reveal())
    _check_audience(claims, request, other_audiences, confirmed)
    _check_sender(claims, request)
    lifetime = _earlier(lifetime, claims, request, requested_at, remarks, date=date_of(answer))
    final = False
    if request.grant.expires_at is not None:
        left = timedelta(seconds=request.grant.expires_at - requested_at)
        final = Freshness.is_final(lifetime, left)
        lifetime = min(lifetime, left)
    token = AccessToken(
        value,
        resource,
        token_type,
        scopes,
        datetime.fromtimestamp(requested_at, UTC) + lifetime,
    )
    return Issued(token, lifetime, tuple(remarks), final)


def _access_token(response: Members, request: TokenRequest) -> Secret:
    # Wrapped before it is looked at: reporters of errors show the variables of a frame.
    member = response.get("access_token")
    value = Secret(member if isinstance(member, str) else "")
    del member
    if not value.reveal():
        raise _unusable(request, "has no access_token")
    if len(value.reveal()) > _MAX_TOKEN_LENGTH:
        raise _unusable(request, f"has an access_token of over {_MAX_TOKEN_LENGTH} characters")
    # RFC 6749 A.12 allows printable ASCII; a space would end the token in a header (RFC 6750
    # 2.1). Narrower than this would refuse real servers: Salesforce's tokens contain "!".
    if not re.fullmatch(r"[\x21-\x7e]+", value.reveal()):
        raise _unusable(request, "has an access_token with characters that no header can carry")
    return value


def _token_type(response: Members, request: TokenRequest) -> str:
    member, sender = response.get("token_type"), request.resource.sender
    # RFC 9449 5: "A token_type of DPoP MUST be included in the access token response to signal to
    # the client that the access token was bound to its DPoP key". RFC 8705 has no type of its own.
    expected = "DPoP" if sender == "dpop" else "Bearer"
    accepted = ("dpop",) if sender == "dpop" else request.grant.answers.token_types
    # RFC 6749 5.1: token_type is case insensitive; 7.1: "The client MUST NOT use an access token
    # if it does not understand the token type".
    if isinstance(member, str) and member.lower() in accepted:
        return expected
    advice = _CHECK_ADDRESS
    if expected == "DPoP":
        advice = (
            "Resource(..., sender='dpop') wants it bound to the proof key: let the server do that "
            "for this client (dpop_bound_access_tokens)."
        )
    elif isinstance(member, str) and member.lower() == "dpop":
        advice = "It is bound to a key: set Resource(..., sender='dpop')."
    raise _unusable(request, f"has token_type {_shown(member)}, not {expected!r}", advice)


def _check_sender(claims: Claims | None, request: TokenRequest) -> None:
    # Of an opaque token, only the resource server can know.
    if claims is None:
        return
    bound = None if request.certificate is None else base64url(request.certificate)
    # RFC 8705 3.1. There is no token type for it, so this alone tells it from a bearer token.
    if bound not in (None, claims.certificate_thumbprint):
        raise _unusable(
            request,
            "has a token that is not bound to the certificate of the client",
            "Resource(..., sender='mtls') wants that: let the server do it for this client "
            "(tls_client_certificate_bound_access_tokens).",
        )
    # RFC 9449 6.1. That it is bound, its type has said.
    bound_to = claims.key_thumbprint
    if request.proof_key is not None and bound_to not in (None, request.proof_key.thumbprint):
        raise _unusable(
            request,
            "has a token that is bound to another key",
            "It would be refused with proofs of this one. Ask the operator of the server.",
        )


def _lifetime(
    response: Members, request: TokenRequest, requested_at: float, remarks: list[Remark]
) -> timedelta:
    dialect = request.server.dialect
    if response.get("expires_in") is not None:
        seconds = _number(response["expires_in"])
    elif dialect.expires_on and response.get("expires_on") is not None:
        seconds = _number(response["expires_on"]) - requested_at
    elif dialect.default_lifetime is not None:
        seconds = dialect.default_lifetime.total_seconds()
    else:
        # RFC 6749 5.1: expires_in is only RECOMMENDED.
        seconds = _DEFAULT_LIFETIME.total_seconds()
        remarks.append(("expires_in_missing", f"assuming a lifetime of {seconds:.0f} s"))
    if not seconds > 0:
        member = "expires_on" if response.get("expires_in") is None else "expires_in"
        raise _unusable(
            request,
            f"has {member} {_shown(response[member])}, which leaves no positive number of seconds",
        )
    return min(timedelta(seconds=min(seconds, 1e9)), _MAX_LIFETIME)


_CHECK_ADDRESS = "Check the address of the token endpoint."


def _number(value: object) -> float:
    """
    A finite number, also where it is written as a string (Entra ID v1, Azure's instance
    metadata); NaN for anything else.
    """
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}(\.[0-9]{1,20})?", value, re.ASCII):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value == math.inf:
        return math.nan
    return float(max(-1.0, min(value, 1e20)))


def _shown(member: object) -> str:
    # A list or an object can be too deep for repr.
    known = member is None or isinstance(member, str | int | float)
    return quoted(repr(member), 40) if known else f"of type {type(member).__name__}"


def _earlier(
    lifetime: timedelta,
    claims: Claims | None,
    request: TokenRequest,
    requested_at: float,
    remarks: list[Remark],
    *,
    date: float | None,
) -> timedelta:
    """
    The lifetime by the token's own `exp`, if that is earlier: servers write whole seconds, so a
    token can live up to a second less than `expires_in` says, and some say too much.

    What is left of it is taken by the server's clock, where the answer has a `Date`. Without one a
    token that was issued long ago may be an old one that is handed out again, or a clock may be
    wrong: then it is taken to be old.
    """
    if claims is None or claims.expires_at is None:
        return lifetime
    issued_at = requested_at if claims.issued_at is None else claims.issued_at
    # Nothing is issued in the future.
    there = max(requested_at if date is None else date, issued_at)
    begins = there if abs(there - requested_at) > _MAX_SKEW else requested_at
    skew = (issued_at if date is None else there) - requested_at
    if abs(skew) > _MAX_SKEW:
        remarks.append(("clock_skew", f"the server's clock is {skew:+.0f} s from this machine's"))
    left = timedelta(seconds=claims.expires_at - begins)
    if left <= timedelta():
        raise _unusable(request, "has a JWT that had expired on arrival; compare the clocks")
    return min(lifetime, left)


def _granted(scope: object, request: TokenRequest, remarks: list[Remark]) -> frozenset[str]:
    # RFC 6749 5.1: scope is "OPTIONAL, if identical to the scope requested by the client;
    # otherwise, REQUIRED."
    if not isinstance(scope, str):
        return request.scopes
    granted = frozenset(scope.split())
    target = Target(request.resource.identifier, request.resource.expected_audience)
    as_sent = partial(
        request.server.dialect.scopes, target=target, grant_type=request.grant.grant_type
    )
    # As they were asked for or as they were sent: Entra ID v2 answers either way.
    unasked = as_sent(frozenset())
    known = {asked: {asked, *as_sent({asked}) - unasked} for asked in request.scopes}
    missing = " ".join(sorted(asked for asked in known if not known[asked] & granted))
    if missing:
        remarks.append(("scope_narrowed", f"asked for and not granted: {quoted(missing)}"))
    added = " ".join(sorted(granted.difference(unasked, *known.values())))
    if request.scopes and added:
        remarks.append(("scope_widened", f"granted and not asked for: {quoted(added)}"))
    return granted


def _is_confirmed(response: Members, request: TokenRequest) -> bool:
    """
    Whether the response itself says that the token is for the resource asked for.
    """
    # draft-mcguinness-oauth-resource-token-resp: a string or an array of strings; one of them
    # must be what was asked for. Absent, the token may be used, as the resource is configured.
    confirmation = request.server.dialect.confirmation
    if request.verify_audience == "off":
        return False
    if "resource" not in response:
        if confirmation == "require":
            raise _mismatch(request, (), "the response does not say which `resource` it is for")
        return False
    member = response["resource"]
    values: list[Any] = member if isinstance(member, list) else [member]
    if not values or not all(isinstance(v, str) for v in values):
        raise _mismatch(request, (), "the response has a malformed `resource` member")
    if confirmation == "if_uri" and not any(":" in v for v in values):
        return False
    if not any(_same_uri(v, request.resource.identifier) for v in values):
        raise _mismatch(request, tuple(values), "the response says it is for")
    return True


def _same_uri(left: str, right: str) -> bool:
    try:
        return left == right or http.URL(left) == http.URL(right)
    except (http.InvalidURL, UnicodeError):
        return False


def _check_audience(
    claims: Claims | None,
    request: TokenRequest,
    other_audiences: AbstractSet[str],
    confirmed: bool,
) -> None:
    mode = request.verify_audience
    if mode == "off":
        return
    wanting = mode == "require" and not confirmed
    if claims is None:
        if wanting:
            raise _mismatch(
                request, (), "it is opaque, and no `resource` member says what it is for"
            )
        return
    audience = claims.audience
    promised = request.server.dialect.says_audience or request.resource.audience is not None
    if request.resource.expected_audience not in audience and (promised or wanting):
        raise _mismatch(request, audience, "its `aud` is" if audience else "it has no `aud`")
    # RFC 8707 3: a token that several resources accept can be replayed by each at the others.
    others = other_audiences & set(audience) - {request.resource.expected_audience}
    if others:
        raise _mismatch(request, audience, "it is good at another configured resource: `aud` is")


def _mismatch(request: TokenRequest, audience: tuple[str, ...], why: str) -> AudienceMismatchError:
    shown = quoted(", ".join(audience)) if audience else ""
    return AudienceMismatchError(
        f"{request.server.name!r} issued a token for {request.resource.identifier!r} that was "
        f"dropped: {why}{f' {shown!r}' if shown else ''}. The server may want the target in "
        "another way than the dialect "
        f"{request.server.dialect.name!r}: see AuthorizationServer(dialect=...). Or it writes "
        "another name for it: then set Resource(..., audience=...).",
        request.resource.identifier,
        audience,
    )


def _unusable(request: TokenRequest, why: str, advice: str = _CHECK_ADDRESS) -> TokenRequestError:
    return TokenRequestError(
        f"The token response of {request.server.name!r} for {request.resource.identifier!r} {why}. "
        f"No token was kept. {advice}",
        request.resource.identifier,
        200,
    )


def _refusal(
    answer: HTTPAnswer,
    response: Mapping[str, Any] | None,
    request: TokenRequest,
    secrets: tuple[Secret, ...],
) -> TokenRequestError:
    resource = request.resource.identifier
    error = response.get("error") if response is not None else None
    if response is None or not isinstance(error, str) or not error:
        return TokenRequestError(
            f"The token endpoint of {request.server.name!r} answered {answer.status} without an "
            f"OAuth error to the request for {resource!r}. Check the address and the server's log.",
            resource,
            answer.status,
        )
    code, description, uri = (
        foreign_text(response.get(member), secrets)
        for member in ("error", "error_description", "error_uri")
    )
    words = response.get("error_description")
    meaning = request.server.dialect.meaning(error, words if isinstance(words, str) else "")
    if meaning != error:
        # Kept, as it is what the server's documentation and its log speak of.
        description = code if description is None else f"{code}: {description}"
        code = meaning
    advice = _ADVICE.get(str(code), "See the server's documentation for this error.")
    scopes = f" and the scopes {' '.join(sorted(request.scopes))!r}" if request.scopes else ""
    return OAuthError(
        f"{request.server.name!r} refused a token for {resource!r}{scopes} with {code!r}"
        f"{f' ({description})' if description else ''}. {advice}",
        resource,
        answer.status,
        str(code),
        description,
        uri,
        _claims_wanted(response.get("claims"), secrets),
    )


def _claims_wanted(claims: object, secrets: tuple[Secret, ...]) -> str | None:
    # Passed on as it is, to be understood by whoever wrote it.
    if not isinstance(claims, str) or not 0 < len(claims) <= _MAX_CLAIMS:
        return None
    return None if any(secret.reveal() in claims for secret in secrets) else claims


_USUAL = "client_credentials"
_MAX_SKEW = 60.0
_MAX_CLAIMS = 4 * 1024
_MAX_TOKEN_LENGTH = 16 * 1024
_DEFAULT_LIFETIME = timedelta(seconds=300)
_MAX_LIFETIME = timedelta(hours=24)

_ADVICE = {
    "consent_required": "Somebody has to consent to this API; other APIs may be had all the same.",
    "interaction_required": "The user has to sign in again for this API.",
    "invalid_client": "Check the client id, its secret and the authentication method.",
    "invalid_dpop_proof": (
        "It wants tokens to be bound to a key: set Resource(..., sender='dpop'). If that is set, "
        "compare the clocks, the algorithms it accepts (ProofKey(algorithm=...)), and the address "
        "that it believes to be asked at."
    ),
    "invalid_grant": "What the grant rests on has ended or was revoked.",
    "invalid_request": "The server misses or dislikes a parameter: look at its description.",
    "invalid_scope": "Check the scopes of the resource against what the client may ask for.",
    "invalid_target": (
        "The server does not know this resource, or not for this client and these scopes "
        "(RFC 8707 2): register it there, or correct the identifier, which is compared exactly."
    ),
    "unauthorized_client": "Allow the client this grant at the server.",
    "unsupported_grant_type": "Enable this grant at the server.",
    "use_dpop_nonce": "It goes on asking for another nonce: its replicas may not share their key.",
}
