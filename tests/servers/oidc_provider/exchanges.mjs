// What oidc-provider leaves to whoever wants it: token exchange (RFC 8693), an ID-JAG for another
// issuer among its results, and a JWT as a grant (RFC 7523).

import { createPublicKey } from 'node:crypto';
import { text } from 'node:stream/consumers';

const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const ID_JAG = 'urn:ietf:params:oauth:token-type:id-jag';
const ID_JAG_TYPE = 'oauth-id-jag+jwt';

// The issuers take each other's assertions; they have the same keys.
export async function registerExchanges(provider, { errors, issuers, jose, keys, resourceServerOf }) {
  const { issuer } = provider;
  // There is one key for each algorithm.
  const keyFor = ({ alg }) => jose.importJWK(keys.find((key) => key.alg === alg), alg);
  const publicKeyFor = async (header) => createPublicKey(await keyFor(header));
  const loggedOut = new Set();

  provider.registerGrantType(EXCHANGE, async (ctx) => {
    const { client, params } = ctx.oidc;
    if (params.subject_token_type !== ACCESS_TOKEN) {
      throw new errors.InvalidRequest('subject_token_type must be that of an access token');
    }
    // As at Keycloak: only for whoever was called with it.
    const { sub } = await verified(params.subject_token, {
      issuer, typ: 'at+jwt', audience: client.clientId,
    });
    if (params.requested_token_type === ID_JAG) {
      ctx.body = await assertion(sub, client, params);
    } else {
      ctx.body = { ...await accessToken(sub, client, params), issued_token_type: ACCESS_TOKEN };
    }
  }, [
    'actor_token', 'actor_token_type', 'audience', 'requested_token_type', 'resource', 'scope',
    'subject_token', 'subject_token_type',
  ]);

  provider.registerGrantType(JWT_BEARER, async (ctx) => {
    const { client, params } = ctx.oidc;
    const { sub } = await verified(params.assertion, {
      issuer: issuers, typ: ID_JAG_TYPE, audience: issuer,
    });
    ctx.body = await accessToken(sub, client, params);
  }, ['assertion', 'resource', 'scope']);

  // What a login in a browser would have led to, and its end.
  provider.use(async (ctx, next) => {
    if (ctx.path !== '/_users') {
      await next();
      return;
    }
    const { subject, client_id: clientId } = JSON.parse(await text(ctx.req));
    if (ctx.method === 'DELETE') {
      loggedOut.add(subject);
      ctx.status = 204;
      return;
    }
    const client = await provider.Client.find(clientId);
    const token = new provider.AccessToken({ accountId: subject, client, gty: 'exchange' });
    // For that client, which is an API as well.
    token.resourceServer = new provider.ResourceServer(clientId, { accessTokenFormat: 'jwt', scope: '' });
    ctx.body = { access_token: await token.save() };
  });

  async function verified(token, expected) {
    const { payload } = await jose.jwtVerify(token, publicKeyFor, expected).catch(({ message }) => {
      throw new errors.InvalidRequest(message);
    });
    if (loggedOut.has(payload.sub)) {
      throw new errors.InvalidGrant('the user has logged out');
    }
    return payload;
  }

  async function accessToken(subject, client, { resource, scope = '' }) {
    if (typeof resource !== 'string') {
      throw new errors.InvalidTarget('exactly one resource is needed');
    }
    const known = new provider.ResourceServer(resource, resourceServerOf(resource));
    const token = new provider.AccessToken({
      accountId: subject,
      client,
      gty: 'exchange',
      scope: scope.split(' ').filter((name) => known.scopes.has(name)).join(' ') || undefined,
    });
    token.resourceServer = known;
    return {
      access_token: await token.save(),
      expires_in: token.expiration,
      scope: token.scope,
      token_type: 'Bearer',
    };
  }

  async function assertion(subject, client, { audience, resource }) {
    if (!issuers.includes(audience) || resource !== undefined) {
      throw new errors.InvalidTarget('an ID-JAG is for one issuer, which is its audience');
    }
    const signed = await new jose.SignJWT({ client_id: client.clientId })
      .setProtectedHeader({ alg: 'ES256', typ: ID_JAG_TYPE })
      .setIssuer(issuer)
      .setSubject(subject)
      .setAudience(audience)
      .setIssuedAt()
      .setExpirationTime('5m')
      .setJti(crypto.randomUUID())
      .sign(await keyFor({ alg: 'ES256' }));
    return { access_token: signed, expires_in: 300, issued_token_type: ID_JAG, token_type: 'N_A' };
  }
}
