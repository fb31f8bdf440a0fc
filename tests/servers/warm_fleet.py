"""
What a fleet is forked from: importing this loads, in the parent, all that a worker would otherwise
load when it first asks for a token. No thread and no connection is left of it.
"""

import asyncio
import logging

from resource_tokens.stores import new_key
from resource_tokens.testing import LocalAuthorizationServer
from tests.servers.fleet import Place

# Of the store, which is not there.
logging.disable(logging.CRITICAL)
with LocalAuthorizationServer() as _server:
    _place = Place(
        _server.token_endpoint, "redis://127.0.0.1:1/0", new_key(), {"https://a.test/": "urn:x:a"}
    )
    asyncio.run(_place.auth().atoken_for("https://a.test/"))
logging.disable(logging.NOTSET)
