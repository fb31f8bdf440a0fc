"""
One access token per resource, shown to that resource and to nothing else.
"""

from resource_tokens.auth import ResourceTokenAuth
from resource_tokens.cache import TokenCache
from resource_tokens.certificates import AsyncCertificateTransport, CertificateTransport
from resource_tokens.events import TokenEvent
from resource_tokens.exceptions import (
    AudienceMismatchError,
    ConfigurationError,
    EgressBlockedError,
    OAuthError,
    ResourceTokensError,
    TokenRequestError,
    UnmappedDestinationError,
)
from resource_tokens.guards import AsyncEgressGuard, EgressGuard
from resource_tokens.oauth.assertion_files import ClientAssertionFile
from resource_tokens.oauth.client_auth import ClientSecretBasic, ClientSecretPost, PublicClient
from resource_tokens.oauth.dialects import Dialect
from resource_tokens.oauth.dpop import ProofKey
from resource_tokens.oauth.exchange import JwtBearer, TokenExchange
from resource_tokens.oauth.grants import ClientCredentials, RefreshToken
from resource_tokens.oauth.jwt_client_auth import ClientSecretJwt, PrivateKeyJwt
from resource_tokens.oauth.metadata import AuthorizationServer
from resource_tokens.oauth.subject_tokens import SubjectToken
from resource_tokens.oauth.tls_client_auth import TlsClientAuth
from resource_tokens.refresh_tokens import SharedRefreshToken
from resource_tokens.resources import Resource, ResourceMap
from resource_tokens.tokens import AccessToken

__version__ = "0.1.0"

__all__ = [
    "AccessToken",
    "AsyncCertificateTransport",
    "AsyncEgressGuard",
    "AudienceMismatchError",
    "AuthorizationServer",
    "CertificateTransport",
    "ClientAssertionFile",
    "ClientCredentials",
    "ClientSecretBasic",
    "ClientSecretJwt",
    "ClientSecretPost",
    "ConfigurationError",
    "Dialect",
    "EgressBlockedError",
    "EgressGuard",
    "JwtBearer",
    "OAuthError",
    "PrivateKeyJwt",
    "ProofKey",
    "PublicClient",
    "RefreshToken",
    "Resource",
    "ResourceMap",
    "ResourceTokenAuth",
    "ResourceTokensError",
    "SharedRefreshToken",
    "SubjectToken",
    "TlsClientAuth",
    "TokenCache",
    "TokenEvent",
    "TokenExchange",
    "TokenRequestError",
    "UnmappedDestinationError",
]
