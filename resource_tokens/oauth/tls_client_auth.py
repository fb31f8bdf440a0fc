"""
Client authentication by a TLS certificate (RFC 8705 2).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

from resource_tokens.oauth.client_auth import (
    Authentication,
    ClientAuth,
    Recipient,
    checked_client_id,
)
from resource_tokens.oauth.credentials import Credential
from resource_tokens.oauth.messages import ClientCertificate
from resource_tokens.oauth.sources import Source
from resource_tokens.tokens import Secret

__all__ = ["TlsClientAuth"]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class TlsClientAuth(ClientAuth):
    """
    A certificate, presented on the connection to the server (`tls_client_auth`, or
    `self_signed_tls_client_auth`).

    The files are read for each request, so that they can be replaced.

    Args:
        client_id: The client identifier.
        certificate: A PEM file with the certificate and its chain.
        key: A PEM file with the private key, not encrypted; by default it is in the same file.
        self_signed: Whether the server knows the certificate itself, and not its issuer.

    Raises:
        ConfigurationError: If the files cannot be read, or are no certificate and its key.
    """

    client_id: str
    method: str
    files: ClientCertificate
    certificate: Credential[bytes]

    def __init__(
        self,
        client_id: str,
        certificate: str | os.PathLike[str],
        key: str | os.PathLike[str] | None = None,
        *,
        self_signed: bool = False,
    ) -> None:
        name = f"The key of {client_id!r}"
        sources = (
            Source.file(name, certificate if key is None else key),
            Source.file(f"The certificate of {client_id!r}", certificate),
        )
        del certificate, key
        thumbprint = Credential(partial(_thumbprint, name), *sources)
        thumbprint.read()
        files = ClientCertificate(certificate=str(sources[1].origin), key=str(sources[0].origin))
        for attribute, value in (
            ("client_id", checked_client_id(client_id)),
            ("method", "self_signed_tls_client_auth" if self_signed else "tls_client_auth"),
            ("files", files),
            ("certificate", thumbprint),
        ):
            object.__setattr__(self, attribute, value)

    @property
    def rotates(self) -> bool:
        """
        Always: files can be replaced.
        """
        return True

    def authenticate(self, recipient: Recipient) -> Authentication:
        """
        The client's id, and the certificate to present on the connection.
        """
        # What cannot be read now would fail in the middle of a handshake, without a reason.
        self.certificate.for_request(recipient.resource)
        # RFC 8705 2: "For all requests to the authorization server utilizing mutual-TLS client
        # authentication, the client MUST include the "client_id" parameter".
        return Authentication(parameters=(("client_id", self.client_id),), certificate=self.files)

    def fingerprint(self) -> bytes:
        """
        The thumbprint of the certificate.
        """
        return self.certificate.latest()


def _thumbprint(name: str, key: Secret, certificate: Secret) -> bytes:
    from resource_tokens.oauth.keys import certificate_thumbprint, private_pem

    return certificate_thumbprint(name, private_pem(name, key, None), certificate)
