"""
Dialects: how a server departs from the standards, as values.

What is kept under which key, and where a token may go, depends on none of them: a token stays
pinned to the resource it was asked for, whatever the server understands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from resource_tokens.exceptions import ConfigurationError
from resource_tokens.oauth.exchange import Exchange, JwtBearer, TokenExchange

__all__ = [
    "PRESETS",
    "RFC8707",
    "Dialect",
    "DialectOrName",
    "Target",
    "dialect_of",
]

Pairs = Mapping[str, str] | tuple[tuple[str, str], ...]


_EXCHANGE = TokenExchange()


class Target(NamedTuple):
    """
    What a token is asked for.

    Attributes:
        resource: The identifier of the resource, which goes out byte for byte.
        audience: The `aud` that the server is expected to write.
    """

    resource: str
    audience: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """
    How an authorization server wants to be spoken to, and how far its answers can be believed.

    The presets are in `PRESETS`, each under the name that `AuthorizationServer(dialect=...)`
    takes. For another server, make one of your own.

    Args:
        name: What it is called in messages.
        target: The parameters that name the target, each with a text in which `{resource}`
            stands for the identifier of the resource and `{audience}` for the `aud` expected.
            `{"resource": "{resource}"}` is RFC 8707. The text of `"scope"` is added to the scopes
            asked for; with `{scope}` in it, it is how each one is written. Empty for a server
            that cannot be told.
        default_scope: What stands for `{scope}` where no scope is asked for.
        multi: How several targets are written: not at all, by repeating the parameter (RFC 8707
            2), or in one, with spaces.
        target_grants: The grants with which the server takes the target; `None` for all.
        exchange: How the server is asked for a token on behalf of somebody.
        exchange_target: The parameters that name the target in a token exchange (RFC 8693), where
            they are not those of `target`; written like those.
        form: `"post"` sends a form (RFC 6749 4.4.2); `"get"` puts it into the URL, without
            `grant_type`, and is only for clients that send no credential.
        headers: Headers to add to a token request.
        local_hosts: Hosts that may be asked over plain `http`, as what is sent there does not
            leave the machine.
        errors: What the server's own words mean: a code, or a part of a description, and the
            `error` to report for it.
        says_audience: Whether the `aud` of a JWT names what was asked for, so that
            `verify_audience="auto"` can check it.
        confirmation: What a `resource` member in the response is worth: `"if_present"` it must
            name what was asked for; `"if_uri"` the same, and what is no URI says nothing;
            `"require"` it must be there as well.
        default_lifetime: How long a token lives when the response does not say; `None` if that is
            not known.
        expires_on: Whether the response may say `expires_on`, in seconds since the epoch, instead
            of `expires_in`.
        basic_credentials: `"form"` urlencodes client id and secret before they are put in a
            Basic header, as RFC 6749 2.3.1 asks; `"raw"` does not.
        assertion_audience: The `aud` of a client assertion: the `"issuer"`, or the
            `"token_endpoint"` where a server takes nothing else.

    Raises:
        ConfigurationError: If an argument cannot be what it stands for.
    """

    name: str
    target: Pairs = (("resource", "{resource}"),)
    default_scope: str | None = None
    multi: Literal["single", "repeat", "space"] = "single"
    target_grants: AbstractSet[str] | None = None
    exchange: Exchange = _EXCHANGE
    exchange_target: Pairs | None = None
    form: Literal["post", "get"] = "post"
    headers: Pairs = ()
    local_hosts: tuple[str, ...] = ()
    errors: Pairs = ()
    says_audience: bool = True
    confirmation: Literal["if_present", "if_uri", "require"] = "if_present"
    default_lifetime: timedelta | None = None
    expires_on: bool = False
    basic_credentials: Literal["form", "raw"] = "form"
    assertion_audience: Literal["issuer", "token_endpoint"] = "issuer"

    def __post_init__(self) -> None:
        for attribute, choices in _CHOICES.items():
            if getattr(self, attribute) not in choices:
                raise ConfigurationError(
                    f"Dialect {self.name!r}: {attribute}={getattr(self, attribute)!r} is none of "
                    f"{', '.join(map(repr, choices))}."
                )
        if not isinstance(self.exchange, Exchange):
            raise ConfigurationError(
                f"Dialect {self.name!r}: exchange= is a TokenExchange or a JwtBearer."
            )
        for attribute in ("target", "headers", "errors", "exchange_target"):
            pairs = getattr(self, attribute)
            if pairs is not None:
                object.__setattr__(self, attribute, tuple(dict(pairs).items()))
        if self.target_grants is not None:
            object.__setattr__(self, "target_grants", frozenset(self.target_grants))
        for parameter, text in (
            *dict(self.target).items(),
            *dict(self.exchange_target or ()).items(),
        ):
            unknown = set(re.findall(r"\{.*?\}", text)) - {"{resource}", "{audience}", "{scope}"}
            if unknown or ("{scope}" in text and parameter != "scope"):
                raise ConfigurationError(
                    f"Dialect {self.name!r}: target={{{parameter!r}: {text!r}}}: {{resource}} and "
                    "{audience} are filled in, and {scope} in the text of 'scope'."
                )

    def names_target(self, grant_type: str) -> bool:
        """
        Whether a token request with this grant says which API it is for.
        """
        return bool(self._named(grant_type))

    def _named(self, grant_type: str) -> Mapping[str, str]:
        """
        The parameters that name the target with this grant, and their texts.
        """
        if self.exchange_target is not None and grant_type == TokenExchange.grant_type:
            return dict(self.exchange_target)
        if self.target_grants is None or grant_type in self.target_grants:
            return dict(self.target)
        return {}

    def parameters(self, targets: Sequence[Target], grant_type: str) -> list[tuple[str, str]]:
        """
        The parameters that name the target, apart from `scope`.

        Raises:
            ConfigurationError: If there are several targets and this server takes one.
        """
        named = self._named(grant_type)
        if not named:
            return []
        if len(targets) > 1 and self.multi == "single":
            raise ConfigurationError(
                f"The dialect {self.name!r} names one target in a token request, not "
                f"{len(targets)}."
            )
        pairs = []
        for parameter, text in named.items():
            if parameter != "scope":
                values = [_filled(text, target) for target in targets]
                values = [" ".join(values)] if self.multi == "space" else values
                pairs += [(parameter, value) for value in values]
        return pairs

    def scopes(self, scopes: AbstractSet[str], target: Target, grant_type: str) -> frozenset[str]:
        """
        The scopes to send where these are asked for.
        """
        named = self._named(grant_type)
        if not named:
            return frozenset(scopes)
        text = named.get("scope", "{scope}")
        if "{scope}" not in text:
            return frozenset({*scopes, _filled(text, target)})
        asked = scopes or ({self.default_scope} if self.default_scope else set())
        return frozenset(_filled(text, target).replace("{scope}", scope) for scope in asked)

    def meaning(self, error: str, description: str) -> str:
        """
        The standard's code for an error that this server words in its own way.
        """
        said = f"{error}: {description}"
        for words, meaning in dict(self.errors).items():
            if re.search(rf"(?<!\w){re.escape(words)}(?!\w)", said):
                return meaning
        return error


if TYPE_CHECKING:

    class DialectOrName:
        """
        A field that is given a `Dialect` or the name of a preset, and holds a `Dialect`.
        """

        def __get__(self, instance: object, owner: Any) -> Dialect: ...
        def __set__(self, instance: object, value: Dialect | str) -> None: ...
else:
    DialectOrName = Dialect | str


def dialect_of(value: object) -> Dialect:
    """
    The dialect meant by a `Dialect` or a name.

    Raises:
        ConfigurationError: If there is no dialect of that name.
    """
    if isinstance(value, Dialect):
        return value
    preset = PRESETS.get(value) if isinstance(value, str) else None
    if preset is None:
        raise ConfigurationError(
            f"dialect={value!r} is none of those known: {', '.join(map(repr, PRESETS))}. For "
            "another server, give a Dialect of your own."
        )
    return preset


def _filled(text: str, target: Target) -> str:
    # In one pass, since an identifier can contain what looks like the other placeholder.
    values = {"{resource}": target.resource, "{audience}": target.audience}
    return re.sub(r"\{resource\}|\{audience\}", lambda found: values[found[0]], text)


_CHOICES: dict[str, tuple[object, ...]] = {
    "multi": ("single", "repeat", "space"),
    "form": ("post", "get"),
    "confirmation": ("if_present", "if_uri", "require"),
    "basic_credentials": ("form", "raw"),
    "assertion_audience": ("issuer", "token_endpoint"),
    "says_audience": (True, False),
    "expires_on": (True, False),
}

RFC8707 = Dialect(name="rfc8707", multi="repeat")
"""
The standard: one `resource` parameter, and a token whose `aud` says so.
"""

_ON_BEHALF_OF = JwtBearer(requested_token_use="on_behalf_of")  # noqa: S106 - no password
_BY_RESOURCE = {"resource": "{resource}"}
_BY_AUDIENCE = {"audience": "{audience}"}
_NOT_AT_ALL: dict[str, str] = {}

# The codes of https://learn.microsoft.com/entra/identity-platform/reference-error-codes that mean
# the target, or that say `invalid_grant` of a grant that is good for other resources.
_ENTRA_ERRORS = {
    "invalid_resource": "invalid_target",
    "AADSTS50001": "invalid_target",
    "AADSTS500011": "invalid_target",
    "AADSTS650057": "invalid_target",
    "AADSTS70011": "invalid_target",
    "AADSTS700022": "invalid_target",
    "AADSTS28000": "invalid_target",
    "AADSTS901002": "invalid_target",
    "AADSTS9010010": "invalid_target",
    "AADSTS65001": "consent_required",
    "AADSTS50076": "interaction_required",
    "AADSTS50078": "interaction_required",
    "AADSTS50079": "interaction_required",
}

PRESETS = {
    dialect.name: dialect
    for dialect in (
        RFC8707,
        # The form of a token is the choice of the API, and nobody else is to look inside.
        Dialect(
            name="entra-v2",
            exchange=_ON_BEHALF_OF,
            target={"scope": "{resource}/{scope}"},
            default_scope=".default",
            errors=_ENTRA_ERRORS,
            says_audience=False,
            assertion_audience="token_endpoint",
        ),
        Dialect(
            name="entra-v1",
            exchange=_ON_BEHALF_OF,
            target=_BY_RESOURCE,
            errors=_ENTRA_ERRORS,
            says_audience=False,
            confirmation="if_uri",
            expires_on=True,
            assertion_audience="token_endpoint",
        ),
        Dialect(
            name="managed-identity",
            target=_BY_RESOURCE,
            form="get",
            headers={"Metadata": "true"},
            local_hosts=("169.254.169.254",),
            errors=_ENTRA_ERRORS,
            says_audience=False,
            confirmation="if_uri",
            expires_on=True,
        ),
        Dialect(
            name="auth0",
            target=_BY_AUDIENCE,
            # Where the type may be left out elsewhere (RFC 8693 2.1), it is required here.
            exchange=TokenExchange(requested_token_type="access_token"),  # noqa: S106
            errors={"Service not found": "invalid_target"},
        ),
        # One server for each API, which is named by its issuer.
        Dialect(
            name="okta",
            target=_NOT_AT_ALL,
            exchange_target=_BY_AUDIENCE,
            assertion_audience="token_endpoint",
        ),
        # A token of client credentials has no `aud`: its scopes say what it is for.
        Dialect(name="cognito", target=_NOT_AT_ALL, says_audience=False),
        # The audience of a token exchange is the id of a client: Resource(..., audience="orders").
        Dialect(name="keycloak", target=_NOT_AT_ALL, exchange_target=_BY_AUDIENCE),
        Dialect(
            name="keycloak-resource-indicators",
            target=_BY_RESOURCE,
            target_grants={"client_credentials", "refresh_token"},
            exchange_target=_BY_AUDIENCE,
        ),
        # One provider for each API; the audience is the client id of it.
        Dialect(name="authentik", target=_NOT_AT_ALL, exchange_target=_BY_AUDIENCE),
        Dialect(
            name="hydra",
            target=_BY_AUDIENCE,
            multi="space",
            errors={"Requested audience": "invalid_target"},
            assertion_audience="token_endpoint",
        ),
        # The audience is the id of a project: Resource(..., audience="217...").
        Dialect(name="zitadel", target={"scope": "urn:zitadel:iam:org:project:id:{audience}:aud"}),
        Dialect(name="duende", target=_BY_RESOURCE),
        Dialect(name="logto", target=_BY_RESOURCE),
        Dialect(name="authelia", target=_BY_RESOURCE),
        Dialect(name="node-oidc-provider", target=_BY_RESOURCE),
        Dialect(
            name="pingone",
            target=_NOT_AT_ALL,
            errors={"May not request scopes for multiple resources": "invalid_target"},
        ),
        # The next two write the client or the project into `aud`, whatever was asked for.
        Dialect(name="spring", target=_NOT_AT_ALL, says_audience=False),
        Dialect(name="stytch", target=_NOT_AT_ALL, says_audience=False),
        # No session of an organisation is shorter than 15 minutes.
        Dialect(
            name="salesforce",
            target=_NOT_AT_ALL,
            says_audience=False,
            default_lifetime=timedelta(minutes=15),
        ),
    )
}
