// Loaded before the conformance suite. Two things are set right for the client under test:
//
// - The suite calls its servers `localhost`. That is whatever the resolver says it is, so plain http
//   to it is refused, while plain http to a loopback address is not.
// - Whoever runs a client knows the issuer that gave it its credentials, but the suite does not tell
//   it. So the client finds the origins of the suite's servers in its environment, in the order of
//   their start: the authorization server is the first.

import { registerHooks } from 'node:module';
import { Server } from 'node:net';

const NAME = 'this.baseUrl=`http://localhost:';
const ADDRESS = 'this.baseUrl=`http://127.0.0.1:';

registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    if (!url.endsWith('/conformance/dist/index.js')) {
      return loaded;
    }
    const source = loaded.source.toString();
    if (!source.includes(NAME)) {
      throw new Error('this version of the suite names its servers in another way');
    }
    return { ...loaded, source: source.replaceAll(NAME, ADDRESS) };
  },
});

const origins = [];
const { listen } = Server.prototype;

Server.prototype.listen = function listenAndTell(...how) {
  const server = listen.apply(this, how);
  origins.push(`http://127.0.0.1:${server.address().port}`);
  process.env.MCP_CONFORMANCE_ORIGINS = origins.join(' ');
  return server;
};
