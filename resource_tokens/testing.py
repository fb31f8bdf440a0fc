"""
Small real servers on 127.0.0.1 to test code that asks for tokens and shows them.

`LocalAuthorizationServer` issues them, `LocalResourceServer` is an API that checks them. Both speak
plain HTTP/1.1 from threads of their own, so they serve asyncio, trio and blocking code alike. They
keep what they were sent, tokens and secrets included, in memory until `clear()`.
"""

from __future__ import annotations

import base64
import math
import posixpath
import re
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from itertools import repeat
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, unquote_plus

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from resource_tokens._local_http import Answer, Listener, Request, json_answer
from resource_tokens._local_proofs import ProofChecker, RefusedProofError

__all__ = [
    "ABSENT",
    "LocalAuthorizationServer",
    "LocalResourceServer",
    "RequestRecord",
    "RevokedTokenError",
    "TokenLeak",
    "TokenLedger",
    "TokenRequestRecord",
]

Headers = Mapping[str, str] | tuple[tuple[str, str], ...]


class _Absent(Enum):
    ABSENT = "ABSENT"


ABSENT: Final = _Absent.ABSENT
"""
As a value in `LocalAuthorizationServer.overrides`: leave this member out of the response.
"""


class RevokedTokenError(jwt.InvalidTokenError):
    """
    The token was revoked with `LocalAuthorizationServer.revoke`.
    """


@dataclass(frozen=True, slots=True, repr=False)
class RequestRecord:
    """
    A request as it came over the wire, and the status it was answered with.

    The fields hold everything that was sent; the `repr` shows no credential.

    Attributes:
        target: The request target byte for byte, query included.
        body: The first 64 KiB.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    status: int

    @property
    def path(self) -> str:
        """
        The path on the wire.
        """
        return self.target.partition("?")[0]

    @property
    def text(self) -> str:
        """
        The target, the body and the values of the headers, to search in.
        """
        values = (value for _, value in self.headers)
        return "\n".join([self.target, self.body.decode("latin-1"), *values])

    def __repr__(self) -> str:
        headers = tuple(
            (name, _REDACTED if _SECRET_HEADER.search(name) else _redacted(value))
            for name, value in self.headers
        )
        target = _redacted(self.target)
        return f"RequestRecord({self.method} {target!r}, headers={headers}, status={self.status})"


@dataclass(frozen=True, slots=True)
class TokenRequestRecord:
    """
    A request to the token endpoint and its outcome; it holds no secret and no token.

    Attributes:
        received_at: Seconds since the epoch, by the server's clock.
        parameters: The form as sent, with the value of every secret replaced.
        error: The RFC 6749 error code of the answer, None when there was none.
    """

    received_at: float
    client_id: str | None
    auth_method: Literal["client_secret_basic", "client_secret_post", "none"]
    grant_type: str | None
    resources: tuple[str, ...]
    scopes: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    status: int
    error: str | None


class _LocalServer(ABC):
    """
    What both servers share: start and stop, the ledger, answers set by path.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.dpop_nonce: str | None = None
        self._proofs = ProofChecker()
        self._port = 0
        self._listener: Listener | None = None
        self._stopping = threading.Event()
        # Guards every collection below and in the subclasses.
        self._lock = threading.Lock()
        self._requests: list[RequestRecord] = []
        self._canned: dict[str, Iterator[Answer]] = {}

    def start(self) -> Self:
        """
        Listen on a free port, or after `stop()` on the same one again.
        """
        if self._listener is None:
            self._stopping.clear()
            self._listener = Listener(self._exchange, self._port, self._clock)
            self._port = self._listener.port
        return self

    def stop(self) -> None:
        """
        Close every connection and wait until all threads have ended.
        """
        if self._listener is not None:
            self._stopping.set()
            self._listener.stop()
            self._listener = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def requests(self) -> tuple[RequestRecord, ...]:
        """
        Every request answered so far, whatever its path, in the order of the answers.
        """
        with self._lock:
            return tuple(self._requests)

    def clear(self) -> None:
        """
        Forget the records; tokens already issued stay as valid as they were.
        """
        with self._lock:
            self._requests.clear()

    def respond(
        self,
        path: str,
        status: int = 200,
        headers: Headers = (),
        body: bytes = b"",
        *,
        times: int | None = None,
    ) -> None:
        """
        Give this answer at `path` to whoever asks, without looking at the request.

        Args:
            path: Compared with the path on the wire, without the query.
            status: Of the answer.
            headers: Of the answer; `Content-Length` is added unless given, right or wrong.
            body: Of the answer.
            times: How often, before the usual answer is back; None is forever.
        """
        answer = Answer(status, body, _pairs(headers))
        with self._lock:
            self._canned[path] = repeat(answer) if times is None else repeat(answer, times)

    def redirect(self, path: str, to: str, status: int = 302, *, times: int | None = None) -> None:
        """
        Redirect whoever asks for `path` to the URL `to`, as `respond` would.
        """
        self.respond(path, status, {"Location": to}, times=times)

    @property
    def _origin(self) -> str:
        if not self._port:
            raise RuntimeError(
                f"This {type(self).__name__} has no address yet. Call start(), or use it in `with`."
            )
        return f"http://127.0.0.1:{self._port}"

    def _exchange(self, request: Request) -> Answer:
        with self._lock:
            canned = next(self._canned.get(request.path, iter(())), None)
        answer = canned or self._answer(request)
        headers = tuple(request.headers.items())
        record = RequestRecord(request.method, request.target, headers, request.body, answer.status)
        with self._lock:
            self._requests.append(record)
        return answer

    @abstractmethod
    def _answer(self, request: Request) -> Answer: ...

    def _proved(self, request: Request, now: float, token: str | None = None) -> str | None:
        """
        The thumbprint of the key that a request proves; None if it has no proof.

        Raises:
            RefusedProofError: It has one that is no good.
        """
        proofs = request.headers.get_all("DPoP", [])
        if not proofs:
            return None
        with self._lock:
            self._proofs.nonce = self.dpop_nonce
            # Joined, so that two never pass for one.
            return self._proofs.thumbprint(
                ", ".join(proofs), request.method, self._origin + request.path, now, token
            )

    def _with_nonce(self, answer: Answer) -> Answer:
        if self.dpop_nonce is None:
            return answer
        return replace(answer, headers=(*answer.headers, ("DPoP-Nonce", self.dpop_nonce)))


class LocalAuthorizationServer(_LocalServer):
    """
    An OAuth authorization server for client credentials, and for calls on behalf of users by token
    exchange (RFC 8693) or a JWT as a grant (RFC 7523), with resource indicators.

    It honours `resource` (RFC 8707), signs JWT access tokens (RFC 9068), binds them to the key of
    whoever sends a DPoP proof (RFC 9449), and publishes metadata (RFC 8414 and OpenID discovery).
    Every public attribute may be set while it runs.

    Args:
        clients: Secret by client id.
        resources: The scopes allowed at each resource; None knows every resource and scope.
        audiences: What to write in `aud` where that is not the resource itself.
        path: Path of the issuer, such as `/tenant1`.
        metadata: Which of the two metadata documents exist.
        clock: Seconds since the epoch, for `iat`, `exp`, the `Date` of answers and the records.

    Attributes:
        delay: How long each token request waits for its answer.
        ignore_resource: Issue tokens for everything known, as servers without RFC 8707 do.
        same_token: Return the last live token again, whatever the request asks for.
        overrides: Members to replace in each success response, or with `ABSENT` to leave out.
        dpop_nonce: The nonce that each DPoP proof has to have; None asks for none.
    """

    def __init__(
        self,
        *,
        clients: Mapping[str, str] | None = None,
        resources: Mapping[str, Collection[str]] | None = None,
        audiences: Mapping[str, str] | None = None,
        path: str = "",
        metadata: Literal["both", "rfc8414", "openid", "none"] = "both",
        token_format: Literal["jwt", "opaque"] = "jwt",  # noqa: S107 - no password
        lifetime: timedelta = timedelta(hours=1),
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock)
        self.clients = dict({"orders-worker": "secret"} if clients is None else clients)
        self.resources = resources
        self.audiences = dict(audiences or {})
        self.metadata = metadata
        self.token_format = token_format
        self.lifetime = lifetime
        self.delay = timedelta(0)
        self.ignore_resource = False
        self.same_token = False
        self.overrides: Mapping[str, object] = {}
        self._path = path
        self._scripted: deque[Answer] = deque()
        self._token_requests: list[TokenRequestRecord] = []
        self._asked: dict[str, None] = {}
        # The signed JWT by the string that the client holds, which is another one when opaque.
        self._issued: dict[str, str] = {}
        self._last: tuple[str, dict[str, Any]] | None = None
        self._revoked: set[str] = set()
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.rotate_keys()

    def __repr__(self) -> str:
        return f"LocalAuthorizationServer(issuer={self.issuer if self._port else None!r})"

    @property
    def issuer(self) -> str:
        """
        The issuer identifier, known from the first start on.
        """
        return self._origin + self._path

    @property
    def token_endpoint(self) -> str:
        """
        The URL that takes token requests.
        """
        return self.issuer.rstrip("/") + "/token"

    @property
    def revocation_endpoint(self) -> str:
        """
        The URL that takes tokens to revoke (RFC 7009).
        """
        return self.issuer.rstrip("/") + "/revoke"

    @property
    def jwks_uri(self) -> str:
        """
        The URL of the key set.
        """
        return self.issuer.rstrip("/") + "/jwks"

    @property
    def jwks(self) -> dict[str, Any]:
        """
        The public keys as a JSON Web Key Set.
        """
        with self._lock:
            keys = dict(self._keys)
        return {
            "keys": [
                ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
                | {"kid": kid, "use": "sig", "alg": "ES256"}
                for kid, key in keys.items()
            ]
        }

    @property
    def now(self) -> float:
        """
        Seconds since the epoch, by the server's clock.
        """
        return self._clock()

    @property
    def token_requests(self) -> tuple[TokenRequestRecord, ...]:
        """
        The token requests answered so far, in the order in which they came in.
        """
        with self._lock:
            return tuple(sorted(self._token_requests, key=attrgetter("received_at")))

    @property
    def issued(self) -> tuple[str, ...]:
        """
        Every token that was signed, in order.
        """
        with self._lock:
            return tuple(self._issued)

    def clear(self) -> None:
        """
        Forget the records; tokens already issued stay as valid as they were.
        """
        super().clear()
        with self._lock:
            self._token_requests.clear()

    def fail_next(
        self,
        n: int = 1,
        status: int = 503,
        error: str = "temporarily_unavailable",
        headers: Headers = (),
    ) -> None:
        """
        Answer the next `n` token requests with an OAuth error, after those already queued.
        """
        answer = json_answer(status, {"error": error}, *_pairs(headers), error=error)
        with self._lock:
            self._scripted.extend(repeat(answer, n))

    def answer_next(self, status: int = 200, body: bytes = b"", headers: Headers = ()) -> None:
        """
        Answer the next token request with exactly this, after those already queued.
        """
        with self._lock:
            self._scripted.append(Answer(status, body, _pairs(headers)))

    def rotate_keys(self, *, keep_old: bool = True) -> None:
        """
        Sign with a new key from now on; without `keep_old`, tokens signed before are void.
        """
        with self._lock:
            if not keep_old:
                self._keys.clear()
                self._last = None
            self._keys[secrets.token_hex(8)] = ec.generate_private_key(ec.SECP256R1())

    def user_token(
        self,
        subject: str,
        *,
        audience: str,
        scopes: Collection[str] = (),
        client_id: str = "browser",
        lifetime: timedelta | None = None,
    ) -> str:
        """
        A token that a user's login would have led to, for the API that the user calls.

        Args:
            subject: The user, in `sub`.
            audience: The API, in `aud`.
            scopes: Those granted.
            client_id: The client that the user has logged in with.
            lifetime: `lifetime` of the server by default.
        """
        with self._lock:
            token, _ = self._sign(
                {"sub": subject, "client_id": client_id}, audience, list(scopes), lifetime
            )
        return token

    def revoke(self, token: str) -> None:
        """
        Make `verify` refuse this token.
        """
        with self._lock:
            self._revoked.add(token)

    def is_revoked(self, token: str) -> bool:
        """
        Whether the token was revoked.
        """
        with self._lock:
            return token in self._revoked

    def verify(self, token: str, *, audience: str) -> dict[str, Any]:
        """
        Check a token of either format as RFC 9068 tells an API to, and return its claims.

        Raises:
            RevokedTokenError: It was revoked.
            jwt.InvalidTokenError: It is expired, malformed, or not for `audience`.
        """
        return self._verified(token, audience)

    def _verified(self, token: str, audience: str | None) -> dict[str, Any]:
        if self.is_revoked(token):
            raise RevokedTokenError("The token was revoked")
        with self._lock:
            signed, keys = self._issued.get(token, token), dict(self._keys)
        header = jwt.get_unverified_header(signed)
        if header.get("typ") != "at+jwt" or header.get("kid") not in keys:
            raise jwt.InvalidTokenError("Not an access token signed with a current key")
        claims: dict[str, Any] = jwt.decode(
            signed,
            keys[header["kid"]].public_key(),
            algorithms=["ES256"],
            audience=audience,
            issuer=self.issuer,
            # PyJWT judges times by its own clock, not by ours.
            options={
                "verify_exp": False,
                "verify_iat": False,
                "verify_aud": audience is not None,
            },
        )
        if claims["exp"] <= self._clock():
            raise jwt.ExpiredSignatureError("The token has expired")
        return claims

    def claims(self, token: str) -> dict[str, Any] | None:
        """
        What a token of either format said when it was issued, whatever has become of it since;
        None if it is none of this server's.
        """
        with self._lock:
            signed = self._issued.get(token)
        if signed is None:
            return None
        claims: dict[str, Any] = jwt.decode(signed, options={"verify_signature": False})
        return claims

    def _answer(self, request: Request) -> Answer:
        stem = self._path.rstrip("/")
        documents: dict[str, Callable[[], dict[str, Any]]] = {f"{stem}/jwks": lambda: self.jwks}
        if self.metadata in ("both", "rfc8414"):
            # RFC 8414 3.1: inserted between the host and the path of the issuer.
            documents[f"/.well-known/oauth-authorization-server{stem}"] = self._metadata_document
        if self.metadata in ("both", "openid"):
            documents[f"{stem}/.well-known/openid-configuration"] = self._metadata_document

        if request.path == f"{stem}/token":
            return self._token_answer(request)
        if request.path == f"{stem}/revoke":
            return self._revocation_answer(request)
        if request.path in documents:
            return json_answer(200, documents[request.path]())
        return json_answer(404, {"error": "not_found"})

    def _metadata_document(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "token_endpoint": self.token_endpoint,
            "revocation_endpoint": self.revocation_endpoint,
            "jwks_uri": self.jwks_uri,
            "grant_types_supported": ["client_credentials", *_ON_BEHALF_OF],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        }

    def _revocation_answer(self, request: Request) -> Answer:
        try:
            form = _form(request)
            self._check_client(_presented_client(request, form))
            if "token" not in dict(form):
                raise _RefusedError("invalid_request", "token is missing")
        except _RefusedError as refused:
            return refused.answer
        # RFC 7009 2.2: 200 as well for one that is not known.
        self.revoke(dict(form)["token"])
        return Answer(200, b"")

    def _check_client(self, client: _PresentedClient) -> None:
        secret = self.clients.get(client.client_id or "")
        if secret is None or secret != client.secret:
            raise _RefusedError("invalid_client", "Unknown client, or wrong secret", 401)

    def _token_answer(self, request: Request) -> Answer:
        received_at = self._clock()
        with self._lock:
            scripted = self._scripted.popleft() if self._scripted else None
        self._stopping.wait(self.delay.total_seconds())

        form: list[tuple[str, str]] = []
        client = _PresentedClient("none")
        try:
            form = _form(request)
            client = _presented_client(request, form)
            thumbprint = self._proved(request, received_at)
            answer = scripted or self._grant(form, client, thumbprint)
        except _RefusedError as refused:
            answer = scripted or refused.answer
        except RefusedProofError as refused:
            members = {"error": refused.error, "error_description": str(refused)}
            answer = scripted or json_answer(400, members, error=refused.error)
        answer = self._with_nonce(answer)

        record = TokenRequestRecord(
            received_at=received_at,
            client_id=client.client_id,
            auth_method=client.auth_method,
            grant_type=dict(form).get("grant_type"),
            resources=tuple(value for name, value in form if name == "resource"),
            scopes=tuple(dict(form).get("scope", "").split()),
            parameters=tuple(self._without_secret(name, value) for name, value in form),
            status=answer.status,
            error=answer.error,
        )
        with self._lock:
            self._token_requests.append(record)
        return answer

    def _without_secret(self, name: str, value: str) -> tuple[str, str]:
        with self._lock:
            known = value in self._issued or value in list(self.clients.values())
        return name, _REDACTED if known or _SECRET_PARAMETER.search(name) else value

    def _grant(
        self, form: list[tuple[str, str]], client: _PresentedClient, thumbprint: str | None
    ) -> Answer:
        self._check_client(client)
        names = [name for name, _ in form if name != "resource"]
        if len(names) != len(set(names)):
            raise _RefusedError("invalid_request", "A parameter is repeated")
        parameters = dict(form)
        if "grant_type" not in parameters:
            raise _RefusedError("invalid_request", "grant_type is missing")
        client_id = client.client_id or ""
        who: dict[str, object] = {"sub": client_id, "client_id": client_id}
        if parameters["grant_type"] in _ON_BEHALF_OF:
            # RFC 8693 4.1: who it is about, and who acts.
            who |= {"sub": self._subject(parameters), "act": {"sub": client_id}}
        elif parameters["grant_type"] != "client_credentials":
            raise _RefusedError("unsupported_grant_type", "That grant is not supported")

        audience, allowed = self._target([value for name, value in form if name == "resource"])
        requested = parameters.get("scope", "").split()
        scopes = requested
        if allowed is not None:
            scopes = [scope for scope in requested or allowed if scope in allowed]
        if requested and not scopes:
            raise _RefusedError("invalid_scope", "None of the requested scopes is allowed here")
        exchanged = parameters["grant_type"] == _TOKEN_EXCHANGE
        more: dict[str, object] = {"issued_token_type": _AT} if exchanged else {}
        return self._issue(who, audience, scopes, more, thumbprint)

    def _subject(self, parameters: dict[str, str]) -> str:
        """
        Whom the token is about that is to be exchanged.
        """
        member, error = _ON_BEHALF_OF[parameters["grant_type"]]
        if member not in parameters:
            raise _RefusedError("invalid_request", f"{member} is missing")
        if member == "subject_token" and parameters.get("subject_token_type") != _AT:
            raise _RefusedError("invalid_request", "subject_token_type must be an access token's")
        try:
            return str(self._verified(parameters[member], None)["sub"])
        except jwt.InvalidTokenError as invalid:
            raise _RefusedError(error, f"{member}: {invalid}") from None

    def _target(self, resources: list[str]) -> tuple[str | list[str], list[str] | None]:
        """
        Return the audience for these resources and the scopes allowed there, None for any.
        """
        if not self.ignore_resource:
            if len(resources) != 1:
                raise _RefusedError("invalid_target", "Exactly one resource is needed")
            if not _ABSOLUTE_URI.fullmatch(resources[0]):
                raise _RefusedError("invalid_target", "Not an absolute URI without a fragment")
            if self.resources is not None and resources[0] not in self.resources:
                raise _RefusedError("invalid_target", "The resource is unknown")
        with self._lock:
            self._asked |= dict.fromkeys(resources)
            if self.ignore_resource:
                resources = list(self._asked if self.resources is None else self.resources)
        audience = [self.audiences.get(resource, resource) for resource in resources]
        allowed = None
        if self.resources is not None:
            scopes = (scope for resource in resources for scope in self.resources[resource])
            allowed = list(dict.fromkeys(scopes))
        return audience if self.ignore_resource else audience[0], allowed

    def _issue(
        self,
        who: dict[str, object],
        audience: str | list[str],
        scopes: list[str],
        more: dict[str, object],
        thumbprint: str | None,
    ) -> Answer:
        now = self._clock()
        with self._lock:
            last = self._last if self.same_token else None
            if last is None or last[0] in self._revoked or last[1]["exp"] <= now:
                last = self._last = self._sign(who, audience, scopes, thumbprint=thumbprint)
        token, claims = last
        members: dict[str, object] = {
            "access_token": token,
            "token_type": "DPoP" if "cnf" in claims else "Bearer",
            "expires_in": math.floor(claims["exp"] - now),
        }
        if claims["scope"]:
            members["scope"] = claims["scope"]
        members |= more | dict(self.overrides)
        return json_answer(
            200, {name: value for name, value in members.items() if value is not ABSENT}
        )

    def _sign(
        self,
        who: dict[str, object],
        audience: str | list[str],
        scopes: list[str],
        lifetime: timedelta | None = None,
        thumbprint: str | None = None,
    ) -> tuple[str, dict[str, Any]]:
        now = self._clock()
        claims: dict[str, Any] = {
            "iss": self.issuer,
            **who,
            "aud": audience,
            "scope": " ".join(dict.fromkeys(scopes)),
            "iat": math.floor(now),
            # Up, so that the token lives at least as long as expires_in says.
            "exp": math.ceil(now + (lifetime or self.lifetime).total_seconds()),
            "jti": secrets.token_urlsafe(16),
        }
        if thumbprint is not None:
            claims["cnf"] = {"jkt": thumbprint}
        kid, key = list(self._keys.items())[-1]
        signed = jwt.encode(claims, key, "ES256", headers={"typ": "at+jwt", "kid": kid})
        opaque = self.token_format == "opaque"  # noqa: S105 - no password
        token = secrets.token_urlsafe(32) if opaque else signed
        self._issued[token] = signed
        return token, claims


class LocalResourceServer(_LocalServer):
    """
    An API that lets in whoever shows a token of `authorization_server` for its audience.

    It answers 200 with `{"audience", "scope", "path"}`, and with the `"subject"` of a token that is
    about a user, 401 with an RFC 6750 challenge, or 404 where `audiences` covers no prefix of the
    path. A token that is bound to a key needs a proof (RFC 9449). Its ledger, `requests`, holds all
    of them.

    Args:
        audience: The audience of the whole host; its own `url` by default.
        audiences: Instead, the audience below each path, None for the URL of that path; the
            longest prefix by segments wins.

    Attributes:
        dpop_nonce: The nonce that each DPoP proof has to have; None asks for none.
    """

    def __init__(
        self,
        authorization_server: LocalAuthorizationServer,
        *,
        audience: str | None = None,
        audiences: Mapping[str, str | None] | None = None,
    ) -> None:
        if audience is not None and audiences is not None:
            raise ValueError("Give either audience= or audiences=, and not both.")
        super().__init__()
        self._authorization_server = authorization_server
        # None stands for a URL of the server itself, which is known once it listens.
        self._audiences: dict[str, str | None] = (
            {"/": audience} if audiences is None else dict(audiences)
        )

    def __repr__(self) -> str:
        url = self.url if self._port else None
        return f"LocalResourceServer(url={url!r}, audiences={self._audiences!r})"

    @property
    def url(self) -> str:
        """
        The root URL, with a trailing slash, known from the first start on.
        """
        return self._origin + "/"

    def audience_at(self, path: str) -> str | None:
        """
        The audience that a token needs at a path; None where there is no API.
        """
        prefixes = [prefix for prefix in self._audiences if _covers(prefix, path)]
        if not prefixes:
            return None
        prefix = max(prefixes, key=len)
        audience = self._audiences[prefix]
        return self.url + prefix.removeprefix("/") if audience is None else audience

    def tokens_seen(self) -> tuple[str, ...]:
        """
        Return each token that arrived here, once, in the order of arrival.

        A token is what follows a bearer scheme or `access_token=`, and every token of the
        authorization server, wherever in the target, the headers or the body it stood.
        """
        issued = self._authorization_server.issued
        seen: dict[str, None] = {}
        for record in self.requests:
            text = record.text
            seen |= dict.fromkeys(_PRESENTED_TOKEN.findall(text))
            seen |= dict.fromkeys(token for token in issued if token in text)
        return tuple(seen)

    def _answer(self, request: Request) -> Answer:
        audience = self.audience_at(request.path)
        if audience is None:
            return json_answer(404, {"error": "not_found"})
        # Joined as RFC 9110 5.3 has it, so that two tokens never pass for one.
        authorization = ", ".join(request.headers.get_all("Authorization", []))
        scheme, _, token = authorization.partition(" ")
        scheme, token = scheme.lower(), token.strip()
        if scheme not in ("bearer", "dpop"):
            return _unauthorized()
        try:
            now = self._authorization_server.now
            proved = self._proved(request, now, token) if scheme == "dpop" else None
            claims = self._authorization_server.verify(token, audience=audience)
        except RefusedProofError as refused:
            return self._with_nonce(_unauthorized(str(refused), refused.error, "DPoP"))
        except jwt.InvalidTokenError as error:
            return self._with_nonce(_unauthorized(str(error)))
        bound = claims.get("cnf", {}).get("jkt")
        # RFC 9449 7.2: a bound token is not to be taken as a bearer token.
        if bound != proved:
            return self._with_nonce(_unauthorized("The key is not proved", scheme="DPoP"))
        members = {"audience": audience, "scope": claims["scope"], "path": request.path}
        if claims["sub"] != claims["client_id"]:
            members["subject"] = claims["sub"]
        return self._with_nonce(json_answer(200, members))


class TokenLeak(NamedTuple):
    """
    A token that arrived where it does not belong.

    Attributes:
        url: Where it arrived, without the query.
        audience: What the token is for.
        expected: What a token has to be for there; None where there is no API at all.
    """

    method: str
    url: str
    audience: tuple[str, ...]
    expected: str | None


class TokenLedger:
    """
    Which tokens have arrived where, at all the APIs of a test.

    A token belongs where its `aud` does and nothing else. A path that some servers read as another
    one, such as `/billing/%2e%2e/orders`, counts as both.

    Args:
        authorization_server: The one that issued the tokens.
    """

    def __init__(self, authorization_server: LocalAuthorizationServer) -> None:
        self._authorization_server = authorization_server
        self._watched: list[LocalResourceServer] = []

    def watch(self, *servers: LocalResourceServer) -> None:
        """
        Include these APIs. The `resource_server` fixture has included those that it started.
        """
        self._watched += servers

    def leaks(self) -> tuple[TokenLeak, ...]:
        """
        Each token that arrived at the wrong place.
        """
        claims = {token: self._claims(token) for token in self._authorization_server.issued}
        return tuple(
            leak
            for server in self._watched
            for record in server.requests
            for token, audience in claims.items()
            if token in record.text
            for leak in self._judged(server, record, audience)
        )

    def assert_no_leaks(self) -> None:
        """
        Fail if a token has arrived anywhere but at the API it was issued for.

        Raises:
            AssertionError: With each leak on a line, and no token in it.
        """
        leaks = self.leaks()
        if leaks:
            lines = [
                f"{leak.method} {leak.url} received a token for {', '.join(leak.audience)}, where "
                + (f"one for {leak.expected} belongs" if leak.expected else "there is no API")
                for leak in dict.fromkeys(leaks)
            ]
            raise AssertionError("\n".join(["Tokens leaked:", *lines]))

    def _claims(self, token: str) -> tuple[str, ...]:
        audience = (self._authorization_server.claims(token) or {})["aud"]
        return (audience,) if isinstance(audience, str) else tuple(audience)

    def _judged(
        self, server: LocalResourceServer, record: RequestRecord, audience: tuple[str, ...]
    ) -> Iterator[TokenLeak]:
        for path in dict.fromkeys((record.path, _read_loosely(record.path))):
            expected = server.audience_at(path)
            if expected not in audience and (expected is not None or path == record.path):
                url = server.url.rstrip("/") + record.path
                yield TokenLeak(record.method, url, audience, expected)


def _read_loosely(path: str) -> str:
    """
    A path as the most forgiving of servers reads it: decoded again and again, without parameters,
    backslashes for slashes, dots resolved, and letters of any case.
    """
    for _ in range(3):
        # Some decoders take an overlong form for the character itself.
        path = re.sub(r"(?i)%c0%ae", ".", path)
        path = re.sub(r"(?i)%c0%af", "/", path)
        path = unquote(path, "latin-1")
    path = re.sub(r";[^/]*", "", path.replace("\\", "/").partition("\0")[0])
    return posixpath.normpath(re.sub("/+", "/", f"/{path}")).lower()


def _covers(prefix: str, path: str) -> bool:
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def _unauthorized(
    description: str | None = None, error: str = "invalid_token", scheme: str = "Bearer"
) -> Answer:
    challenge = f'{scheme} realm="local"'
    if description is not None:
        # RFC 6750 3: no quote, backslash or control character in error_description.
        description = re.sub(r"[^ !#-\[\]-~]", "'", description)
        challenge += f', error="{error}", error_description="{description}"'
    return json_answer(401, {}, ("WWW-Authenticate", challenge))


_REDACTED = "[redacted]"
_SECRET_HEADER = re.compile(r"auth|cookie|dpop|key|secret|token", re.IGNORECASE)
_SECRET_PARAMETER = re.compile(r"assertion|code|password|secret|token(?!_type|_use)", re.IGNORECASE)
_PRESENTED_TOKEN = re.compile(r"(?i:\b(?:bearer|dpop)[ ]+|\baccess_token=)([\w.~+/-]+=*)")
_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-\"$-~]+")


def _redacted(text: str) -> str:
    """
    Return the text without anything that could be a token, on its own or after a keyword.
    """
    text = _PRESENTED_TOKEN.sub(_REDACTED, text)
    return re.sub(r"[\w.~+=-]{32,}", _REDACTED, text)


@dataclass(frozen=True, slots=True)
class _PresentedClient:
    auth_method: Literal["client_secret_basic", "client_secret_post", "none"]
    client_id: str | None = None
    secret: str | None = field(default=None, repr=False)


def _presented_client(request: Request, form: list[tuple[str, str]]) -> _PresentedClient:
    parameters = dict(form)
    client_id, secret = parameters.get("client_id"), parameters.get("client_secret")
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return _PresentedClient("client_secret_post" if secret else "none", client_id, secret)
    if secret is not None:
        raise _RefusedError("invalid_request", "The client authenticates in two ways")

    # RFC 6749 2.3.1: "encoded using the application/x-www-form-urlencoded encoding algorithm",
    # each of the two on its own.
    part = r"((?:[A-Za-z0-9*._~+-]|%[0-9A-Fa-f]{2})*)"
    try:
        decoded = base64.b64decode(credentials, validate=True).decode("ascii")
        if pair := re.fullmatch(f"{part}:{part}", decoded):
            basic_id, basic_secret = (unquote_plus(text, errors="strict") for text in pair.groups())
            return _PresentedClient("client_secret_basic", basic_id, basic_secret)
    except ValueError:
        pass
    return _PresentedClient("client_secret_basic")


def _form(request: Request) -> list[tuple[str, str]]:
    if request.method != "POST":
        raise _RefusedError("invalid_request", "Use POST", 405)
    if request.headers.get_content_type() != "application/x-www-form-urlencoded":
        raise _RefusedError("invalid_request", "The body must be application/x-www-form-urlencoded")
    if request.truncated:
        raise _RefusedError("invalid_request", "The body is too large", 413)
    try:
        # RFC 6749 3.2: "Parameters sent without a value MUST be treated as if they were omitted".
        return parse_qsl(request.body.decode("ascii"), strict_parsing=True, errors="strict")
    except ValueError:
        raise _RefusedError("invalid_request", "The body is not a well-formed form") from None


class _RefusedError(Exception):
    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error)
        members = {"error": error, "error_description": description}
        self.answer = json_answer(status, members, *_REFUSAL_HEADERS.get(status, ()), error=error)


_TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - no password
_AT = "urn:ietf:params:oauth:token-type:access_token"
# The parameter that says on whose behalf, and the error for a bad one (RFC 8693 2.2.2, RFC 7523
# 3.1).
_ON_BEHALF_OF = {
    _TOKEN_EXCHANGE: ("subject_token", "invalid_request"),
    "urn:ietf:params:oauth:grant-type:jwt-bearer": ("assertion", "invalid_grant"),
}

_REFUSAL_HEADERS = {
    401: [("WWW-Authenticate", 'Basic realm="token endpoint"')],
    405: [("Allow", "POST")],
}


def _pairs(headers: Headers) -> tuple[tuple[str, str], ...]:
    return headers if isinstance(headers, tuple) else tuple(headers.items())
