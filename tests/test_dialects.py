"""
Dialects: for each preset the very bytes that are sent, and what its answers mean.
"""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resource_tokens import (
    AudienceMismatchError,
    AuthorizationServer,
    ClientSecretBasic,
    ConfigurationError,
    OAuthError,
    PublicClient,
    RefreshToken,
    Resource,
    TokenCache,
    TokenExchange,
    TokenRequestError,
)
from resource_tokens.oauth.dialects import PRESETS, RFC8707, Dialect, Target, dialect_of
from resource_tokens.oauth.messages import HTTPRequest
from resource_tokens.oauth.token_endpoint import TokenRequest, check_told_apart, issued_token
from resource_tokens.testing import LocalAuthorizationServer
from tests.conftest import Caller
from tests.test_token_endpoint import answer, good, judged, signed
from tests.test_tokens import asked

DOCS = Path(__file__).parent.parent / "docs"
ENDPOINT = "https://login.example.com/token"
ORDERS, BILLING = Resource("https://orders.example.com/"), Resource("https://billing.example.com/")


def speaking(dialect: Dialect | str, resource: Resource = ORDERS, **changes: Any) -> TokenRequest:
    """
    What would be asked of a server with this dialect, with the scopes of the resource.
    """
    server = AuthorizationServer(issuer="https://login.example.com", dialect=dialect)
    return asked(
        **{"server": server, "resource": resource, "scopes": frozenset(resource.scopes)} | changes
    )


def sent(dialect: Dialect | str, resource: Resource = ORDERS, **changes: Any) -> HTTPRequest:
    return speaking(dialect, resource, **changes).message(ENDPOINT, 0.0)


def body(dialect: Dialect | str, resource: Resource = ORDERS, **changes: Any) -> bytes:
    return sent(dialect, resource, **changes).body


def refused(
    dialect: Dialect | str, error: str, description: str | None = None, **changes: Any
) -> OAuthError:
    """
    What is raised when a server with this dialect says no.
    """
    said = {"error": error} | ({"error_description": description} if description else {})
    with pytest.raises(OAuthError) as caught:
        issued_token(answer(said, 400), speaking(dialect, **changes), frozenset(), 0.0)
    return caught.value


def test_rfc8707() -> None:
    """
    R8707-6, P5: https://www.rfc-editor.org/rfc/rfc8707.html#section-2.2
    """
    resource = Resource("https://API.example.com:443/a%2Fb/{audience}", scopes="b a")

    assert (
        b"grant_type=client_credentials"
        b"&resource=https%3A%2F%2FAPI.example.com%3A443%2Fa%252Fb%2F%7Baudience%7D&scope=a+b"
    ) == body("rfc8707", resource)
    assert RFC8707 == AuthorizationServer(issuer="https://login.example.com").dialect


def test_entra_v2() -> None:
    """
    The App ID URI with `/.default` is the scope; `resource` is an error there.
    https://github.com/MicrosoftDocs/entra-docs/blob/main/docs/identity-platform/v2-oauth2-client-creds-grant-flow.md
    """
    assert (
        b"grant_type=client_credentials&scope=https%3A%2F%2Fgraph.microsoft.com%2F.default"
    ) == body("entra-v2", Resource("https://graph.microsoft.com"))
    assert (
        b"grant_type=refresh_token&refresh_token=rt-1"
        b"&scope=api%3A%2F%2Forders%2FOrders.Read+api%3A%2F%2Forders%2FOrders.Write"
    ) == body(
        "entra-v2",
        Resource("api://orders", scopes=["Orders.Write", "Orders.Read"]),
        grant=RefreshToken("rt-1"),
    )


def test_entra_v1() -> None:
    """
    `resource` is the App ID URI, byte for byte.
    https://github.com/MicrosoftDocs/entra-docs/blob/main/docs/identity/managed-identities-azure-resources/how-to-use-vm-token.md
    """
    assert (
        b"grant_type=client_credentials&resource=https%3A%2F%2Fdatabase.windows.net%2F"
    ) == body("entra-v1", Resource("https://database.windows.net/"))


def test_managed_identity() -> None:
    """
    A GET with a header, a query that is kept, and no credential.
    https://github.com/MicrosoftDocs/entra-docs/blob/main/docs/identity/managed-identities-azure-resources/how-to-use-vm-token.md
    """
    request = speaking(
        "managed-identity", Resource("https://vault.azure.net"), client_auth=PublicClient("app")
    )
    message = request.message("http://127.0.0.1:1/token?api-version=2018-02-01", 0.0)

    assert ("GET", b"") == (message.method, message.body)
    assert (
        "http://127.0.0.1:1/token?api-version=2018-02-01"
        "&resource=https%3A%2F%2Fvault.azure.net&client_id=app"
    ) == message.url
    assert {"Accept": "application/json", "Metadata": "true"} == message.headers
    assert (
        "http://127.0.0.1:1/token?resource=" in request.message("http://127.0.0.1:1/token", 0).url
    )


def test_the_instance_metadata_may_be_asked_in_plain_http() -> None:
    """
    It is the machine's own, and no credential goes there; for other dialects it is no exception.
    https://github.com/MicrosoftDocs/entra-docs/blob/main/docs/identity/managed-identities-azure-resources/how-to-use-vm-token.md
    """
    imds = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01"

    assert AuthorizationServer(token_endpoint=imds, dialect="managed-identity").token_endpoint
    with pytest.raises(ConfigurationError, match="not https"):
        AuthorizationServer(token_endpoint=imds, dialect="entra-v1")
    with pytest.raises(ConfigurationError, match="not https"):
        AuthorizationServer(token_endpoint="http://169.254.169.253/", dialect="managed-identity")


def test_a_managed_identity_over_the_wire(caller: Caller, server: LocalAuthorizationServer) -> None:
    """
    The form of Azure's answer, from an endpoint on loopback: strings for numbers, and a refresh
    token that is none.
    """
    server.respond("/msi", body=json.dumps(IMDS).encode())
    cache = TokenCache(
        AuthorizationServer(token_endpoint=f"{server.issuer}/msi", dialect="managed-identity"),
        PublicClient("app"),
    )

    token = caller.token(cache, ORDERS)

    assert ("t", ORDERS.identifier) == (token.reveal(), token.resource)
    [request] = server.requests
    assert "GET" == request.method
    assert f"/msi?resource={quote_plus(ORDERS.identifier)}&client_id=app" == request.target
    assert ("Metadata", "true") in request.headers


def test_no_credential_is_put_into_a_url() -> None:
    """
    R6749-3: neither a client's nor a user's.
    """
    public: dict[str, Any] = {"client_auth": PublicClient("app"), "grant": RefreshToken("rt-1")}
    for changes in ({}, public):
        with pytest.raises(ConfigurationError, match="into a URL"):
            speaking("managed-identity", **changes)


def test_auth0() -> None:
    """
    `audience` is the identifier of the API.
    https://github.com/auth0/docs-v2/blob/main/main/docs/api/authentication/client-credential-flow/get-token.mdx
    """
    assert (
        b"grant_type=client_credentials&audience=https%3A%2F%2Forders.example.com%2F&scope=read"
    ) == body("auth0", Resource("https://orders.example.com/", scopes="read"))
    assert b"grant_type=client_credentials&audience=orders-api" == body(
        "auth0", Resource("https://orders.example.com/", audience="orders-api")
    )


def test_okta() -> None:
    """
    One authorization server for each API, which is named by its issuer.
    https://github.com/okta/okta-developer-docs/blob/master/packages/@okta/vuepress-site/docs/concepts/auth-servers/index.md
    """
    assert b"grant_type=client_credentials&scope=orders.read" == body(
        "okta", Resource("https://orders.example.com/", scopes="orders.read")
    )


def test_cognito() -> None:
    """
    The scope names the resource server; `resource` cannot be asked for by client credentials.
    https://docs.aws.amazon.com/cognito/latest/developerguide/cognito-user-pools-define-resource-servers.html
    """
    assert b"grant_type=client_credentials&scope=orders%2Fread" == body(
        "cognito", Resource("urn:example:orders", scopes="orders/read")
    )


def test_keycloak() -> None:
    """
    Without the feature, a scope with an audience mapper decides.
    https://github.com/keycloak/keycloak/blob/main/docs/guides/securing-apps/mcp-authz-server.adoc
    """
    assert b"grant_type=client_credentials&scope=orders" == body(
        "keycloak", Resource("https://orders.example.com/", scopes="orders")
    )


def test_keycloak_resource_indicators() -> None:
    """
    With it, one `resource`; in a token exchange the `audience` instead.
    https://github.com/keycloak/keycloak/blob/main/services/src/main/java/org/keycloak/protocol/oidc/resourceindicators/ResourceIndicatorsPostProcessor.java
    https://github.com/keycloak/keycloak/blob/main/docs/guides/securing-apps/token-exchange.adoc
    """
    dialect = PRESETS["keycloak-resource-indicators"]

    assert (b"grant_type=client_credentials&resource=urn%3Aclient%3Aorders") == body(
        dialect, Resource("urn:client:orders", audience="orders")
    )
    assert dialect.names_target("refresh_token")
    assert [("audience", "orders")] == dialect.parameters(
        [Target("urn:client:orders", "orders")], TokenExchange.grant_type
    )


def test_hydra() -> None:
    """
    `audience`, and several of them with spaces.
    https://github.com/ory/docs/blob/master/docs/hydra/guides/audiences.mdx
    https://github.com/ory/hydra/blob/master/fosite/audience_strategy.go
    """
    assert (b"grant_type=client_credentials&audience=https%3A%2F%2Forders.example.com%2F") == body(
        "hydra"
    )
    assert [("audience", "a b")] == PRESETS["hydra"].parameters(
        [Target("urn:a", "a"), Target("urn:b", "b")], "client_credentials"
    )


def test_zitadel() -> None:
    """
    A reserved scope with the id of the project, which is what `aud` then names.
    https://zitadel.com/docs/apis/openidoauth/scopes
    """
    assert (
        b"grant_type=client_credentials"
        b"&scope=openid+urn%3Azitadel%3Aiam%3Aorg%3Aproject%3Aid%3A2173%3Aaud"
    ) == body("zitadel", Resource("urn:example:orders", audience="2173", scopes="openid"))


def test_duende() -> None:
    """
    `resource` with `scope`.
    https://github.com/DuendeSoftware/docs.duendesoftware.com/blob/main/astro/src/content/docs/identityserver/fundamentals/resources/isolation/index.md
    """
    assert b"grant_type=client_credentials&resource=urn%3Ainvoices&scope=read" == body(
        "duende", Resource("urn:invoices", scopes="read")
    )


def test_logto() -> None:
    """
    `resource` with `scope`, also when refreshing.
    https://github.com/logto-io/docs/blob/master/docs/authorization/global-api-resources.mdx
    """
    assert (b"grant_type=client_credentials&resource=https%3A%2F%2Forders.example.com%2F") == body(
        "logto"
    )
    assert (
        b"grant_type=refresh_token&refresh_token=rt-1&resource=https%3A%2F%2Forders.example.com%2F"
    ) == body("logto", grant=RefreshToken("rt-1"))


def test_authelia() -> None:
    """
    `resource`.
    https://github.com/authelia/authelia/blob/master/docs/content/integration/openid-connect/introduction.md
    """
    assert (b"grant_type=client_credentials&resource=https%3A%2F%2Forders.example.com%2F") == body(
        "authelia"
    )


def test_node_oidc_provider() -> None:
    """
    Exactly one `resource` for client credentials.
    https://github.com/panva/node-oidc-provider/blob/main/docs/README.md
    """
    assert (b"grant_type=client_credentials&resource=https%3A%2F%2Forders.example.com%2F") == body(
        "node-oidc-provider"
    )


def test_pingone() -> None:
    """
    The scopes of one resource.
    https://apidocs.pingidentity.com/pingone/main/v1/api/src/authentication-concepts/access-services-through-scopes-and-roles/custom-scopes/
    """
    assert b"grant_type=client_credentials&scope=orders%3Aread" == body(
        "pingone", Resource("urn:example:orders", scopes="orders:read")
    )


def test_spring() -> None:
    """
    Nothing: resource indicators were declined.
    https://github.com/spring-attic/spring-authorization-server/issues/279
    """
    assert b"grant_type=client_credentials" == body("spring")


def test_stytch() -> None:
    """
    Scopes only.
    https://stytch.com/docs/b2b/api/get-m2m-token
    """
    assert b"grant_type=client_credentials&scope=read%3Aorders" == body(
        "stytch", Resource("urn:example:orders", scopes="read:orders")
    )


def test_salesforce() -> None:
    """
    Nothing, and no `expires_in` in the answer: no session is shorter than 15 minutes.
    https://developer.salesforce.com/docs/atlas.en-us.210.0.api_meta.meta/api_meta/meta_profilesessionsetting.htm
    """
    assert b"grant_type=client_credentials" == body("salesforce")
    issued = judged({"access_token": "t", "token_type": "Bearer"}, speaking("salesforce"))
    assert (timedelta(minutes=15), ()) == (issued.lifetime, issued.remarks)


def test_authentik() -> None:
    """
    Nothing, as there is one provider for each API; in a token exchange the client id of that one,
    and no `resource`, which it refuses.
    https://github.com/goauthentik/authentik/blob/main/website/docs/add-secure-apps/providers/oauth2/token_exchange.md
    """
    dialect = PRESETS["authentik"]

    assert b"grant_type=client_credentials" == body(dialect)
    assert [("audience", "orders")] == dialect.parameters(
        [Target("urn:client:orders", "orders")], TokenExchange.grant_type
    )


def test_every_preset_has_its_bytes_here() -> None:
    """
    Each preset has a test of its name, with the documentation it is made from.
    """
    tests = {
        name.replace("-", "_"): globals()[f"test_{name.replace('-', '_')}"] for name in PRESETS
    }

    assert [] == [name for name, test in tests.items() if "https://" not in str(test.__doc__)]


def test_the_reference_lists_the_presets_as_they_are() -> None:
    """
    The page of the dialects says of each preset how the target goes out, and whether `aud` counts.
    """
    page = (DOCS / "reference" / "dialects.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \| (.*?) \|", page, re.MULTILINE)

    said = {name: (set(re.findall(r"`(\w+=[^`]+)`", how)), aud) for name, how, aud in rows}

    assert list(PRESETS) == [name for name, _, _ in rows]
    assert said == {
        name: (
            {f"{parameter}={text}" for parameter, text in dict(dialect.target).items()},
            "checked" if dialect.says_audience else "not checked",
        )
        for name, dialect in PRESETS.items()
    }


def test_the_page_of_entra_id_lists_its_errors() -> None:
    """
    What is said there of each number is what the dialect makes of it.
    """
    page = (DOCS / "howto" / "servers" / "entra-id.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+_\w+)` \| (.*) \|$", page, re.MULTILINE)

    said = {code: meaning for meaning, text in rows for code in re.findall(r"AADSTS\d+", text)}

    assert said == {k: v for k, v in dict(PRESETS["entra-v2"].errors).items() if k[:6] == "AADSTS"}


def test_a_dialect_is_chosen_by_value_or_by_name() -> None:
    """
    An unknown name is an error that lists the known ones.
    """
    assert PRESETS["entra-v2"] is dialect_of("entra-v2")
    assert RFC8707 is dialect_of(RFC8707)
    for name in ("entra", "", None, 5):
        with pytest.raises(ConfigurationError, match=r"'entra-v2', 'entra-v1'.*Dialect"):
            AuthorizationServer(issuer="https://login.example.com", dialect=name)  # type: ignore[arg-type]


def test_a_server_is_still_a_value() -> None:
    """
    A server with a dialect is hashed, compared, copied and pickled as before.
    """
    server = AuthorizationServer(issuer="https://login.example.com", dialect="auth0")

    assert server == replace(server) == pickle.loads(pickle.dumps(server))
    assert hash(server) == hash(replace(server))
    assert server != replace(server, dialect="hydra")


def test_one_of_your_own_takes_ten_lines() -> None:
    """
    R8693-3: all that a dialect says, for a server that nobody has heard of.
    """
    mine = Dialect(
        name="mine",
        target={"resource": "{resource}", "api": "{audience}/v2"},
        headers={"X-Tenant": "blue"},
        errors={"E-17": "invalid_target"},
        default_lifetime=timedelta(minutes=1),
    )
    message = sent(mine, Resource("urn:a", audience="b{resource}"))

    assert [
        ("grant_type", "client_credentials"),
        ("resource", "urn:a"),
        ("api", "b{resource}/v2"),
    ] == parse_qsl(message.body.decode())
    assert "blue" == message.headers["X-Tenant"]
    assert "invalid_target" == refused(mine, "E-17").error


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": {"resource": "{identifier}"}},
        {"target": {"audience": "{scope}"}},
        {"multi": "comma"},
        {"form": "json"},
        {"confirmation": "sometimes"},
        {"basic_credentials": "cooked"},
        {"assertion_audience": "both"},
        {"says_audience": "yes"},
        {"expires_on": 1.5},
    ],
)
def test_a_dialect_that_cannot_be_is_noticed_at_once(wrong: dict[str, Any]) -> None:
    """
    The error names the dialect, and what is wrong with it.
    """
    with pytest.raises(ConfigurationError, match="'mine'"):
        Dialect(name="mine", **wrong)


def test_several_targets_are_repeated_or_joined_or_refused() -> None:
    """
    R8707-4, R8707-9, R8707-10: RFC 8707 repeats the parameter; one target is the rule.
    """
    targets = [Target("urn:a", "a"), Target("urn:b", "b")]

    assert [("resource", "urn:a"), ("resource", "urn:b")] == RFC8707.parameters(targets, "x")
    with pytest.raises(ConfigurationError, match="one target"):
        PRESETS["logto"].parameters(targets, "x")
    assert [] == PRESETS["okta"].parameters(targets, "x")


@given(
    preset=st.sampled_from([name for name in PRESETS if name != "managed-identity"]),
    text=st.text(st.characters(min_codepoint=33, max_codepoint=126)),
    scope=st.sampled_from("ab"),
)
def test_a_target_is_sent_as_it_is(preset: str, text: str, scope: str) -> None:
    """
    P5: whatever an identifier contains, a server reads it back; also what looks like a placeholder.
    """
    identifier = "urn:x:" + text.replace("#", "").replace("?", "") + "{audience}"
    form = dict(parse_qsl(body(preset, Resource(identifier, scopes=scope)).decode()))

    named = PRESETS[preset].target
    expected = {
        name: shape.replace("{resource}", identifier)
        if "{resource}" in shape
        else shape.replace("{audience}", identifier)
        for name, shape in dict(named).items()
        if name != "scope"
    }
    assert expected == {k: v for k, v in form.items() if k not in ("grant_type", "scope")}


def test_extra_cannot_say_what_the_dialect_says() -> None:
    """
    R6749-5: no parameter is sent twice.
    """
    resource = Resource("urn:a", extra={"audience": "b"})

    with pytest.raises(ConfigurationError, match="'auth0' sets 'audience' itself"):
        speaking("auth0", resource)
    assert b"resource=urn%3Aa&audience=b" in body("rfc8707", resource)


def test_the_key_holds_what_the_dialect_adds() -> None:
    """
    P2: another dialect is another key, and the resource is in the key of each.
    """
    keys = {speaking(name).key for name in PRESETS if name != "managed-identity"}
    others = {speaking(name, BILLING).key for name in PRESETS if name != "managed-identity"}

    assert not keys & others
    assert 1 < len(keys) == len(others)
    assert speaking("auth0").identity != speaking("hydra", BILLING).identity


def test_identities_do_not_depend_on_the_scopes_asked_for() -> None:
    """
    Two tokens of one resource with different scopes may go to the same place, in every dialect.
    """
    for name in ("rfc8707", "entra-v2", "zitadel", "cognito"):
        one, other = speaking(name), speaking(name, scopes=frozenset({"a"}))
        assert one.identity == other.identity
        assert one.key != other.key


ENTRA_500011 = "AADSTS500011: The resource principal named api://x was not found.\r\nTrace ID: 5"


@pytest.mark.parametrize(
    ("dialect", "error", "description", "meaning"),
    [
        ("entra-v2", "invalid_resource", ENTRA_500011, "invalid_target"),
        ("entra-v2", "invalid_scope", "AADSTS70011: The scope x is not valid.", "invalid_target"),
        ("entra-v2", "invalid_request", "AADSTS28000: more than one resource", "invalid_target"),
        ("entra-v2", "invalid_request", "AADSTS901002: 'resource' ...", "invalid_target"),
        ("entra-v2", "invalid_request", "AADSTS9010010: does not match", "invalid_target"),
        ("entra-v2", "invalid_client", "AADSTS7000215: Invalid secret", "invalid_client"),
        ("entra-v2", "invalid_grant", "AADSTS700082: expired", "invalid_grant"),
        ("entra-v2", "invalid_grant", "AADSTS65001: not consented", "consent_required"),
        ("entra-v1", "invalid_grant", "AADSTS50076: second factor", "interaction_required"),
        (
            "hydra",
            "invalid_request",
            "The request is malformed. Requested audience 'x' has not been whitelisted.",
            "invalid_target",
        ),
        ("hydra", "invalid_request", "The request is malformed.", "invalid_request"),
        ("auth0", "access_denied", "Service not found: urn:x", "invalid_target"),
        (
            "pingone",
            "invalid_scope",
            "May not request scopes for multiple resources",
            "invalid_target",
        ),
        ("rfc8707", "invalid_target", "unknown", "invalid_target"),
        ("rfc8707", "invalid_request", None, "invalid_request"),
    ],
)
def test_one_meaning_for_many_words(
    dialect: str, error: str, description: str | None, meaning: str
) -> None:
    """
    R8707-11: callers branch on `error`; what the server said is still there to read.
    https://learn.microsoft.com/entra/identity-platform/reference-error-codes
    https://github.com/ory/hydra/blob/master/fosite/audience_strategy.go
    """
    request: dict[str, Any] = {"client_auth": ClientSecretBasic("id", "s")}
    raised = refused(dialect, error, description, **request)

    assert meaning == raised.error
    assert repr(meaning) in str(raised)
    for said in (error, *(description or "").splitlines()[:1]):
        assert said in str(raised)
    assert meaning == error or str(raised.error_description).startswith(error)


def test_a_missing_consent_is_not_the_end_of_a_refresh_token() -> None:
    """
    R8707-8: Entra ID says `invalid_grant` of one API, and the refresh token is good for others.
    """
    grant = RefreshToken("rt-1")
    request = speaking("entra-v2", grant=grant)
    secrets = request.message(ENDPOINT, 0.0).secrets
    for description, ended in (("AADSTS65001: consent", False), ("AADSTS700082: expired", True)):
        said = {"error": "invalid_grant", "error_description": description}
        with pytest.raises(OAuthError) as caught:
            issued_token(answer(said, 400), request, frozenset(), 0.0, secrets)
        grant.fail(caught.value, secrets)
        if not ended:
            grant.begin("urn:x:b")
    with pytest.raises(OAuthError, match="has ended"):
        grant.begin("urn:x:b")


IMDS = {
    "access_token": "t",
    "refresh_token": "",
    "expires_in": "3599",
    "expires_on": "1003600",
    "not_before": "1000000",
    "resource": "https://orders.example.com/",
    "token_type": "Bearer",
}


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 3599),
        ({"expires_in": "57"}, 57),
        ({"expires_in": None}, 3600),
        ({"expires_in": None, "expires_on": 1_000_060}, 60),
        ({"expires_in": None, "expires_on": "1000060.5"}, 60.5),
        ({"expires_in": None, "expires_on": 10**30}, 86400),
        ({"expires_in": 100, "ext_expires_in": 9000}, 100),
    ],
)
def test_lifetimes_of_azure(changes: dict[str, Any], seconds: float) -> None:
    """
    T10: strings, and `expires_on` where `expires_in` is missing; never `ext_expires_in`.
    """
    for name in ("entra-v1", "managed-identity"):
        client: Any = {"client_auth": PublicClient("app")} if name == "managed-identity" else {}
        issued = judged(IMDS | changes, speaking(name, **client))
        assert (timedelta(seconds=seconds), ()) == (issued.lifetime, issued.remarks)


@pytest.mark.parametrize("expires_on", [999_999, "1000000", "soon", True, [], -5, "1e9"])
def test_a_time_that_is_over_or_none_is_refused(expires_on: Any) -> None:
    """
    T12: no token that lives for no time.
    """
    with pytest.raises(TokenRequestError, match="expires_on"):
        judged(IMDS | {"expires_in": None, "expires_on": expires_on}, speaking("entra-v1"))


def test_expires_on_says_nothing_elsewhere() -> None:
    """
    R6749-14: a member that the dialect does not know is ignored.
    """
    issued = judged(IMDS | {"expires_in": None}, speaking("rfc8707"))

    assert timedelta(seconds=300) == issued.lifetime


@pytest.mark.parametrize("name", ["entra-v1", "managed-identity"])
def test_a_guid_for_a_resource_says_nothing(name: str) -> None:
    """
    RRESP-4: Microsoft may answer with a GUID; another URI is still another resource.
    https://github.com/MicrosoftDocs/entra-docs/blob/main/docs/identity/managed-identities-azure-resources/how-to-use-vm-token.md
    """
    client: Any = {"client_auth": PublicClient("app")} if name == "managed-identity" else {}
    request = speaking(name, **client)

    judged(IMDS | {"resource": "00000003-0000-0000-c000-000000000000"}, request)
    others: list[Any] = ["https://graph.microsoft.com", [], 5]
    for other in others:
        with pytest.raises(AudienceMismatchError):
            judged(IMDS | {"resource": other}, request)
    with pytest.raises(AudienceMismatchError):
        judged(good(resource="00000003-0000-0000-c000-000000000000"), speaking("rfc8707"))


def test_a_server_can_be_required_to_confirm() -> None:
    """
    RRESP-3: then a response without `resource` is not used.
    """
    strict = replace(RFC8707, confirmation="require")

    judged(good(resource=ORDERS.identifier), speaking(strict))
    with pytest.raises(AudienceMismatchError, match="does not say which `resource`"):
        judged(good(), speaking(strict))
    judged(good(), speaking(strict, Resource(ORDERS.identifier, verify_audience="off")))


@pytest.mark.parametrize("name", ["cognito", "entra-v2", "entra-v1", "spring", "stytch"])
def test_an_audience_that_means_nothing_is_not_checked(name: str) -> None:
    """
    R8707-12: but one that names another configured resource is, and so is one that was told.
    """
    for claims in ({"sub": "x"}, {"aud": "the-client-id"}):
        judged(good(access_token=signed(**claims)), speaking(name))
    with pytest.raises(AudienceMismatchError, match="another configured"):
        judged(good(access_token=signed(aud="b")), speaking(name), frozenset({"b"}))
    for resource in (
        Resource(ORDERS.identifier, audience="7f3c"),
        Resource(ORDERS.identifier, verify_audience="require"),
    ):
        with pytest.raises(AudienceMismatchError, match="its `aud` is 'x'"):
            judged(good(access_token=signed(aud="x")), speaking(name, resource))


def test_granted_scopes_may_be_spelled_either_way() -> None:
    """
    X8: Entra ID answers with the short name or the long one; a scope that only names the target
    is not a right that somebody forgot.
    """
    entra = speaking("entra-v2", Resource("api://o", scopes=["Read", "Write"]))
    zitadel = speaking("zitadel", Resource("urn:o", audience="7", scopes="openid email"))
    aud = "urn:zitadel:iam:org:project:id:7:aud"

    assert () == judged(good(scope="Read api://o/Write"), entra).remarks
    assert [("scope_narrowed", "asked for and not granted: Write")] == list(
        judged(good(scope="Read"), entra).remarks
    )
    assert () == judged(good(scope="api://o/Anything"), speaking("entra-v2")).remarks
    assert [("scope_narrowed", "asked for and not granted: email")] == list(
        judged(good(scope=f"openid {aud}"), zitadel).remarks
    )
    assert [("scope_widened", "granted and not asked for: admin")] == list(
        judged(good(scope=f"openid email {aud} admin"), zitadel).remarks
    )


@pytest.mark.parametrize("name", PRESETS)
def test_two_resources_are_told_apart_before_anything_is_asked(name: str) -> None:
    """
    R9700-1: where a dialect cannot name the target and the scopes are the same, that is an error
    of the configuration; with opaque tokens nobody would notice it later.
    """
    client: Any = {"client_auth": PublicClient("app")} if name == "managed-identity" else {}
    pair = [speaking(name, ORDERS, **client), speaking(name, BILLING, **client)]

    if PRESETS[name].target:
        check_told_apart(pair)
    else:
        with pytest.raises(ConfigurationError, match=r"orders.*billing.*same words"):
            check_told_apart(pair)
        check_told_apart([pair[0], speaking(name, BILLING, scopes=frozenset({"b"}))])
    check_told_apart([pair[0], pair[0], replace_server(pair[1])])


def replace_server(request: TokenRequest) -> TokenRequest:
    """
    The same request to another server.
    """
    server = replace(request.server, issuer="https://other.example.com")
    return TokenRequest(
        server, request.client_auth, request.grant, request.resource, request.scopes
    )


def test_two_resources_with_one_audience_are_not_told_apart() -> None:
    """
    R9700-1: what a server hears is what counts.
    """
    pair = [Resource("urn:a", audience="x"), Resource("urn:b", audience="x")]

    check_told_apart([speaking("rfc8707", r) for r in pair])
    with pytest.raises(ConfigurationError, match="choose another dialect"):
        check_told_apart([speaking("auth0", r) for r in pair])
