//! One-time-key login of Voximplant: the computation behind `/auth/ott`, and the users file. Pure; without HTTP.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use md5::{Digest, Md5};

use super::digest::sha256;
use super::secret::Secret;

/// The realm of every HA1. It is the same for every node and domain of an account.
pub const REALM: &str = "voximplant.com";

/// The reason why a text is not a one-time key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OneTimeKeyError {
    /// A key has at least one byte.
    #[error("the key is empty")]
    Empty,
    /// A long key is refused, not cut.
    #[error("the key is too long")]
    TooLong,
    /// A byte outside 0x20–0x7e.
    #[error("the key has characters other than printable ASCII")]
    Characters,
}

/// The key that Voximplant gave to the SDK for one login.
pub struct OneTimeKey(String);

impl OneTimeKey {
    /// Reads 1 to `max_len` bytes of printable ASCII, without trimming.
    ///
    /// The bound keeps a caller from choosing a key that pushes the HA1 across an MD5 block.
    ///
    /// # Errors
    /// When the key is empty, longer than `max_len` bytes, or not printable ASCII.
    pub fn new(text: &str, max_len: usize) -> Result<Self, OneTimeKeyError> {
        if text.is_empty() {
            return Err(OneTimeKeyError::Empty);
        }
        if text.len() > max_len {
            return Err(OneTimeKeyError::TooLong);
        }
        if !text.bytes().all(|byte| matches!(byte, 0x20..=0x7e)) {
            return Err(OneTimeKeyError::Characters);
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the SHA-256 of the key. Distinct keys are counted by it, without storing them.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }
}

impl fmt::Debug for OneTimeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The text is not an HA1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 32 hex digits")]
pub struct NotHa1;

/// `MD5(user:voximplant.com:password)`. It is worth as much as the password itself.
#[derive(Clone)]
pub struct Ha1(Secret);

impl Ha1 {
    /// Computes the HA1 of a user and a password, neither of which is changed.
    #[must_use]
    pub fn of(user: &str, password: &str) -> Self {
        Self(Secret::new(md5_hex(&[user, ":", REALM, ":", password])))
    }

    /// Reads 32 hex digits of either case.
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_hex(text: &str) -> Result<Self, NotHa1> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits { Ok(Self(Secret::new(text.to_ascii_lowercase()))) } else { Err(NotHa1) }
    }

    /// Returns the 32 lower-case hex digits, for the code that writes the users file.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The answer to a one-time key: 32 lower-case hex digits, valid for one login.
pub struct LoginToken(String);

impl LoginToken {
    /// Returns the digits, for the answer.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LoginToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Computes the answer to a key: `MD5(key|HA1)`, with the HA1 as lower-case hex.
#[must_use]
pub fn login_token(key: &OneTimeKey, ha1: &Ha1) -> LoginToken {
    LoginToken(md5_hex(&[&key.0, "|", ha1.expose()]))
}

/// Returns an HA1 that belongs to no user, so that an unknown user takes the same time as a known one.
///
/// A token computed from it is never sent.
#[must_use]
pub fn decoy() -> Ha1 {
    Ha1(Secret::new("0".repeat(32)))
}

fn md5_hex(parts: &[&str]) -> String {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(part);
    }
    hex::encode(hasher.finalize())
}

/// The text is not a Voximplant user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a Voximplant user name is 3 to 50 of a-z, 0-9, _ and -, beginning with a letter or digit")]
pub struct NotAVoximplantUser;

/// A Voximplant user: its name, and `@myapp.myaccount` unless it belongs to the configured application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VoximplantUser(String);

impl VoximplantUser {
    /// Returns name and application.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name, without the application.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split('@').next().unwrap_or_default()
    }

    /// Returns the application; `None` when the text has none.
    #[must_use]
    pub fn application(&self) -> Option<&str> {
        Some(self.0.split_once('@')?.1)
    }
}

/// Tells whether a text can stand between the `@` and `.voximplant.com` of a login name: an application, its account,
/// and optionally the account's node.
#[must_use]
pub fn is_application(text: &str) -> bool {
    let label = |label: &str| {
        let spelled = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        !label.is_empty() && spelled
    };
    (2..=3).contains(&text.split('.').count()) && text.split('.').all(label) && !text.ends_with(".com")
}

impl FromStr for VoximplantUser {
    type Err = NotAVoximplantUser;

    /// Reads `[a-z0-9][a-z0-9_-]{2,49}`, optionally followed by `@myapp.myaccount`.
    fn from_str(text: &str) -> Result<Self, NotAVoximplantUser> {
        let (name, application) = text.split_once('@').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let valid = (3..=50).contains(&name.len()) && name.bytes().all(known) && !name.starts_with(['_', '-']);
        if valid && application.is_none_or(is_application) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAVoximplantUser)
        }
    }
}

impl fmt::Display for VoximplantUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === The users file ===

/// A problem of a users file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct UsersFault {
    /// The line, counted from 1.
    pub line: usize,
    /// The error and the remedy; never a hash.
    pub problem: String,
}

/// Reads a users file in the format of Apache's `htdigest`: one `user:voximplant.com:HA1` per line.
///
/// Blank lines and lines that begin with `#` are skipped; CRLF and a byte order mark are accepted.
///
/// # Errors
/// Every problem of the file, in the order of its lines.
pub fn parse_users(text: &str) -> Result<HashMap<String, Ha1>, Vec<UsersFault>> {
    let mut users = HashMap::new();
    let mut faults = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let problems = add_user(&mut users, line).err().unwrap_or_default();
        faults.extend(problems.into_iter().map(|problem| UsersFault { line: index + 1, problem }));
    }
    if faults.is_empty() { Ok(users) } else { Err(faults) }
}

/// Writes a user's line of a users file, without a newline.
#[must_use]
pub fn users_line(user: &VoximplantUser, password: &str) -> String {
    let name = user.name();
    format!("{name}:{REALM}:{}", Ha1::of(name, password).expose())
}

/// Adds the user of one line, or returns all its problems.
fn add_user(users: &mut HashMap<String, Ha1>, line: &str) -> Result<(), Vec<String>> {
    let fields: Vec<&str> = line.split(':').collect();
    let &[user, realm, ha1] = fields.as_slice() else {
        // The error does not quote the line: it may hold a password in place of a hash.
        return Err(vec![format!("expected three fields, user:{REALM}:HA1, found {}", fields.len())]);
    };
    let mut problems = Vec::new();
    if realm != REALM {
        problems.push(format!("the realm is {realm:?}, write {REALM}: htdigest FILE {REALM} USER"));
    }
    // A users file is for one application.
    let parsed =
        user.parse().and_then(|user: VoximplantUser| user.application().map_or(Ok(()), |_| Err(NotAVoximplantUser)));
    if let Err(error) = parsed {
        problems.push(format!("the user is {user:?}: {error}"));
    }
    if users.contains_key(user) {
        problems.push(format!("the user {user:?} has an earlier line"));
    }
    match Ha1::from_hex(ha1) {
        Ok(ha1) if problems.is_empty() => drop(users.insert(user.to_owned(), ha1)),
        Ok(_) => {}
        Err(error) => problems.push(format!("the HA1 is {error}")),
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const HA1: &str = "2b46f850be1e592abfbd5504b038ac33";
    const TOKEN: &str = "6f9b9c6a02563213f2f2c64b41302f7d";

    /// Computes a token for any key, also for one that `OneTimeKey::new` refuses.
    fn token(key: &str, ha1: &Ha1) -> String {
        login_token(&OneTimeKey(key.to_owned()), ha1).as_str().to_owned()
    }

    #[track_caller]
    fn check(key: &str, user: &str, password: &str, ha1: &str, expected: &str) {
        let computed = Ha1::of(user, password);
        assert_eq!(computed.expose(), ha1);
        assert_eq!(token(key, &computed), expected);
    }

    #[test]
    fn computes_the_tokens_voximplant_expects() {
        check(KEY, "myuser", "mypass", HA1, TOKEN);
        check(
            KEY,
            "vadim2",
            "337e1661-8429-430a-b359-e27ba91360da",
            "0d1b4aae7e388f745172210be3d30b41",
            "ff4957ebbb0433c59fb6080994f5a51b",
        );
        check(
            "3c2a7e1b9d4f4c55a0b1c2d3e4f50617",
            "agent_01-a",
            "Str0ng!Passw0rd",
            "2411cd635a041fefddde310f7e96d571",
            "968948cc3ab2ee8cdac3bb5e8089f2c8",
        );
        check(
            "k1",
            "bob",
            "a:b|c:voximplant.com:d",
            "7b985ba838c1c28fdce495046df59978",
            "79e3278d77e2d3f1567e5c5781561dc3",
        );
        check(
            "ZYXW-9876",
            "yamada",
            "密码Ab1!",
            "2e405c185bc95a54108faf51b7511ceb",
            "7709a6c9fb2d81c70b9ae680afb64fe6",
        );
        check("a b+c%2Fd", "myuser", "mypass", HA1, "74d66b07abf9da9668423babd77ae528");
        check(&"f".repeat(64), "myuser", "mypass", HA1, "20eaf301f6714844af7c263dbe767363");
    }

    #[test]
    fn takes_texts_as_utf8_without_normalising_them() {
        check(
            KEY,
            "myuser",
            "p\u{e4}ssw\u{f6}rt€",
            "af937f8f0381a5f58b99275570611821",
            "46ffa4cc81a7eda73d2ee69d17364a34",
        );
        check(
            KEY,
            "myuser",
            "pa\u{308}sswo\u{308}rt€",
            "e27d35ddaad8001159274594d0e886c8",
            "3710c75a699753387267d46ef6ab6b36",
        );
        check(KEY, "иван", "пароль1!A", "09b45a8ad5ad1a3fb8c9acfb18c384d8", "b326d5065e229334a992dd01104ff576");
        check(KEY, "myuser", "Pa55!😀", "6b290eddba23c408a58e7cc4edc5d7e1", "7ee8531df109175fae4440a10fa27725");
    }

    #[test]
    fn trims_nothing_and_folds_no_case() {
        check(KEY, "myuser", "", "3d7837cfe0ab865cc104a4529f33a596", "23ad9b028126ba52b92cfe5dc0f8f0f4");
        check("", "myuser", "mypass", HA1, "2addb9db51a3ca58ee3ef2f64a88bc94");
        check(KEY, "myuser", " mypass ", "601428ccdc2b790d6b3cdfcf10b2a4e4", "e923e2d320b17c1b42dbea3a4fd4656a");
        check(KEY, "MyUser", "mypass", "cd03cc75145c6f503576bdd5ac1cb68e", "da4e2d1c6d4d1d00a40dbdf5a07183a1");
    }

    /// A known bug gives exactly this wrong token, and callgate does not.
    #[track_caller]
    fn check_bug(wrong: &str, buggy: &str) {
        assert_eq!(buggy, wrong);
        assert_ne!(token(KEY, &Ha1::of("myuser", "mypass")), wrong);
    }

    /// Computes a token over an HA1 that was wrongly made from `text`.
    fn token_over(text: &str) -> String {
        md5_hex(&[KEY, "|", &md5_hex(&[text])])
    }

    #[test]
    fn has_none_of_the_known_bugs_of_other_programs() {
        check_bug(
            "c36cc4cfea6bb763a6a1de774f6080c3",
            &token_over("myuser@myapp.myaccount.voximplant.com:voximplant.com:mypass"),
        );
        check_bug("32e86f4f1fc4244c9861af779201cd13", &token_over("myuser:myapp.myaccount.voximplant.com:mypass"));
        check_bug("d2e73906c756af1eb83de46d62a96277", &token_over("myuser:n1.voximplant.com:mypass"));
        check_bug("73e1e4209174e8abfe3310ca8792ebd4", &token_over("myusermypass"));
        check_bug("7269b650d7baa238e109576107f822df", &md5_hex(&[KEY, "\\|", HA1]));
        check_bug("10c15a1ef0f1a85841ac8f51f76b4d0e", &md5_hex(&[KEY, "|", &HA1.to_ascii_uppercase()]));
        check_bug("33ce0f80c513a14ee131a12c12b92986", &md5_hex(&[KEY, "\n|", HA1]));
    }

    #[test]
    fn does_not_hash_the_raw_bytes_of_the_ha1() {
        let mut bytes = format!("{KEY}|").into_bytes();
        bytes.extend(hex::decode(HA1).unwrap());
        check_bug("664a1084dc61e33b43967b595b4b71a1", &hex::encode(Md5::digest(bytes)));
    }

    #[test]
    fn does_not_encode_passwords_as_latin_1() {
        let wrong = "47bddee0565878554be2e18036b0d75a";
        let latin: Vec<u8> =
            "myuser:voximplant.com:p\u{e4}ssw\u{f6}rt".chars().map(|c| u8::try_from(c).unwrap()).collect();
        assert_eq!(md5_hex(&[KEY, "|", &hex::encode(Md5::digest(latin))]), wrong);
        let right = token(KEY, &Ha1::of("myuser", "p\u{e4}ssw\u{f6}rt"));
        assert_eq!(right, "b9710cec1277e1d9cd139d8647f1cadb");
        assert_ne!(right, wrong);
    }

    #[test]
    fn the_token_is_never_the_ha1() {
        assert!(!token(KEY, &Ha1::of("myuser", "mypass")).contains(HA1));
    }

    #[test]
    fn keys_are_printable_ascii_of_limited_length() {
        let new = |text: &str| OneTimeKey::new(text, 95).map(|key| key.0);
        for text in ["k", " k ", "a b+c%2Fd", "~", "\"\\|", &"f".repeat(95)] {
            assert_eq!(new(text).as_deref(), Ok(text));
        }
        assert_eq!(new(""), Err(OneTimeKeyError::Empty));
        assert_eq!(new(&"f".repeat(96)), Err(OneTimeKeyError::TooLong));
        assert_eq!(OneTimeKey::new("abc", 2).map(|key| key.0), Err(OneTimeKeyError::TooLong));
        for text in ["k\n", "\tk", "k\0", "k\x7f", "ключ", "k\u{a0}"] {
            assert_eq!(new(text), Err(OneTimeKeyError::Characters), "{text:?}");
        }
    }

    #[test]
    fn the_id_of_a_key_is_its_sha_256() {
        let id = OneTimeKey::new("abc", 95).unwrap().id();
        assert_eq!(hex::encode(id), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn an_ha1_is_32_hex_digits() {
        for text in [HA1, &HA1.to_ascii_uppercase()] {
            assert_eq!(Ha1::from_hex(text).unwrap().expose(), HA1);
        }
        for text in ["", "mypass", &HA1[1..], &format!("{HA1}0"), &format!(" {}", &HA1[1..]), &HA1.replace('f', "g")] {
            assert!(Ha1::from_hex(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_decoy_makes_a_token_of_full_length() {
        assert_eq!(token(KEY, &decoy()).len(), 32);
        assert_eq!(decoy().expose().len(), HA1.len());
    }

    #[test]
    fn user_names_follow_the_grammar() {
        for text in ["ann", "0a-", "agent_01-a", &"a".repeat(50)] {
            assert_eq!(text.parse::<VoximplantUser>().unwrap().as_str(), text);
        }
        for text in
            ["", "an", "Ann", "_ann", "-ann", "an:n", "an|n", "ann@app", "ann ", "änn", "ann\0", &"a".repeat(51)]
        {
            assert_eq!(text.parse::<VoximplantUser>(), Err(NotAVoximplantUser), "{text:?}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let (key, ha1) = (OneTimeKey::new(KEY, 95).unwrap(), Ha1::of("myuser", "mypass"));
        let token = login_token(&key, &ha1);
        assert_eq!(format!("{key:?} {ha1:?} {token:?}"), "*** *** ***");
    }

    #[test]
    fn reads_what_htdigest_writes() {
        let text = format!(
            "\u{feff}ann:voximplant.com:{HA1}\r\n\r\n# bob left\n  \nbob:voximplant.com:{}",
            HA1.to_ascii_uppercase()
        );
        let users = parse_users(&text).unwrap();
        assert_eq!(users.len(), 2);
        assert_eq!(users["ann"].expose(), HA1);
        assert_eq!(users["bob"].expose(), HA1);
        assert!(parse_users("").unwrap().is_empty());
    }

    #[test]
    fn reads_back_the_line_it_writes() {
        let line = users_line(&"myuser".parse().unwrap(), "mypass");
        assert_eq!(line, format!("myuser:voximplant.com:{HA1}"));
        assert_eq!(parse_users(&line).unwrap()["myuser"].expose(), HA1);
    }

    #[track_caller]
    fn check_faults(text: &str, expected: &[(usize, &str)]) {
        let faults = parse_users(text).unwrap_err();
        let found: Vec<_> = faults.iter().map(|fault| (fault.line, fault.problem.as_str())).collect();
        assert_eq!(found, expected);
    }

    const GRAMMAR: &str = "a Voximplant user name is 3 to 50 of a-z, 0-9, _ and -, beginning with a letter or digit";

    #[test]
    fn tells_what_is_wrong_with_a_line() {
        check_faults("ann:mypass", &[(1, "expected three fields, user:voximplant.com:HA1, found 2")]);
        check_faults(
            &format!("ann:example.com:{HA1}"),
            &[(1, "the realm is \"example.com\", write voximplant.com: htdigest FILE voximplant.com USER")],
        );
        check_faults("\n\nann:voximplant.com:mypass", &[(3, "the HA1 is not 32 hex digits")]);
        check_faults(&format!("Ann:voximplant.com:{HA1}"), &[(1, &format!("the user is \"Ann\": {GRAMMAR}"))]);
    }

    #[test]
    fn refuses_a_second_line_of_one_user() {
        let line = format!("ann:voximplant.com:{HA1}");
        check_faults(&format!("{line}\n{line}\n"), &[(2, "the user \"ann\" has an earlier line")]);
    }

    #[test]
    fn gathers_every_problem_of_the_file() {
        check_faults(
            &format!(":x:y\n# fine\nann:voximplant.com:{HA1}\nhello\n"),
            &[
                (1, "the realm is \"x\", write voximplant.com: htdigest FILE voximplant.com USER"),
                (1, &format!("the user is \"\": {GRAMMAR}")),
                (1, "the HA1 is not 32 hex digits"),
                (4, "expected three fields, user:voximplant.com:HA1, found 1"),
            ],
        );
    }
}
