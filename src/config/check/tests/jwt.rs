//! `[[auth]]` of type `jwt`.

use super::*;

#[test]
fn signed_tokens_need_a_key_an_issuer_and_an_audience() {
    let jwt = |tail: &str| format!("[[auth]]\ntype = \"jwt\"\n{tail}");
    let jwks = |tail: &str| jwt(&format!("jwks = \"https://a/\"\nissuer = \"a\"\naudience = \"b\"\n{tail}"));
    let secret = |tail: &str| jwt(&format!("secret = {{ file = \"secrets/jwt\" }}\n{tail}"));
    let preset = |name: &str, tail: &str| jwt(&format!("preset = \"{name}\"\n{tail}"));
    let tenant = "tenant = \"72f988bf-86f1-41af-91ab-2d7cd011db47\"";
    for (text, expected) in [
        (jwt(""), "7:1: `auth`: the source of the keys is missing"),
        (jwt("jwks = \"https://a/\"\nissuer = \"a\""), "7:1: `auth.audience` is missing"),
        (jwt("jwks = \"https://a/\"\naudience = \"a\""), "7:1: `auth.issuer` is missing"),
        (jwks("secret = { file = \"secrets/jwt\" }"), "7:1: `auth`: keys must have exactly one source"),
        (jwks("issuer2 = 1"), "12:1: unknown key `auth.issuer2`"),
        (jwks("audience_claim = \"aud\""), "12:18: `auth.audience_claim`: `aud` is read without this key"),
        (secret("audience_claim = \"client_id\""), "10:18: `auth.audience_claim`: no audience is configured"),
        (jwks("algorithms = [\"none\"]"), "12:15: `auth.algorithms`: `none` is not an algorithm"),
        (jwks("algorithms = []"), "12:14: `auth.algorithms`: is an empty list"),
        (jwks("leeway = \"6min\""), "12:10: `auth.leeway`: is more than 5 min"),
        (jwks("leeway = \"0s\""), "12:10: `auth.leeway`: a duration of zero"),
        (jwks("header = \"cookie\""), "12:10: `auth.header`: cookies have a key of their own"),
        (jwks("header = \"a b\""), "12:10: `auth.header`: not the name of a header field"),
        (jwks("cookie = \"a=\""), "12:10: `auth.cookie`: not the name of a cookie"),
        (jwks("query = \"q\""), "12:9: `auth.query`: logs would show the token"),
        (jwks("query = \"token&x\""), "12:9: `auth.query`: logs would show the token"),
        (jwks("query = \"token\"\ncookie = \"a\""), "7:1: `auth`: a token must have exactly one place"),
        (jwks("query = \"token\"\nambient = true"), "13:11: `auth.ambient`: no browser adds a parameter by itself"),
        (jwks("cookie = \"a\"\nambient = false"), "13:11: `auth.ambient`: browsers send such a token on their own"),
        (jwks("header = \"a\"\nambient = false"), "13:11: `auth.ambient`: browsers send such a token on their own"),
        (
            jwks("cookie = \"a\"\nignore_cookies = true"),
            "13:18: `auth.ignore_cookies`: this method's own credential is a cookie",
        ),
        (secret("ca = \"certs/upstream-ca.pem\""), "10:6: `auth.ca`: has no effect without `jwks`"),
        (secret("algorithms = [\"RS256\"]"), "9:10: `auth.secret`: [RS256] is not what this key is for"),
        (secret("algorithms = [\"HS512\"]"), "9:10: `auth.secret`: [HS512] is not what this key is for"),
        (
            jwt("secret = { file = \"secrets/pbx-admin\" }"),
            "9:10: `auth.secret`: shorter than the 32 bytes that HS256 needs",
        ),
        (
            jwt("secret = \"0123456789abcdef0123456789abcdef\""),
            "9:10: `auth.secret`: a secret must not be written in this file",
        ),
        (jwt("public_key = \"certs/privkey.pem\""), "9:14: `auth.public_key`: has a private key in it"),
        (jwt("public_key = \"certs/none.pem\""), "9:14: `auth.public_key`: has no public key in PEM form"),
        (
            jwt("public_key = \"certs/id.pem\"\nalgorithms = [\"HS256\"]"),
            "9:14: `auth.public_key`: [HS256] is not what this key is for",
        ),
        (preset("cloudflare", ""), "9:10: `auth.preset`: unknown word `cloudflare`"),
        (preset("cloudflare-access", "audience = \"a\""), "7:1: `auth.team` is missing"),
        (preset("cloudflare-access", "team = \"a\""), "7:1: `auth.audience` is missing"),
        (
            preset("cloudflare-access", "team = \"a.cloudflareaccess.com\"\naudience = \"a\""),
            "10:8: `auth.team`: not the name of a team",
        ),
        (preset("google-iap", "team = \"a\"\naudience = \"a\""), "10:1: unknown key `auth.team`"),
        (preset("google-iap", ""), "7:1: `auth.audience` is missing"),
        (preset("pomerium", "host = \"https://a\""), "10:8: `auth.host`: not a host name"),
        (
            preset("keycloak", "realm = \"https://a/realms/b/\"\naudience = \"a\""),
            "10:9: `auth.realm`: not the address of a realm",
        ),
        (
            preset("keycloak", "realm = \"http://a.test/realms/b\"\naudience = \"a\""),
            "10:9: `auth.realm`: not an https address",
        ),
        (preset("entra", "tenant = \"common\"\naudience = \"a\""), "10:10: `auth.tenant`: not the id of a tenant"),
        (
            preset("entra", "tenant = \"organizations\"\naudience = \"a\""),
            "10:10: `auth.tenant`: not the id of a tenant",
        ),
        (preset("entra", tenant), "7:1: `auth.audience` is missing"),
        (
            jwks("") + &jwks("name = \"two\""),
            "12:1: `auth`: tokens of this method could be those of method `jwt`, in the same place",
        ),
        (
            secret("") + &jwks("name = \"two\""),
            "10:1: `auth`: tokens of this method could be those of method `jwt`, in the same place",
        ),
    ] {
        check_beside(&text, expected);
    }
    for url in ["http://id.example.com/", "id.example.com", "/jwks", "https://a@id.example.com/", "ftp://a/", ""] {
        let text = jwt(&format!("jwks = \"{url}\"\nissuer = \"a\"\naudience = \"b\""));
        let problems = refused(&format!("{TOP}{BOTH}{text}"));
        assert!(problems.as_slice().iter().any(|problem| problem.message.contains("`auth.jwks`")), "{url} {problems}");
    }
}

#[test]
fn presets_fill_in_what_is_known() {
    let read = |lines: &str| {
        let config = accepted(&format!("{TOP}{BOTH}[[auth]]\ntype = \"jwt\"\naudience = \"a\"\n{lines}"));
        let MethodKind::Jwt(jwt) = config.methods[0].kind.clone() else { panic!("{config:?}") };
        jwt
    };
    let check = |lines: &str, url: &str, issuer: &str, place: &str| {
        let jwt = read(lines);
        let JwtKeySource::Fetched(at) = &jwt.keys else { panic!("{jwt:?}") };
        assert_eq!((at.url.to_string().as_str(), jwt.rules.issuers.as_deref()), (url, Some(&[issuer.to_owned()][..])));
        let (found, is_ambient) = match jwt.location {
            TokenLocation::Header(name) => (name.to_string(), true),
            TokenLocation::Bearer => ("authorization".to_owned(), false),
            other => panic!("{other:?}"),
        };
        assert_eq!((found.as_str(), jwt.is_ambient), (place, is_ambient));
    };
    check(
        "preset = \"cloudflare-access\"\nteam = \"Acme\"",
        "https://acme.cloudflareaccess.com/cdn-cgi/access/certs",
        "https://acme.cloudflareaccess.com",
        "cf-access-jwt-assertion",
    );
    check(
        "preset = \"google-iap\"",
        "https://www.gstatic.com/iap/verify/public_key-jwk",
        "https://cloud.google.com/iap",
        "x-goog-iap-jwt-assertion",
    );
    check(
        "preset = \"pomerium\"\nhost = \"a.test\"",
        "https://a.test/.well-known/pomerium/jwks.json",
        "a.test",
        "x-pomerium-jwt-assertion",
    );
    check(
        "preset = \"keycloak\"\nrealm = \"https://a.test/realms/b\"",
        "https://a.test/realms/b/protocol/openid-connect/certs",
        "https://a.test/realms/b",
        "authorization",
    );
    check(
        "preset = \"entra\"\ntenant = \"72F988BF-86f1-41af-91ab-2d7cd011db47\"",
        "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/discovery/v2.0/keys",
        "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
        "authorization",
    );
    let own =
        read("preset = \"cloudflare-access\"\nteam = \"a\"\ncookie = \"CF_Authorization\"\nissuer = [\"b\", \"c\"]");
    assert_eq!((own.location, own.is_ambient), (TokenLocation::Cookie("CF_Authorization".to_owned()), true));
    assert_eq!(own.rules.issuers, Some(vec!["b".to_owned(), "c".to_owned()]));
}

#[test]
fn tokens_that_work_once_want_to_be_remembered() {
    let text =
        format!("{TOP}{BOTH}[[auth]]\ntype = \"jwt\"\nsecret = {{ file = \"secrets/jwt\" }}\nquery = \"token\"\n");
    let warns = |text: &str| accepted(text).warnings.iter().any(|warning| warning.message.contains("after a restart"));
    assert!(warns(&text));
    assert!(!warns(&format!("{text}[state]\nfile = \"log/state\"")));
    assert!(!warns(&text.replace("query", "cookie")));
}
