// A real identity provider for the tests: oidc-provider, with keys made at its start. Usage: issuer.mjs MODULES PORT
// (0 takes a free one). Its first line of output is its URL. Everybody may log in, under any password.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const [modules, port] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));

const key = (alg, kind, options) => ({
  ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }), alg, use: 'sig',
});
const client = (alg) => ({
  client_id: `qvd-${alg}`,
  client_secret: 'the secret of a client of the test',
  redirect_uris: ['http://127.0.0.1/callback'],
  id_token_signed_response_alg: alg,
});

const server = createServer();
server.listen(Number(port), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    jwks: { keys: [
      key('RS256', 'rsa', { modulusLength: 2048 }),
      key('PS256', 'rsa', { modulusLength: 2048 }),
      key('ES256', 'ec', { namedCurve: 'P-256' }),
      key('EdDSA', 'ed25519'),
    ] },
    clients: ['RS256', 'PS256', 'ES256', 'EdDSA'].map(client),
    enabledJWA: {
      idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA'],
    },
    findAccount: (_, login) => ({
      accountId: login,
      claims: () => ({ sub: `subject of ${login}`, preferred_username: login }),
    }),
    claims: { openid: ['sub', 'preferred_username'] },
    conformIdTokenClaims: false,
    pkce: { required: () => false },
    ttl: { IdToken: 600, AccessToken: 600 },
    features: {
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, audience) => ({
          audience, scope: 'desktop', accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
    extraTokenClaims: (_, token) => ({ preferred_username: token.accountId }),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
