//! `[pbx]` and its shield.

use super::*;

#[test]
fn the_landing_page_follows_the_handoff() {
    let landing = |tail: &str| {
        let pbx = accepted(&format!("{TOP}[pbx]\nurl = \"http://a\"\n{tail}")).pbx.unwrap();
        (pbx.handoff, pbx.landing)
    };
    assert_eq!(landing(""), (Handoff::Link, "/welcome.htm".to_owned()));
    assert_eq!(landing("handoff = \"cookie\""), (Handoff::Cookie, "/thirdparty.htm".to_owned()));
    assert_eq!(landing("handoff = \"cookie\"\nlanding = \"/x.htm\""), (Handoff::Cookie, "/x.htm".to_owned()));
    check("[pbx]\nurl = \"http://a\"\nhandoff = \"link \"", "5:11: `pbx.handoff`: unknown word `link `");
    check("[pbx]\nurl = \"http://a\"\nlanding = \"welcome.htm\"", "5:11: `pbx.landing`: does not start with a slash");
    check(
        "[pbx]\nurl = \"http://a\"\nlanguages = [\"en\", \"EN\"]",
        "5:20: `pbx.languages`: not a language of the PBX",
    );
    check("[pbx]\nurl = \"http://a\"\nwhoami = \"/\"", "5:1: unknown key `pbx.whoami`");
}

#[test]
fn a_shield_is_read_strictly() {
    let pbx = |shield: &str| format!("{TOP}[pbx]\nurl = \"http://127.0.0.1\"\nshield = {{ {shield} }}");
    for (shield, expected) in [
        ("", "5:10: `pbx.shield.from` is missing"),
        ("from = [\"0.0.0.0/0\"]", "5:19: `pbx.shield.from`: covers all addresses: the shield would have no effect"),
        (
            "from = [\"::/1\", \"8000::/1\"]",
            "5:19: `pbx.shield.from`: covers all addresses: the shield would have no effect",
        ),
        ("from = [\"10.0.0.1/8\"]", "5:20: `pbx.shield.from`: has bits set behind its prefix"),
        ("from = [], admin_paths = [\"/\"]", "5:38: `pbx.shield.admin_paths`: is every path"),
        ("from = [], open_paths = [\"/a/../b\"]", "5:37: `pbx.shield.open_paths`: must be in its canonical spelling"),
        (
            "from = [], sessions = \"ours\"",
            "5:34: `pbx.shield.sessions`: callgate opens no sessions, so it would refuse every landing",
        ),
        ("from = [], form = 1", "5:23: unknown key `pbx.shield.form`"),
    ] {
        check_text(&pbx(shield), &[expected]);
    }
    let shield = accepted(&pbx("from = [\"10.0.0.0/8\"], admin_paths = [\"/Reg_\"]")).pbx.unwrap().shield.unwrap();
    assert_eq!((shield.protected.admin, shield.any_session), (vec!["/reg_".to_owned()], true));
    let admin = "from = []}\nadmin = { user = \"sso\", password = { env = \"PBX_ADMIN_PASSWORD\" }";
    assert!(!accepted(&pbx(admin)).pbx.unwrap().shield.unwrap().any_session);
}
