"""
The settings file as a model: its tables, their keys, and what may stand there.

It says what a value looks like, and the constructors what it may be. The JSON Schema that editors
complete the file by is made from it, and so is the reference page.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

try:
    from pydantic import (
        BaseModel,
        ConfigDict,
        Discriminator,
        Field,
        Tag,
        TypeAdapter,
        ValidationError,
    )
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "Settings files are read with pydantic: pip install 'resource-tokens[settings]'"
    ) from None

__all__ = [
    "Audit",
    "ClientAssertionFileTable",
    "ClientSecretJwtTable",
    "ClientSecretTable",
    "ClientTable",
    "DialectTable",
    "EnvironmentVariable",
    "FileStoreTable",
    "JwtBearerTable",
    "KeyringEntry",
    "MemoryStoreTable",
    "PrivateKeyJwtTable",
    "ProofKeyTable",
    "PublicClientTable",
    "RedisStoreTable",
    "Reference",
    "RefreshTokenTable",
    "ResourceTable",
    "SecretFile",
    "ServerTable",
    "SettingsFile",
    "Table",
    "TlsClientTable",
    "TokenExchangeTable",
    "errors_in",
    "given",
    "json_schema",
    "parsed",
]

Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Table(BaseModel):
    """
    A table of the file.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class EnvironmentVariable(Table):
    """
    A secret in an environment variable.
    """

    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """The name of the variable."""


class SecretFile(Table):
    """
    A secret in a file.
    """

    file: Text
    """The path of the file, relative to the settings file."""


class KeyringEntry(Table):
    """
    A secret in the keyring of the operating system.
    """

    keyring: Text
    """The name of the service in the keyring."""
    username: Text
    """The name of the user in the keyring."""


def _kind_of_reference(value: object) -> str | None:
    if not isinstance(value, dict):
        return None
    return next((f"<{kind}>" for kind in ("env", "file", "keyring") if kind in value), None)


# A tag is in angle brackets, by which it is told from a key in the path of an error.
Reference = Annotated[
    Annotated[EnvironmentVariable, Tag("<env>")]
    | Annotated[SecretFile, Tag("<file>")]
    | Annotated[KeyringEntry, Tag("<keyring>")],
    Discriminator(
        _kind_of_reference,
        custom_error_type="reference",
        custom_error_message="Input should be a reference to a secret",
    ),
]


URLOrReference = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[Reference, Tag("<reference>")],
    Discriminator(lambda value: "<text>" if isinstance(value, str) else "<reference>"),
]


def _by_type(*kinds: str) -> Discriminator:
    def kind(value: object) -> str | None:
        named = value.get("type") if isinstance(value, dict) else None
        return f"<{named}>" if named in kinds else None

    return Discriminator(
        kind,
        custom_error_type="type",
        custom_error_message=(
            f"Input should be a table whose `type` is one of {', '.join(map(repr, kinds))}"
        ),
    )


class TokenExchangeTable(Table):
    """
    On behalf of somebody by token exchange (RFC 8693).
    """

    type: Literal["token_exchange"]
    """The way of asking."""
    subject_token_type: Text | None = None
    """What the subject token is."""
    actor_token: Reference | None = None
    """A token of the service itself. A file is read for each token request."""
    actor_token_type: Text | None = None
    """What the actor token is."""
    requested_token_type: Text | None = None
    """What to ask for; an access token by default."""
    issuers: list[Text] | None = None
    """Issuers whose subject tokens are sent although the server has not issued them."""


class JwtBearerTable(Table):
    """
    On behalf of somebody by a JWT as a grant (RFC 7523).
    """

    type: Literal["jwt_bearer"]
    """The way of asking."""
    requested_token_use: Literal["on_behalf_of"] | None = None
    """For Entra ID's on-behalf-of flow."""
    first: TokenExchangeTable | None = None
    """How the file's own server is asked for the JWT, for an API behind another one."""
    issuers: list[Text] | None = None
    """Issuers whose subject tokens are sent although the server has not issued them."""


ExchangeTable = Annotated[
    Annotated[TokenExchangeTable, Tag("<token_exchange>")]
    | Annotated[JwtBearerTable, Tag("<jwt_bearer>")],
    _by_type("token_exchange", "jwt_bearer"),
]


class ProofKeyTable(Table):
    """
    The key that tokens with `sender = "dpop"` are bound to.
    """

    key: Reference | None = None
    """A private key for several processes, as PEM or JWK. It is read once."""
    password: Reference | None = None
    """The password of an encrypted PEM."""
    algorithm: Literal["ES256", "EdDSA"] | None = None
    """What a key that is made by itself is for."""


class DialectTable(Table):
    """
    A dialect of your own: how a server departs from RFC 8707.
    """

    target: dict[str, str] | None = None
    """The parameters that name the target, with `{resource}`, `{audience}` and `{scope}`."""
    default_scope: Text | None = None
    """What stands for `{scope}` where no scope is asked for."""
    multi: Literal["single", "repeat", "space"] | None = None
    """How several targets are written."""
    target_grants: list[Text] | None = None
    """The grants with which the server takes the target; all by default."""
    form: Literal["post", "get"] | None = None
    """Whether parameters go in a form or, for clients without a credential, in the URL."""
    exchange: ExchangeTable | None = None
    """How the server is asked for a token on behalf of somebody."""
    exchange_target: dict[str, str] | None = None
    """The parameters that name the target in a token exchange, where they are others."""
    headers: dict[str, str] | None = None
    """Headers to add to a token request. They are no place for secrets."""
    local_hosts: list[Text] | None = None
    """Hosts that may be asked over plain http."""
    errors: dict[str, str] | None = None
    """What the server's own words mean: the `error` to report for each."""
    says_audience: bool | None = None
    """Whether the `aud` of a JWT names what was asked for."""
    confirmation: Literal["if_present", "if_uri", "require"] | None = None
    """What a `resource` member in the response is worth."""
    default_lifetime: Seconds | None = None
    """How long a token lives when the response does not say, in seconds."""
    expires_on: bool | None = None
    """Whether the response may say `expires_on` instead of `expires_in`."""
    basic_credentials: Literal["form", "raw"] | None = None
    """Whether client id and secret are urlencoded before they go in a Basic header."""
    assertion_audience: Literal["issuer", "token_endpoint"] | None = None
    """The `aud` of a client assertion."""


class ServerTable(Table):
    """
    An authorization server, and how to reach it.
    """

    issuer: Text | None = None
    """The issuer identifier, exactly as the server writes it."""
    token_endpoint: Text | None = None
    """The URL to ask for tokens, when it should not be discovered from the issuer."""
    revocation_endpoint: Text | None = None
    """The URL to revoke tokens at, when it should not be discovered."""
    dialect: Text | None = None
    """The name of a preset, or of a table in `[dialects]`."""
    verify: bool | None = None
    """Whether the server's certificate is checked. Leave it on."""
    ca_file: Text | None = None
    """A bundle of certificate authorities to check it by, relative to the settings file."""
    proxy: URLOrReference | None = None
    """A proxy for token requests: its URL, or a reference to it if it has a password in it."""
    timeout: Seconds | None = None
    """The time for one request as a whole, in seconds."""
    trust_env: bool | None = None
    """Whether environment variables may name proxies and certificates."""
    headers: dict[str, Reference] | None = None
    """More headers for each request to this server. Their values can be keys: give references."""
    uds: Text | None = None
    """The path of a Unix socket to connect to, relative to the settings file."""
    canary: Text | None = None
    """For audits: a resource of this server whose tokens are good at no API."""


class ClientTable(Table):
    """
    A client: whom it is known to, and by what name.
    """

    server: Text | None = None
    """The server that knows the client, by its name in `[servers]`; needed if there are several."""
    client_id: Text
    """The client identifier."""


class ClientSecretTable(ClientTable):
    """
    A client that sends its secret, in a Basic header or in the body.
    """

    method: Literal["client_secret_basic", "client_secret_post"]
    """How the client authenticates."""
    client_secret: Reference
    """The client secret. A file is read for each token request."""


class ClientSecretJwtTable(ClientTable):
    """
    A client that signs with its secret.
    """

    method: Literal["client_secret_jwt"]
    """How the client authenticates."""
    client_secret: Reference
    """The client secret, of 32 bytes or more. A file is read for each token request."""
    algorithm: Literal["HS256", "HS384", "HS512"] | None = None
    """The `alg` of the signature."""
    audience: Literal["issuer", "token_endpoint"] | None = None
    """Whom the assertion names; by default what the dialect says."""
    typ: Literal["client-authentication+jwt", "JWT"] | None = None
    """The `typ` in its header."""
    lifetime: Seconds | None = None
    """How long an assertion is good, in seconds."""
    allow_shared_key: bool | None = None
    """Whether the secret may sign for several servers although one wants its endpoint named."""


class PrivateKeyJwtTable(ClientTable):
    """
    A client that signs with its private key.
    """

    method: Literal["private_key_jwt"]
    """How the client authenticates."""
    key: Reference
    """The private key, as PEM or JWK. A file is read for each token request."""
    algorithm: Literal["RS256", "PS256", "ES256", "EdDSA"] | None = None
    """The `alg` of the signature; by default what the key says."""
    key_id: Text | None = None
    """The `kid` in the header; by default that of the JWK."""
    certificate_file: Text | None = None
    """The certificate that is registered for the key, as PEM, relative to the settings file."""
    password: Reference | None = None
    """The password of an encrypted PEM."""
    audience: Literal["issuer", "token_endpoint"] | None = None
    """Whom the assertion names; by default what the dialect says."""
    typ: Literal["client-authentication+jwt", "JWT"] | None = None
    """The `typ` in its header."""
    lifetime: Seconds | None = None
    """How long an assertion is good, in seconds."""
    allow_shared_key: bool | None = None
    """Whether the key may sign for several servers although one wants its endpoint named."""


class ClientAssertionFileTable(ClientTable):
    """
    A client that shows a token which its platform has signed: Kubernetes, SPIFFE, a CI system.
    """

    method: Literal["client_assertion_file"]
    """How the client authenticates."""
    assertion: Reference
    """The token. A file or variable is read for each token request."""
    audience: Text | None = None
    """The `aud` of the token, where that is neither the issuer nor the token endpoint."""
    assertion_type: Literal["jwt-bearer", "jwt-spiffe"] | None = None
    """The `client_assertion_type`."""


class TlsClientTable(ClientTable):
    """
    A client that shows its certificate on the connection.
    """

    method: Literal["tls_client_auth", "self_signed_tls_client_auth"]
    """How the client authenticates: by a certificate of an authority, or by its own."""
    certificate_file: Text
    """A PEM file with the certificate and its chain, relative to the settings file."""
    key_file: Text | None = None
    """A PEM file with the private key; by default it is in the same file."""


class PublicClientTable(ClientTable):
    """
    A client without a credential.
    """

    method: Literal["none"]
    """How the client authenticates: not at all."""


_CLIENTS: dict[str, type[ClientTable]] = {
    "client_secret_basic": ClientSecretTable,
    "client_secret_post": ClientSecretTable,
    "client_secret_jwt": ClientSecretJwtTable,
    "private_key_jwt": PrivateKeyJwtTable,
    "client_assertion_file": ClientAssertionFileTable,
    "tls_client_auth": TlsClientTable,
    "self_signed_tls_client_auth": TlsClientTable,
    "none": PublicClientTable,
}


def _kind_of_client(value: object) -> str | None:
    method = value.get("method") if isinstance(value, dict) else None
    table = _CLIENTS.get(method) if isinstance(method, str) else None
    return None if table is None else f"<{table.__name__}>"


Client = Annotated[
    Annotated[ClientSecretTable, Tag("<ClientSecretTable>")]
    | Annotated[ClientSecretJwtTable, Tag("<ClientSecretJwtTable>")]
    | Annotated[PrivateKeyJwtTable, Tag("<PrivateKeyJwtTable>")]
    | Annotated[ClientAssertionFileTable, Tag("<ClientAssertionFileTable>")]
    | Annotated[TlsClientTable, Tag("<TlsClientTable>")]
    | Annotated[PublicClientTable, Tag("<PublicClientTable>")],
    Discriminator(
        _kind_of_client,
        custom_error_type="method",
        custom_error_message=(
            "Input should be a table whose `method` is one of "
            + ", ".join(f"'{method}'" for method in _CLIENTS)
        ),
    ),
]


class Audit(Table):
    """
    For `resource-tokens audit`: the request that asks an API whether it lets somebody in.
    """

    url: Text
    """Where to ask, relative to the destination. What is there must need a token."""
    method: Literal["GET", "HEAD"] = "GET"
    """How to ask. An audit changes nothing."""
    wrong_scopes: list[Text] = []
    """Scopes with which the server issues a token for this API that must not do here."""
    canary: Text | None = None
    """Another canary than the server's, such as one whose name only begins like this API's."""


class ResourceTable(Table):
    """
    A protected resource, under its destination.
    """

    identifier: Text | None = None
    """The `resource` to ask for, byte for byte; by default the destination itself."""
    client: Text | None = None
    """The client to ask as, by its name in `[clients]`; by default that of the file."""
    scopes: list[Text] | None = None
    """The scopes to ask for."""
    max_scopes: list[Text] | None = None
    """The most scopes that a server can talk this client into."""
    audience: Text | None = None
    """The `aud` that the server writes, where it differs from the identifier."""
    subject: Literal["optional", "required", "none"] | None = None
    """On whose behalf it is called; `"required"` refuses a request without a subject."""
    exchange: ExchangeTable | None = None
    """How its tokens are asked for on behalf of somebody, where that differs."""
    sender: Literal["bearer", "dpop", "mtls"] | None = None
    """Who can use its tokens: whoever has one, or has the key or certificate as well."""
    extra: dict[str, str] | None = None
    """More parameters for the token request. They are no place for secrets."""
    allow_http: bool | None = None
    """Let the token travel over plain http."""
    verify_audience: Literal["auto", "require", "off"] | None = None
    """How much is asked of a token's `aud`."""
    redirects: Literal["withhold", "reauthorize"] | None = None
    """What happens when another resource redirects here."""
    allow_http_proxy: bool | None = None
    """Let a proxy that is spoken to in plain http see the token."""
    connect_to: Text | None = None
    """The origin of a sidecar that requests are sent to instead."""
    host_header: Text | None = None
    """The `Host` by which the sidecar knows the resource."""
    audit: Audit | None = None
    """The request to make in an audit."""


ResourceEntry = Annotated[
    Annotated[Text, Tag("<identifier>")] | Annotated[ResourceTable, Tag("<table>")],
    Discriminator(lambda value: "<identifier>" if isinstance(value, str) else "<table>"),
]


class RefreshTokenTable(Table):
    """
    The refresh token grant.
    """

    type: Literal["refresh_token"]
    """The grant."""
    refresh_token: Reference
    """The refresh token. Where the server replaces it, the new one is written in its place."""
    scopes: list[Text] | None = None
    """The scopes that were granted with it."""
    reusable: bool | None = None
    """Whether the server lets a refresh token be presented twice."""
    shared: bool | None = None
    """Whether several processes have it, and share its successors in `[store]`."""


class ClientCredentialsTable(Table):
    """
    The client credentials grant, which is the default.
    """

    type: Literal["client_credentials"]
    """The grant."""


class MemoryStoreTable(Table):
    """
    Tokens in the memory of the process, which is the default.
    """

    type: Literal["memory"]
    """Where tokens are kept."""
    size: Annotated[int, Field(gt=0)] | None = None
    """How many."""
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    """How much memory they may take, in bytes."""


class RedisStoreTable(Table):
    """
    Tokens shared by many processes, in Redis or Valkey.
    """

    type: Literal["redis"]
    """Where tokens are kept."""
    url: URLOrReference
    """Where it is: its URL, or a reference to it if it has a password in it."""
    keys: Annotated[list[Reference], Field(min_length=1)]
    """What entries are sealed with; the first one is used, the others are being replaced."""
    prefix: Text | None = None
    """What the names of all entries begin with."""


class FileStoreTable(Table):
    """
    Tokens shared by the processes of one user on one machine, in a file.
    """

    type: Literal["file"]
    """Where tokens are kept."""
    keys: Annotated[list[Reference], Field(min_length=1)]
    """What entries are sealed with; the first one is used, the others are being replaced."""
    folder: Text | None = None
    """Where the file is, relative to the settings file; by default where programs keep state."""
    maxsize: Annotated[int, Field(gt=0)] | None = None
    """How many tokens to keep."""


class SettingsFile(Table):
    """
    Settings of resource_tokens.
    """

    client: Text | None = None
    """The client to ask as, by its name in `[clients]`; needed if there are several."""
    unmapped: Literal["raise", "anonymous"] | None = None
    """What happens to a request whose destination is not mapped."""
    discover: list[Text] | None = None
    """The issuers that a resource may name in its metadata (RFC 9728)."""
    grant: (
        Annotated[
            Annotated[ClientCredentialsTable, Tag("<client_credentials>")]
            | Annotated[RefreshTokenTable, Tag("<refresh_token>")],
            _by_type("client_credentials", "refresh_token"),
        ]
        | None
    ) = None
    """How the client itself asks for tokens."""
    exchange: ExchangeTable | None = None
    """How they are asked for on behalf of somebody else; by default the dialect says."""
    proof_key: ProofKeyTable | None = None
    """The key of resources with `sender = "dpop"`; by default one is made, and not kept."""
    store: (
        Annotated[
            Annotated[MemoryStoreTable, Tag("<memory>")]
            | Annotated[RedisStoreTable, Tag("<redis>")]
            | Annotated[FileStoreTable, Tag("<file>")],
            _by_type("memory", "redis", "file"),
        ]
        | None
    ) = None
    """Where tokens are kept."""
    dialects: dict[str, DialectTable] = {}
    """Dialects of your own, by name."""
    servers: Annotated[dict[str, ServerTable], Field(min_length=1)]
    """The authorization servers, by a name of your own."""
    clients: Annotated[dict[str, Client], Field(min_length=1)]
    """The clients, by a name of your own, each known to one server."""
    resources: Annotated[dict[str, ResourceEntry], Field(min_length=1)]
    """The resources by their destination, a URL prefix. A string is the identifier."""


def errors_in(contents: object) -> list[Any]:
    """
    What is wrong with the form of a file, as pydantic tells it.
    """
    try:
        SettingsFile.model_validate(contents)
    except ValidationError as error:
        return list(error.errors(include_url=False))
    return []


def parsed(name: str, value: object) -> Any:
    """
    The value of a key of the file, if that has been seen to be right but for unknown keys.
    """
    form: Any = SettingsFile.model_fields[name].annotation
    return TypeAdapter(form).validate_python(value, extra="ignore")


def given(table: Table, *apart: str) -> dict[str, Any]:
    """
    What a table says, by the names of its keys.

    Args:
        table: The table.
        apart: The keys to leave out.
    """
    return {name: getattr(table, name) for name in table.model_fields_set - set(apart)}


def json_schema() -> dict[str, Any]:
    """
    The JSON Schema of the settings file. The package has it as `settings/schema.json`.
    """
    schema = SettingsFile.model_json_schema(schema_generator=_Schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class _Schema(GenerateJsonSchema):
    """
    TOML has no null: what may be left out is left out.
    """

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        if schema.get("default") is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - a title says no more than the key
        return False
