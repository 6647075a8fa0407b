use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: f64 = 1_000_000.0;
const MINUTE: f64 = 60.0;

fn rules() -> TokenRules {
    let list = |name: &str| Some(vec![name.to_owned()]);
    TokenRules {
        issuers: list("https://id.test"),
        audiences: list("callgate"),
        audience_claim: None,
        algorithms: None,
        typ: None,
        max_age: None,
        leeway: Duration::from_secs(30),
    }
}

fn good() -> Value {
    json!({ "iss": "https://id.test", "aud": "callgate", "exp": NOW + MINUTE, "sub": "alice" })
}

/// Signs any header and claims, also invalid ones.
fn sign(header: &str, claims: &str) -> String {
    let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn judge(token: &str, rules: &TokenRules) -> Result<VerifiedToken, TokenError> {
    UnverifiedToken::read(token.as_bytes())?.prove(&VerificationKeys::of_secret(SECRET.as_bytes()).unwrap(), rules, NOW)
}

/// Verifies the claims of a good token with some of them changed; `null` removes one.
#[track_caller]
fn check_claims(changes: Value, rules: &TokenRules, expected: Result<(), &'static str>) {
    let mut claims = good();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    let judged = judge(&token, rules);
    assert_eq!(judged.map(drop).map_err(TokenError::reason), expected, "{claims}");
}

#[track_caller]
fn check_header(header: &str, expected: Result<(), &'static str>) {
    let judged = judge(&sign(header, &good().to_string()), &rules());
    assert_eq!(judged.map(drop).map_err(TokenError::reason), expected, "{header}");
}

#[test]
fn a_good_token_proves_its_claims() {
    let proven = judge(&sign(r#"{"alg":"HS256"}"#, &good().to_string()), &rules()).unwrap();
    assert_eq!((proven.claims["sub"].as_str(), proven.until), (Some("alice"), NOW + MINUTE + 30.0));
}

#[test]
fn times_are_numbers_with_some_leeway() {
    let check = |changes, expected| check_claims(changes, &rules(), expected);
    check(json!({ "exp": NOW - 29.5 }), Ok(()));
    check(json!({ "exp": NOW - 30.0 }), Err("it has expired"));
    check(json!({ "exp": 0 }), Err("it has expired"));
    check(json!({ "exp": -1 }), Err("it has expired"));
    check(json!({ "exp": null }), Err("it has no exp"));
    check(json!({ "exp": "9999999999" }), Err("exp is not a number"));
    check(json!({ "exp": [NOW + MINUTE] }), Err("exp is not a number"));
    check(json!({ "exp": true }), Err("exp is not a number"));
    check(json!({ "nbf": NOW + 30.0 }), Ok(()));
    check(json!({ "nbf": NOW + 30.5 }), Err("it is not valid yet"));
    check(json!({ "nbf": "0" }), Err("nbf is not a number"));
    check(json!({ "iat": NOW + 30.0 }), Ok(()));
    check(json!({ "iat": NOW + 31.0 }), Err("it was issued in the future"));
    check(json!({ "iat": {} }), Err("iat is not a number"));
}

#[test]
fn a_token_can_be_too_old_before_its_end() {
    let rules = TokenRules { max_age: Some(Duration::from_secs(60)), ..rules() };
    let check = |changes, expected| check_claims(changes, &rules, expected);
    check(json!({ "iat": NOW - 89.0 }), Ok(()));
    check(json!({ "iat": NOW - 90.0 }), Err("it is older than max_age"));
    check(json!({}), Err("it has no iat, and max_age is configured"));
}

#[test]
fn the_issuer_is_exactly_the_one_that_is_believed() {
    let check = |issuer, expected| check_claims(json!({ "iss": issuer }), &rules(), expected);
    check(json!("https://id.test"), Ok(()));
    for other in
        [json!("https://id.test/"), json!("https://ID.test"), json!(["https://id.test"]), json!(""), Value::Null]
    {
        check(other, Err("its issuer is not a trusted one"));
    }
    check_claims(json!({ "iss": null }), &TokenRules { issuers: None, ..rules() }, Ok(()));
}

#[test]
fn the_audience_is_ours_or_nobody() {
    let check = |audience, expected| check_claims(json!({ "aud": audience }), &rules(), expected);
    check(json!(["other", "callgate"]), Ok(()));
    for other in [json!("other"), json!([]), json!("Callgate"), json!(["callgate2"]), Value::Null] {
        check(other, Err("it is for another audience"));
    }
    for nonsense in [json!(1), json!(["callgate", 1]), json!({ "callgate": true })] {
        check(nonsense, Err("its audience is not text"));
    }
    let open = TokenRules { audiences: None, ..rules() };
    check_claims(json!({ "aud": null }), &open, Ok(()));
    check_claims(json!({}), &open, Err("it is for an audience, and none is configured"));
}

#[test]
fn a_claim_may_name_the_audience_of_a_token_without_one() {
    let rules = TokenRules { audience_claim: Some("client_id".to_owned()), ..rules() };
    let check = |changes, expected| check_claims(changes, &rules, expected);
    check(json!({ "aud": null, "client_id": "callgate" }), Ok(()));
    check(json!({ "aud": null, "client_id": ["other", "callgate"] }), Ok(()));
    for other in [json!("other"), json!(""), json!("Callgate"), Value::Null] {
        check(json!({ "aud": null, "client_id": other }), Err("it is for another audience"));
    }
    check(json!({ "aud": null, "client_id": 1 }), Err("its audience is not text"));
    // `aud` alone decides where it is present, even if it is empty.
    check(json!({ "client_id": "other" }), Ok(()));
    for aud in [json!("other"), json!([])] {
        check(json!({ "aud": aud, "client_id": "callgate" }), Err("it is for another audience"));
    }
}

#[test]
fn tokens_for_other_purposes_prove_nobody() {
    let check = |changes, expected| check_claims(changes, &rules(), expected);
    let logout = json!({ "http://schemas.openid.net/event/backchannel-logout": {} });
    check(json!({ "events": logout }), Err("it tells of an event"));
    for typ in ["Logout", "Refresh", "Offline"] {
        check(json!({ "typ": typ }), Err("it is a token for another purpose"));
    }
    check(json!({ "typ": "Bearer" }), Ok(()));
}

#[test]
fn the_header_has_no_say_beyond_its_algorithm_and_key() {
    check_header(r#"{"alg":"HS256","typ":"JWT"}"#, Ok(()));
    check_header(r#"{"alg":"HS256","typ":"application/at+JWT"}"#, Ok(()));
    check_header(
        r#"{"alg":"HS256","jku":"https://evil.test","x5u":"https://evil.test","jwk":{"kty":"oct","k":""}}"#,
        Ok(()),
    );
    check_header(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, Err("its header demands an extension"));
    check_header(r#"{"alg":"HS256","crit":[]}"#, Err("its header demands an extension"));
    for typ in ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWE", "", "application/application/jwt"] {
        check_header(&format!(r#"{{"alg":"HS256","typ":"{typ}"}}"#), Err("it has another type"));
    }
    for algorithm in ["none", "None", "NONE", "nOnE", "", "hs256", "HS1", "HS257"] {
        check_header(&format!(r#"{{"alg":"{algorithm}"}}"#), Err("its algorithm is unknown"));
    }
    check_header("{}", Err("its algorithm is unknown"));
    for (header, reason) in [
        (r#"{"alg":1}"#, "`alg` in its header is not text"),
        (r#"{"alg":"HS256","kid":1}"#, "`kid` in its header is not text"),
        (r#"{"alg":"HS256","typ":[]}"#, "`typ` in its header is not text"),
        ("[]", "it is malformed"),
        ("1", "it is malformed"),
        ("", "it is malformed"),
    ] {
        check_header(header, Err(reason));
    }
    check_header(r#"{"alg":"HS256","x5c":1,"jku":[],"cty":{"a":null}}"#, Ok(()));
    for other in ["RS256", "ES256", "PS256", "EdDSA", "HS384", "HS512"] {
        check_header(&format!(r#"{{"alg":"{other}"}}"#), Err("its algorithm is not one of the key's"));
    }
}

#[test]
fn a_demanded_type_is_the_only_one() {
    let rules = TokenRules { typ: Some("at+jwt".to_owned()), ..rules() };
    for (header, is_right) in [
        (r#"{"alg":"HS256","typ":"at+jwt"}"#, true),
        (r#"{"alg":"HS256","typ":"application/AT+JWT"}"#, true),
        (r#"{"alg":"HS256","typ":"JWT"}"#, false),
        (r#"{"alg":"HS256"}"#, false),
    ] {
        assert_eq!(judge(&sign(header, &good().to_string()), &rules).is_ok(), is_right, "{header}");
    }
}

#[test]
fn what_has_two_readings_proves_nobody() {
    let with = |more: &str| format!("{{{more},{}", &good().to_string()[1..]);
    let (twice, long) = ("a name stands twice in it", "it has an integer that is longer than 64 bits");
    let header = r#"{"alg":"HS256"}"#;
    for (header, claims, reason) in [
        (r#"{"alg":"HS256","alg":"HS256"}"#, good().to_string(), twice),
        (r#"{"alg":"HS256","x":{"a":1,"a":2}}"#, good().to_string(), twice),
        (header, with(r#""sub":"alice""#), twice),
        (header, with(r#""o":{"ext":"40","ext":"41"}"#), twice),
        (header, with(r#""l":[{"ext":"40","\u0065xt":"41"}]"#), twice),
        (header, with(r#""id":12345678901234567890123"#), long),
        (header, with(r#""o":[-9223372036854775809]"#), long),
    ] {
        assert_eq!(judge(&sign(header, &claims), &rules()).unwrap_err().reason(), reason, "{claims}");
    }
}

#[test]
fn what_is_not_three_parts_of_base64url_is_malformed() {
    let token = sign(r#"{"alg":"HS256"}"#, &good().to_string());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let long = format!("{token}{}", "A".repeat(MAX_TOKEN));
    for text in [
        "",
        ".",
        "..",
        message,
        &format!("{header}=.{claims}.{signature}"),
        &format!("{header}.{claims}.x.{signature}"),
        &format!(" {token}"),
        &format!("{header}.{claims}\n.{signature}"),
        &long,
    ] {
        assert_eq!(judge(text, &rules()).unwrap_err().reason(), "it is malformed", "{text}");
    }
    assert!(UnverifiedToken::read(b"\xff.\xff.\xff").is_err());
}

#[test]
fn every_other_signature_is_wrong() {
    let token = sign(r#"{"alg":"HS256"}"#, &good().to_string());
    let (message, signature) = token.rsplit_once('.').unwrap();
    // The last letter has unused bits, which must be zero: a token has one spelling.
    let (start, last) = signature.split_at(signature.len() - 1);
    let spare = char::from(last.as_bytes()[0] + 1);
    for other in ["", "AAAA", &format!("{signature}A"), &format!("{signature}="), &format!("{start}{spare}")] {
        let judged = judge(&format!("{message}.{other}"), &rules());
        assert_eq!(judged.unwrap_err().reason(), "its signature is wrong", "{other}");
    }
}

#[test]
fn narrowed_algorithms_hold() {
    let rules = TokenRules { algorithms: Some(vec![Algorithm::HS512]), ..rules() };
    let judged = judge(&sign(r#"{"alg":"HS256"}"#, &good().to_string()), &rules);
    assert_eq!(judged.unwrap_err().reason(), "its algorithm is not one of `algorithms`");
}

#[test]
fn a_token_does_not_print() {
    let token = sign(r#"{"alg":"HS256"}"#, &good().to_string());
    assert_eq!(format!("{:?}", UnverifiedToken::read(token.as_bytes()).unwrap()), "***");
    assert!(!format!("{:?}", VerificationKeys::of_secret(SECRET.as_bytes()).unwrap()).contains("48, 49"));
}

// === Keys ===

/// RFC 7515 appendices A.2 and A.3: the same claims, signed with RSA and on P-256.
const JOE: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RSA_HEADER: &str = "eyJhbGciOiJSUzI1NiJ9";
const RSA_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const RSA_MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const EC_HEADER: &str = "eyJhbGciOiJFUzI1NiJ9";
const EC_SIGNATURE: &str = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const EC_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const EC_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

fn rsa() -> Value {
    json!({ "kty": "RSA", "n": RSA_MODULUS, "e": "AQAB" })
}

fn ec() -> Value {
    json!({ "kty": "EC", "crv": "P-256", "x": EC_X, "y": EC_Y })
}

/// Adds members to a key, or replaces them.
fn with(mut key: Value, more: Value) -> Value {
    key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    key
}

fn set(keys: &[Value]) -> Result<(VerificationKeys, usize), JwtKeyError> {
    VerificationKeys::of_set(json!({ "keys": keys }).to_string().as_bytes())
}

fn joe(keys: &[Value], header: &str, signature: &str) -> Result<(), &'static str> {
    let rules = TokenRules { issuers: Some(vec!["joe".to_owned()]), audiences: None, ..rules() };
    let token = format!("{header}.{JOE}.{signature}");
    let proven = UnverifiedToken::read(token.as_bytes()).unwrap().prove(&set(keys).unwrap().0, &rules, NOW);
    proven.map(drop).map_err(TokenError::reason)
}

#[test]
fn the_signatures_of_the_standard_are_right() {
    assert_eq!(joe(&[rsa()], RSA_HEADER, RSA_SIGNATURE), Ok(()));
    assert_eq!(joe(&[ec()], EC_HEADER, EC_SIGNATURE), Ok(()));
    assert_eq!(joe(&[rsa(), ec()], EC_HEADER, EC_SIGNATURE), Ok(()));
    assert_eq!(joe(&[rsa()], EC_HEADER, EC_SIGNATURE), Err("its algorithm is not one of the key's"));
    assert_eq!(joe(&[ec()], RSA_HEADER, RSA_SIGNATURE), Err("its algorithm is not one of the key's"));
    assert_eq!(joe(&[rsa()], RSA_HEADER, EC_SIGNATURE), Err("its signature is wrong"));
}

#[test]
fn a_key_is_for_no_other_algorithm_than_it_says() {
    let only = |algorithm| with(rsa(), json!({ "alg": algorithm }));
    assert_eq!(joe(&[only("RS256")], RSA_HEADER, RSA_SIGNATURE), Ok(()));
    assert_eq!(joe(&[only("PS256")], RSA_HEADER, RSA_SIGNATURE), Err("its algorithm is not one of the key's"));
}

#[test]
fn an_id_leads_to_its_key_alone() {
    let named = |key, id| with(key, json!({ "kid": id }));
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"b"}"#);
    assert_eq!(joe(&[named(rsa(), "a")], &header, RSA_SIGNATURE), Err("its key is unknown"));
    assert_eq!(joe(&[named(rsa(), "b")], &header, RSA_SIGNATURE), Err("its signature is wrong"));
    let confused = [named(rsa(), "a"), named(ec(), "b")];
    assert_eq!(joe(&confused, &header, RSA_SIGNATURE), Err("its algorithm is not one of the key's"));
    // The header of the standard's token has no id: any key may fit.
    assert_eq!(joe(&confused, RSA_HEADER, RSA_SIGNATURE), Ok(()));
}

#[test]
fn keys_that_are_of_no_use_are_skipped() {
    let modulus = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
    for member in [
        with(rsa(), json!({ "use": "enc" })),
        with(rsa(), json!({ "key_ops": ["encrypt"] })),
        with(rsa(), json!({ "alg": "RSA-OAEP" })),
        with(rsa(), json!({ "alg": "HS256" })),
        with(rsa(), json!({ "alg": 1 })),
        with(rsa(), json!({ "d": "AQAB" })),
        with(rsa(), json!({ "n": modulus(255) })),
        with(rsa(), json!({ "n": modulus(1025) })),
        with(rsa(), json!({ "n": "" })),
        with(rsa(), json!({ "n": "not base64!" })),
        with(ec(), json!({ "crv": "P-521" })),
        with(ec(), json!({ "crv": "secp256k1" })),
        with(ec(), json!({ "x": "AQAB" })),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "AQAB" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": EC_X }),
        json!({ "kty": "oct", "k": EC_X, "alg": "HS256" }),
        json!({ "kty": "AKP" }),
        json!({ "kty": 1 }),
        json!(["RSA"]),
        with(ec(), json!({ "use": 1 })),
        with(ec(), json!({ "key_ops": "verify" })),
        with(ec(), json!({ "kid": 1 })),
        with(ec(), json!({ "crv": 1 })),
        with(ec(), json!({ "x": [EC_X] })),
        json!({}),
        json!("key"),
    ] {
        let (keys, skipped) = set(&[member.clone(), ec()]).unwrap();
        assert_eq!((keys.count(), skipped), (1, 1), "{member}");
        assert_eq!(set(std::slice::from_ref(&member)).unwrap_err(), JwtKeyError::NothingUsable, "{member}");
    }
    assert_eq!(set(&[with(rsa(), json!({ "n": modulus(256) }))]).unwrap().0.algorithms().len(), 6);
    let odd = json!({ "x5c": 1, "x5t": [], "x5u": {}, "exp": "soon", "iat": 1.5, "nbf": null, "ext": "yes" });
    assert_eq!(set(&[with(ec(), odd)]).unwrap().1, 0, "what nobody uses");
    let twice = [r#""kid":"a","kid":"b""#, r#""kty":"EC","crv":"P-256""#].map(|more| {
        let text = ec().to_string().replacen('{', &format!("{{{more},"), 1);
        VerificationKeys::of_set(format!("{{\"keys\":[{text},{}]}}", ec()).as_bytes()).unwrap()
    });
    assert!(twice.iter().all(|(keys, skipped)| (keys.count(), *skipped) == (1, 1)), "two readings");
}

#[test]
fn sets_are_bounded_and_have_a_form() {
    assert_eq!(set(&vec![ec(); 101]).unwrap_err(), JwtKeyError::TooMany);
    assert_eq!(set(&vec![ec(); 100]).unwrap().0.count(), 100);
    assert_eq!(set(&[]).unwrap_err(), JwtKeyError::NothingUsable);
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, "<html>"] {
        assert_eq!(VerificationKeys::of_set(text.as_bytes()).unwrap_err(), JwtKeyError::NoSet, "{text}");
    }
}

#[test]
fn a_secret_is_as_long_as_its_algorithm_needs() {
    let algorithms = |length| VerificationKeys::of_secret(&vec![b'x'; length]).map(|keys| keys.algorithms());
    use Algorithm::{HS256, HS384, HS512};
    assert_eq!(algorithms(31), Err(JwtKeyError::ShortSecret));
    assert_eq!(algorithms(32), Ok(vec![HS256]));
    assert_eq!(algorithms(48), Ok(vec![HS256, HS384]));
    assert_eq!(algorithms(64), Ok(vec![HS256, HS384, HS512]));
}

#[test]
fn a_file_has_public_keys_and_no_private_ones() {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    let pairs = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519]
        .map(|kind| KeyPair::generate_for(kind).unwrap());
    let text: String = pairs.iter().map(KeyPair::public_key_pem).collect();
    let keys = VerificationKeys::of_pem(text.as_bytes()).unwrap();
    assert_eq!(keys.algorithms(), [Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA]);
    let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&pairs[0]).unwrap();
    assert_eq!(VerificationKeys::of_pem(certificate.pem().as_bytes()).unwrap().algorithms(), [Algorithm::ES256]);
    let check =
        |text: &str, expected| assert_eq!(VerificationKeys::of_pem(text.as_bytes()).unwrap_err(), expected, "{text}");
    check(&format!("{text}{}", pairs[0].serialize_pem()), JwtKeyError::Private);
    check("", JwtKeyError::Nothing);
    check(SECRET, JwtKeyError::Nothing);
    check(&text[..text.len() - 10], JwtKeyError::Broken);
    check(&text.replace('M', "#"), JwtKeyError::Broken);
    check(&format!("{text}-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"), JwtKeyError::Other);
    check("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI ann@acme.test", JwtKeyError::Form(KeyFormat::Ssh));
    check("ecdsa-sha2-nistp256 AAAA", JwtKeyError::Form(KeyFormat::Ssh));
    check("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----\n", JwtKeyError::Form(KeyFormat::Ssh));
    check(" {\"keys\":[]}", JwtKeyError::Form(KeyFormat::Jwk));
    for kind in ["EC", "RSA", "ENCRYPTED", "OPENSSH", "DSA"] {
        let label = format!("{kind} PRIVATE KEY");
        check(&format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n"), JwtKeyError::Private);
    }
    let bytes = |bytes: &[u8], form| assert_eq!(VerificationKeys::of_pem(bytes).unwrap_err(), JwtKeyError::Form(form));
    bytes(pem::parse(pairs[0].public_key_pem()).unwrap().contents(), KeyFormat::Der);
    bytes(certificate.der(), KeyFormat::Der);
    bytes(b"\xff\xfe-\0-\0", KeyFormat::Utf16);
    // Additions of Windows and of people around the keys are ignored.
    let edited = format!("\u{feff}Our key:\r\n{}\r\n", text.replace('\n', "\r\n"));
    assert_eq!(VerificationKeys::of_pem(edited.as_bytes()).unwrap().count(), 3);
    check(&text.repeat(4), JwtKeyError::Unusable("there are more than 10"));
    let nonsense = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    check(nonsense, JwtKeyError::Unusable("it cannot be read"));
}

#[test]
fn a_key_of_rsa_may_be_written_as_pkcs_1() {
    // Two integers in a sequence (RFC 8017 §A.1.1).
    let modulus = URL_SAFE_NO_PAD.decode(RSA_MODULUS).unwrap();
    let der = [&[0x30, 0x82, 1, 10, 2, 0x82, 1, 1, 0], &*modulus, &[2, 3, 1, 0, 1]].concat();
    let text = pem::encode(&pem::Pem::new("RSA PUBLIC KEY", der));
    let keys = VerificationKeys::of_pem(text.as_bytes()).unwrap();
    let rules = TokenRules { issuers: Some(vec!["joe".to_owned()]), audiences: None, ..rules() };
    let token = format!("{RSA_HEADER}.{JOE}.{RSA_SIGNATURE}");
    assert_eq!(UnverifiedToken::read(token.as_bytes()).unwrap().prove(&keys, &rules, NOW).map(drop), Ok(()));
    let nonsense = text.replacen("MIIB", "AAAA", 1);
    assert_eq!(VerificationKeys::of_pem(nonsense.as_bytes()).unwrap_err(), JwtKeyError::Unusable("it cannot be read"));
}

#[test]
fn what_a_file_has_signs() {
    for (kind, algorithm) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, Algorithm::ES256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Algorithm::ES384),
        (&rcgen::PKCS_ED25519, Algorithm::EdDSA),
    ] {
        let [pair, other] = [(); 2].map(|()| rcgen::KeyPair::generate_for(kind).unwrap());
        let key = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_der(pair.serialized_der()),
            _ => EncodingKey::from_ec_der(pair.serialized_der()),
        };
        let token = encode(&Header::new(algorithm), &good(), &key).unwrap();
        let judge = |pair: &rcgen::KeyPair| {
            let keys = VerificationKeys::of_pem(pair.public_key_pem().as_bytes()).unwrap();
            UnverifiedToken::read(token.as_bytes()).unwrap().prove(&keys, &rules(), NOW).map(drop)
        };
        assert_eq!(judge(&pair), Ok(()), "{algorithm:?}");
        assert_eq!(judge(&other), Err(TokenError::Refused("its signature is wrong")), "{algorithm:?}");
    }
}
