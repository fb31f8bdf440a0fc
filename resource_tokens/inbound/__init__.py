"""
Letting requests in: only with a token that was meant for us.
"""

from resource_tokens.inbound._require import RequireToken
from resource_tokens.oauth.inbound_tokens import InboundToken
from resource_tokens.oauth.refused import TokenRefusedError

__all__ = ["InboundToken", "RequireToken", "TokenRefusedError"]
