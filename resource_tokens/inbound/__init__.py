"""
Letting requests in: only with a token that was meant for us.
"""

from resource_tokens.exceptions import TokenRefusedError
from resource_tokens.inbound._require import RequireToken
from resource_tokens.oauth.inbound_tokens import InboundToken

__all__ = ["InboundToken", "RequireToken", "TokenRefusedError"]
