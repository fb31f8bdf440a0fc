// An authorization server for tests: node-oidc-provider on a free loopback port.
//
//   node server.mjs <folder that holds node_modules>
//
// The first line on stdin is the configuration, as JSON (see `Config` in __init__.py).
// The one line on stdout says where the server listens. It ends when stdin does.

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { createServer as createTLSServer } from 'node:https';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { pathToFileURL } from 'node:url';

import { registerExchanges } from './exchanges.mjs';

// oidc-provider prints its notices with console.info; stdout is for the ready line alone.
console.info = console.error;

const UNRECORDED = new Set([
  'client_secret', 'client_assertion', 'assertion', 'subject_token', 'actor_token',
]);
const KEY_PAIRS = {
  ES256: () => generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  RS256: () => generateKeyPairSync('rsa', { modulusLength: 2048 }),
};
const ISSUER_WITH_A_PATH = '/tenants/blue';
const TLS_ISSUER_WITH_A_PATH = '/tenants/green';
const INSERTED = '/.well-known/oauth-authorization-server';

const { Provider, errors } = await installed('oidc-provider');
const jose = await installed('jose');

process.on('SIGTERM', () => process.exit(0));
const lines = createInterface({ input: process.stdin });
lines.on('close', () => process.exit(0));
lines.once('line', (line) => start(JSON.parse(line)));

// This file stays in the checkout while the packages are in a cache: `import` would not find them.
function installed(name) {
  const require = createRequire(join(process.argv[2], 'package.json'));
  return import(pathToFileURL(require.resolve(name)).href);
}

async function start(config) {
  const ledger = [];
  const keys = signingKeys(config);
  const plain = createServer();
  const origin = `http://127.0.0.1:${await listening(plain)}`;
  const issuers = [origin, `${origin}${ISSUER_WITH_A_PATH}`];
  const aliases = {};
  let secured;
  if (config.tls) {
    // A certificate is asked for and not insisted on: what it is worth is for oidc-provider to say.
    secured = createTLSServer({ ...config.tls, requestCert: true, rejectUnauthorized: false });
    const tlsOrigin = `https://127.0.0.1:${await listening(secured)}`;
    issuers.push(`${tlsOrigin}${TLS_ISSUER_WITH_A_PATH}`);
    aliases.token_endpoint = `${tlsOrigin}/token`;
  }
  const [main, blue, green] = await Promise.all(issuers.map(async (issuer, index) => {
    const provider = new Provider(issuer, {
      ...providerConfiguration(config, keys),
      ...index === 0 && config.tls && { discovery: { mtls_endpoint_aliases: aliases } },
    });
    await registerExchanges(provider, {
      errors, issuers, jose, keys, resourceServerOf: (name) => resourceServerOf(config, name),
    });
    // Clients are checked when first used. A misspelt one is to fail here and not in a test.
    await Promise.all(config.clients.map(({ client_id: id }) => provider.Client.find(id)));
    recordTokenRequests(provider, ledger);
    return provider.callback();
  }));

  plain.on('request', (req, res) => {
    // For this issuer the metadata is at the OpenID address alone, as with many servers.
    if (!mounted(ISSUER_WITH_A_PATH, blue, req, res)) {
      main(req, res);
    }
  });
  secured?.on('request', (req, res) => {
    // And for this one at the OAuth address alone.
    const inserted = req.url === `${INSERTED}${TLS_ISSUER_WITH_A_PATH}`;
    if (inserted) {
      req.url = `${TLS_ISSUER_WITH_A_PATH}${INSERTED}`;
    } else if (req.url.includes('/.well-known/')) {
      res.writeHead(404).end();
      return;
    }
    if (!mounted(TLS_ISSUER_WITH_A_PATH, green, req, res)) {
      main(req, res);
    }
  });
  process.stdout.write(`${JSON.stringify({ issuers })}\n`);
}

function listening(server) {
  // A pooled connection that Node closes after its 5 s would fail a slow test now and then.
  server.keepAliveTimeout = 120_000;
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve(server.address().port));
  });
}

// oidc-provider learns the path it is under from the difference between the two URLs.
function mounted(path, callback, req, res) {
  if (!req.url.startsWith(`${path}/`)) {
    return false;
  }
  req.originalUrl = req.url;
  req.url = req.url.slice(path.length);
  callback(req, res);
  return true;
}

function signingKeys({ resources = {} }) {
  const algorithms = new Set(['ES256', ...Object.values(resources).map(({ alg = 'RS256' }) => alg)]);
  return [...algorithms].map((alg) => ({
    ...KEY_PAIRS[alg]().privateKey.export({ format: 'jwk' }), alg, use: 'sig',
  }));
}

function providerConfiguration(config, keys) {
  const { clients, dpop, resources = {}, token_ttl: tokenTtl = 600 } = config;
  const ttl = (ctx, token) => token.resourceServer?.accessTokenTTL ?? tokenTtl;

  return {
    assertJwtClientAuthClaimsAndHeader: (ctx, { aud }, header, { assertion_audience: only }) => {
      const known = { issuer: ctx.oidc.issuer, token_endpoint: ctx.oidc.urlFor('token') };
      if (only !== undefined && aud !== known[only]) {
        throw new errors.InvalidClientAuth(`this client must write ${known[only]} as aud`);
      }
    },
    clientAuthMethods: [
      'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt',
      'tls_client_auth', 'self_signed_tls_client_auth', 'none',
    ],
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
    extraClientMetadata: { properties: ['assertion_audience'] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      dPoP: {
        enabled: true,
        nonceSecret: randomBytes(32),
        requireNonce: () => dpop === 'nonces',
      },
      introspection: { enabled: true, allowedPolicy: () => true },
      mTLS: {
        certificateBoundAccessTokens: true,
        enabled: true,
        tlsClientAuth: true,
        selfSignedTlsClientAuth: true,
        getCertificate: certificateOf,
        certificateAuthorized: (ctx) => ctx.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) => (
          property === 'tls_client_auth_san_dns'
            && certificateOf(ctx).checkHost(expected, { subject: 'never' }) === expected
        ),
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx, client, several) => several,
        getResourceServerInfo: (ctx, identifier) => resourceServerOf({ resources }, identifier),
      },
      revocation: {
        enabled: true,
        allowedPolicy: (ctx, client, token) => token.clientId === client.clientId,
      },
    },
    fetch: (url) => {
      throw new Error(`this server sends no requests, but was made to fetch ${url}`);
    },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    jwks: { keys },
    rotateRefreshToken: true,
    ttl: { AccessToken: ttl, ClientCredentials: ttl, Grant: 3600, RefreshToken: 3600 },
  };
}

function resourceServerOf({ resources = {} }, identifier) {
  if (!Object.hasOwn(resources, identifier)) {
    throw new errors.InvalidTarget();
  }
  return resourceServer(resources[identifier]);
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

function certificateOf(ctx) {
  return ctx.socket.getPeerX509Certificate?.();
}

function recordTokenRequests(provider, ledger) {
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
    if (ctx.path === '/_grants') {
      ctx.body = { refresh_token: await refreshToken(provider, JSON.parse(await text(ctx.req))) };
      return;
    }
    if (ctx.path !== '/token' || ctx.method !== 'POST') {
      await next();
      return;
    }
    // Entered on arrival, so that the order is that of the requests and not of the answers.
    const entry = {
      issuer: provider.issuer, form: {}, method: 'none', assertion: null, proof: null,
      client_id: null, status: null, error: null, error_description: null,
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

// What a user's consent in a browser would have led to.
async function refreshToken(provider, { client_id: clientId, resources, jkt }) {
  const accountId = 'alice';
  const grant = new provider.Grant({ accountId, clientId });
  for (const [resource, scope] of Object.entries(resources)) {
    grant.addResourceScope(resource, scope);
  }
  return new provider.RefreshToken({
    accountId,
    client: await provider.Client.find(clientId),
    grantId: await grant.save(),
    gty: 'authorization_code',
    jkt,
    resource: Object.keys(resources),
    scope: Object.values(resources).join(' '),
  }).save();
}

function tokenRequest(ctx) {
  const authorization = ctx.get('authorization');
  const body = ctx.oidc.body ?? {};
  const assertion = decodedAssertion(body.client_assertion);
  return {
    form: Object.fromEntries(
      Object.entries(body)
        .filter(([name]) => !UNRECORDED.has(name))
        .map(([name, value]) => [name, [value].flat()]),
    ),
    method: methodOf(ctx, authorization, body, assertion),
    assertion,
    proof: decodedAssertion(ctx.get('dpop')),
    client_id: ctx.oidc.client?.clientId ?? body.client_id ?? basicUser(authorization) ?? null,
    status: ctx.status,
  };
}

// By what the request carried, whatever the client is registered with.
function methodOf(ctx, authorization, body, assertion) {
  if (/^basic /i.test(authorization)) {
    return 'client_secret_basic';
  }
  if (body.client_secret !== undefined) {
    return 'client_secret_post';
  }
  if (body.client_assertion !== undefined) {
    return assertion?.header.alg.startsWith('HS') ? 'client_secret_jwt' : 'private_key_jwt';
  }
  if (certificateOf(ctx)) {
    return ctx.socket.authorized ? 'tls_client_auth' : 'self_signed_tls_client_auth';
  }
  return 'none';
}

function decodedAssertion(assertion) {
  try {
    const [header, claims] = assertion.split('.').slice(0, 2)
      .map((part) => JSON.parse(Buffer.from(part, 'base64url')));
    return { header, claims };
  } catch {
    return null;
  }
}

function basicUser(authorization) {
  const [, credentials] = /^basic (.+)$/i.exec(authorization) ?? [];
  return credentials && Buffer.from(credentials, 'base64').toString().split(':')[0];
}
