// An authorization server for tests: node-oidc-provider on a free loopback port.
//
//   node server.mjs <folder that holds node_modules>
//
// The first line on stdin is the configuration, as JSON (see `Config` in __init__.py).
// The one line on stdout says where the server listens. It ends when stdin does.

import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

// oidc-provider prints its notices with console.info; stdout is for the ready line alone.
console.info = console.error;

const UNRECORDED = new Set(['client_secret', 'client_assertion']);
const KEY_PAIRS = {
  ES256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  RS256: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
};

const { Provider, errors } = await installed('oidc-provider');

process.on('SIGTERM', () => process.exit(0));
const lines = createInterface({ input: process.stdin });
lines.on('close', () => process.exit(0));
lines.once('line', (line) => start(JSON.parse(line)));

// This file stays in the checkout while the packages are in a cache: `import` would not find them.
function installed(name) {
  const require = createRequire(join(process.argv[2], 'package.json'));
  return import(pathToFileURL(require.resolve(name)).href);
}

function start(config) {
  const server = createServer();
  // A pooled connection that Node closes after its 5 s would fail a slow test now and then.
  server.keepAliveTimeout = 120_000;
  server.listen(0, '127.0.0.1', async () => {
    const { port } = server.address();
    const issuer = `http://127.0.0.1:${port}`;
    const provider = new Provider(issuer, providerConfiguration(config));
    // Clients are checked when first used. A misspelt one is to fail here and not in a test.
    await Promise.all(config.clients.map(({ client_id: id }) => provider.Client.find(id)));
    recordTokenRequests(provider);
    server.on('request', provider.callback());
    process.stdout.write(`${JSON.stringify({ issuer, port })}\n`);
  });
}

function providerConfiguration({ clients, resources = {}, token_ttl: tokenTtl = 600 }) {
  const resourceServers = new Map(
    Object.entries(resources).map(([identifier, resource]) => [
      identifier, resourceServer(resource),
    ]),
  );
  const algorithms = new Set(['ES256']);
  resourceServers.forEach(({ jwt }) => algorithms.add(jwt.sign.alg));

  return {
    clients: clients.map((client) => ({
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      ...client,
    })),
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
    // The default of 15 s keeps opaque tokens active after their `exp`.
    clockTolerance: 0,
    cookies: { keys: ['unused'] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      introspection: { enabled: true, allowedPolicy: () => true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (ctx, identifier) => {
          const known = resourceServers.get(identifier);
          if (known === undefined) {
            throw new errors.InvalidTarget();
          }
          return known;
        },
      },
      revocation: {
        enabled: true,
        allowedPolicy: (ctx, client, token) => token.clientId === client.clientId,
      },
    },
    fetch: (url) => {
      throw new Error(`this server sends no requests, but was made to fetch ${url}`);
    },
    jwks: {
      keys: [...algorithms].map((alg) => ({
        ...KEY_PAIRS[alg]().privateKey.export({ format: 'jwk' }), alg, use: 'sig',
      })),
    },
    ttl: {
      ClientCredentials: (ctx, token) => token.resourceServer?.accessTokenTTL ?? tokenTtl,
    },
  };
}

function resourceServer({ scopes, format = 'jwt', alg = 'RS256', ttl, audience }) {
  return {
    scope: scopes.join(' '),
    accessTokenFormat: format,
    accessTokenTTL: ttl,
    audience,
    jwt: { sign: { alg } },
  };
}

function recordTokenRequests(provider) {
  const ledger = [];
  const entries = new WeakMap();

  provider.use(async (ctx, next) => {
    if (ctx.path === '/_ledger') {
      if (ctx.method === 'DELETE') {
        ledger.length = 0;
        ctx.status = 204;
      } else {
        ctx.body = ledger;
      }
      return;
    }
    if (ctx.path !== '/token' || ctx.method !== 'POST') {
      await next();
      return;
    }
    // Entered on arrival, so that the order is that of the requests and not of the answers.
    const entry = {
      form: {}, basic: false, client_id: null, status: null, error: null, error_description: null,
    };
    ledger.push(entry);
    entries.set(ctx, entry);
    await next();
    Object.assign(entry, tokenRequest(ctx));
  });

  // From the events and not from the answer, which is a page for whoever prefers text/html.
  for (const event of ['grant.error', 'server_error']) {
    provider.on(event, (ctx, { error = 'server_error', error_description: description = null }) => {
      if (entries.has(ctx)) {
        Object.assign(entries.get(ctx), { error, error_description: description });
      }
    });
  }
}

function tokenRequest(ctx) {
  const authorization = ctx.get('authorization');
  const body = ctx.oidc.body ?? {};
  return {
    form: Object.fromEntries(
      Object.entries(body)
        .filter(([name]) => !UNRECORDED.has(name))
        .map(([name, value]) => [name, [value].flat()]),
    ),
    basic: /^basic /i.test(authorization),
    client_id: ctx.oidc.client?.clientId ?? body.client_id ?? basicUser(authorization) ?? null,
    status: ctx.status,
  };
}

function basicUser(authorization) {
  const [, credentials] = /^basic (.+)$/i.exec(authorization) ?? [];
  return credentials && Buffer.from(credentials, 'base64').toString().split(':')[0];
}
