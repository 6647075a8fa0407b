// An identity provider with two people, at a port of its choice, which it prints. Client, secret and host as in tests/it/browser/oidc.rs.
import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const people = { ann: { ext: '40', tenant: 'acme.test', vox: 'alice' }, ben: { ext: '41', tenant: 'acme.test', vox: 'bob' } };

const server = createServer();
server.listen(0, '127.0.0.1', () => {
    const issuer = `http://localhost:${server.address().port}`;
    const provider = new Provider(issuer, {
        clients: [{
            client_id: 'callgate',
            client_secret: process.env.CLIENT_SECRET,
            redirect_uris: ['https://app.test/auth/callgate/oidc/sso'],
            post_logout_redirect_uris: ['https://app.test/echo?after=logout'],
        }],
        claims: { openid: ['sub'], phone: ['ext', 'tenant', 'vox'] },
        scopes: ['openid', 'phone'],
        conformIdTokenClaims: false,
        pkce: { required: () => true },
        cookies: { keys: ['a key of a provider that lives for one test'] },
        findAccount: (_, id) => people[id] && { accountId: id, claims: () => ({ sub: id, ...people[id] }) },
    });
    server.on('request', provider.callback());
    console.log(`at ${issuer}`);
});

// The test that started it holds its standard input: with the one, the other ends.
process.stdin.on('end', () => process.exit()).resume();
