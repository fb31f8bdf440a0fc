"""
A conformance kit: does an auth plugin for httpx or httpx2 keep each token where it belongs?

    pytest --pyargs resource_tokens.conformance --auth=module:factory

The factory makes what is tested, from a `Setting`. Everything happens over sockets on 127.0.0.1,
and the claims are read off what the servers received. A plugin that sends no token at all holds
none of them.
"""

from resource_tokens.conformance.setting import Setting, UnsupportedError, resource_tokens_factory

__all__ = ["Setting", "UnsupportedError", "resource_tokens_factory"]
