use super::*;
use crate::model::account;

/// A rule for any method, with `account` and `domain` templates of the PBX and a `voximplant` template.
fn rule(name: &str, account: &str, domain: &str, voximplant: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        methods: None,
        when: When::default(),
        table: None,
        choose: None,
        pbx: Some(PbxTemplate::User { domain: domain.parse().unwrap(), account: account.parse().unwrap() }),
        voximplant: Some(voximplant.parse().unwrap()),
        languages: Some(vec!["fr".parse().unwrap()]),
    }
}

fn noon() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn usual() -> Rule {
    rule("usual", "{ext}", "{tenant}.test", "{vox}")
}

fn only(methods: &[&str], rule: Rule) -> Rule {
    Rule { methods: Some(methods.iter().map(|&name| name.to_owned()).collect()), ..rule }
}

#[test]
fn knows_the_claims_that_rules_use() {
    let rules = [
        usual(),
        only(&["sso"], rule("sso", "{ext}", "acme.test", "{email|before:@}")),
        only(&["app"], rule("app", "{app}", "acme.test", "ann")),
    ];
    assert_eq!(claims_used(&rules, "sso"), ["account", "email", "email_verified", "ext", "tenant", "vox"]);
    assert_eq!(claims_used(&rules, "app"), ["account", "app", "ext", "tenant", "vox"]);
    assert_eq!(claims_used(&rules[1..], "other"), ["account"]);
}

fn principal(method: &str, claims: &[(&str, &str)]) -> Principal {
    Principal {
        method: method.to_owned(),
        subject: "ann".to_owned(),
        claims: claims.iter().map(|&(name, value)| (name.to_owned(), value.into())).collect(),
    }
}

fn ann() -> Principal {
    principal("app", &[("ext", "40"), ("tenant", "Acme"), ("vox", "ann")])
}

fn requested(account: Option<&str>, domain: Option<&str>, user: Option<&str>) -> Requested {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Requested { account: owned(account), domain: owned(domain), user: owned(user) }
}

/// Returns the rule and the account of a grant, or the text of the error.
fn pbx_outcome(rules: &[Rule], principal: &Principal, requested: &Requested) -> Result<String, String> {
    pbx(rules, principal, requested, noon())
        .outcome
        .map(|grant| format!("{}: {}", grant.rule(), grant.role()))
        .map_err(|refusal| refusal.to_string())
}

fn ott_outcome(rules: &[Rule], principal: &Principal, requested: &Requested) -> Result<String, String> {
    voximplant(rules, principal, requested, noon())
        .outcome
        .map(|grant| format!("{}: {}", grant.rule(), grant.user()))
        .map_err(|refusal| refusal.to_string())
}

#[track_caller]
fn check(rules: &[Rule], principal: &Principal, expected_pbx: Result<&str, &str>, expected_ott: Result<&str, &str>) {
    let outcome = pbx_outcome(rules, principal, &Requested::default());
    assert_eq!(outcome.as_deref().map_err(String::as_str), expected_pbx);
    let outcome = ott_outcome(rules, principal, &Requested::default());
    assert_eq!(outcome.as_deref().map_err(String::as_str), expected_ott);
}

const NONE: Result<&str, &str> = Err("no rule applies");

#[test]
fn grants_what_the_rule_renders() {
    check(&[usual()], &ann(), Ok("usual: 40@acme.test"), Ok("usual: ann"));
    let grant = pbx(&[usual()], &ann(), &Requested::default(), noon()).outcome.unwrap();
    assert_eq!(grant.languages().unwrap()[0].as_str(), "fr");
}

#[test]
fn no_rule_means_no_login() {
    check(&[], &ann(), NONE, NONE);
    check(&[usual()], &principal("app", &[]), NONE, NONE);
    check(&[Rule { pbx: None, voximplant: None, ..usual() }], &ann(), NONE, NONE);
}

#[test]
fn the_first_rule_that_applies_decides() {
    let first = rule("first", "{staff}", "staff.test", "{staff}");
    let rules = [first, usual(), rule("last", "99", "other.test", "nobody")];
    check(&rules, &ann(), Ok("usual: 40@acme.test"), Ok("usual: ann"));
    let staff = principal("app", &[("ext", "40"), ("tenant", "acme"), ("staff", "sue")]);
    check(&rules, &staff, Ok("first: sue@staff.test"), Ok("first: sue"));
}

#[test]
fn each_side_is_decided_by_a_rule_that_has_it() {
    let rules = [Rule { voximplant: None, ..rule("pbx", "{ext}", "a.test", "") }, Rule { pbx: None, ..usual() }];
    check(&rules, &ann(), Ok("pbx: 40@a.test"), Ok("usual: ann"));
}

#[test]
fn a_rule_applies_to_the_methods_it_names() {
    let rules = [only(&["key", "jwt"], rule("machines", "1", "a.test", "machine")), usual()];
    check(&rules, &ann(), Ok("usual: 40@acme.test"), Ok("usual: ann"));
    check(&rules, &principal("jwt", &[]), Ok("machines: 1@a.test"), Ok("machines: machine"));
    check(&[only(&[], usual())], &ann(), NONE, NONE);
    check(&[only(&["App"], usual())], &ann(), NONE, NONE);
}

#[test]
fn redirects_need_a_rule_that_names_them() {
    let redirect = principal(REDIRECT, &[("ext", "40"), ("tenant", "acme"), ("vox", "ann")]);
    check(&[usual()], &redirect, NONE, NONE);
    check(&[only(&[REDIRECT], usual())], &redirect, Ok("usual: 40@acme.test"), Ok("usual: ann"));
    check(&[only(&[REDIRECT], usual())], &ann(), NONE, NONE);
}

#[test]
fn a_result_outside_the_grammar_is_refused_and_no_later_rule_asked() {
    let rules = [rule("first", "{ext}", "{tenant}", "{vox}"), rule("last", "40", "acme.test", "ann")];
    let bad = principal("app", &[("ext", "4 0"), ("tenant", "acme"), ("vox", "Ann")]);
    check(
        &rules,
        &bad,
        Err("rule \"first\": not of the form the PBX knows"),
        Err("rule \"first\": a Voximplant user name is 3 to 50 of a-z, 0-9, _ and -, beginning with a letter or digit"),
    );
    for domain in ["", "a/b", "acme.test:1", "acme..test", "acme.test\0"] {
        let bad = principal("app", &[("ext", "40"), ("tenant", domain)]);
        let what = GrantError::Invalid { rule: "first".to_owned(), what: RuleError::Domain };
        assert_eq!(pbx(&rules, &bad, &Requested::default(), noon()).outcome.unwrap_err(), what, "{domain:?}");
    }
}

#[track_caller]
fn check_wish(account: Option<&str>, domain: Option<&str>, granted: bool) {
    let foreign = Err("rule \"usual\" grants something else than was asked for");
    let outcome = pbx_outcome(&[usual()], &ann(), &requested(account, domain, None));
    let expected = if granted { Ok("usual: 40@acme.test") } else { foreign };
    assert_eq!(outcome.as_deref().map_err(String::as_str), expected);
}

#[test]
fn a_wish_selects_only_what_is_granted() {
    check_wish(None, None, true);
    check_wish(Some("40"), None, true);
    check_wish(Some("40"), Some("acme.test"), true);
    check_wish(None, Some("ACME.Test"), true);
    for account in ["41", "", "040", "40 ", " 40", "40\0", "admin", "４０"] {
        check_wish(Some(account), None, false);
    }
    for domain in ["other.test", "", "acme.test.", " acme.test"] {
        check_wish(Some("40"), Some(domain), false);
    }
}

#[test]
fn the_case_of_a_wished_account_matters() {
    let rules = [rule("usual", "Ann", "acme.test", "")];
    assert!(pbx(&rules, &ann(), &requested(Some("Ann"), None, None), noon()).outcome.is_ok());
    assert!(pbx(&rules, &ann(), &requested(Some("ann"), None, None), noon()).outcome.is_err());
}

#[test]
fn a_wished_voximplant_user_must_be_the_granted_one() {
    let outcome = |user| ott_outcome(&[usual()], &ann(), &requested(None, None, Some(user)));
    assert_eq!(outcome("ann"), Ok("usual: ann".to_owned()));
    for user in ["bob", "", "Ann", "ann ", "ann@app"] {
        assert!(outcome(user).is_err(), "{user:?}");
    }
}

#[test]
fn a_foreign_wish_is_not_granted_by_a_later_rule() {
    let rules = [usual(), rule("last", "41", "acme.test", "bob")];
    assert!(pbx(&rules, &ann(), &requested(Some("41"), None, None), noon()).outcome.is_err());
    assert!(voximplant(&rules, &ann(), &requested(None, None, Some("bob")), noon()).outcome.is_err());
}

// === Levels ===

fn domain_admin(name: &str) -> Rule {
    Rule { pbx: Some(PbxTemplate::TenantAdmin { domain: "{tenant}.test".parse().unwrap() }), ..rule(name, "", "", "") }
}

#[test]
fn only_a_rule_with_that_level_makes_an_administrator() {
    let system = PbxTemplate::SystemAdmin { domain: "{tenant}.test".parse().unwrap() };
    for (rule, level) in [
        (usual(), AdminLevel::User),
        (domain_admin("tenant"), AdminLevel::Domain),
        (Rule { pbx: Some(system), ..usual() }, AdminLevel::Admin),
    ] {
        let grant = pbx(&[rule], &ann(), &Requested::default(), noon()).outcome.unwrap();
        assert_eq!((grant.role().level(), grant.role().domain().as_str()), (level, "acme.test"));
    }
}

#[test]
fn no_wish_raises_the_level() {
    let rules = [usual(), domain_admin("tenant")];
    for account in ["admin", "", "ADMIN", "40", "*", "domain"] {
        let outcome = pbx_outcome(&rules, &ann(), &requested(Some(account), None, None));
        let expected = if account == "40" { Ok("usual: 40@acme.test") } else { Err(()) };
        assert_eq!(outcome.as_deref().map_err(|_| ()), expected, "{account}");
    }
}

#[test]
fn a_wish_for_an_account_is_none_for_an_administrator() {
    let rules = [domain_admin("tenant")];
    for account in ["admin", "", "40"] {
        let outcome = pbx_outcome(&rules, &ann(), &requested(Some(account), None, None));
        assert_eq!(outcome, Err("rule \"tenant\" grants something else than was asked for".to_owned()), "{account}");
    }
    assert!(pbx(&rules, &ann(), &requested(None, Some("Acme.test"), None), noon()).outcome.is_ok());
    assert!(pbx(&rules, &ann(), &requested(None, Some("other.test"), None), noon()).outcome.is_err());
}

#[test]
fn a_credential_for_an_account_makes_no_administrator() {
    let named = principal("link", &[("account", "40"), ("tenant", "acme")]);
    let rules = [domain_admin("tenant")];
    let decision = pbx(&rules, &named, &Requested::default(), noon());
    assert_eq!(
        (decision.skipped[0].why, decision.outcome.unwrap_err()),
        (SkipReason::NamesAccount, GrantError::NoRule)
    );
}

#[test]
fn an_administrator_of_no_domain_is_refused() {
    for domain in ["", "a b", "a/b", "\0"] {
        let rules = [Rule { pbx: Some(PbxTemplate::TenantAdmin { domain: "{tenant}".parse().unwrap() }), ..usual() }];
        let outcome = pbx_outcome(&rules, &principal("app", &[("tenant", domain)]), &Requested::default());
        assert_eq!(outcome, Err("rule \"usual\": the domain is not a host name".to_owned()), "{domain:?}");
    }
}

// === Tables and choices ===

fn list(items: &[&str]) -> Claim {
    Claim::List(items.iter().map(|item| (*item).to_owned()).collect())
}

/// Returns Ann, whose accounts are a list.
fn ann_of(exts: &[&str]) -> Principal {
    let mut ann = ann();
    ann.claims.insert("exts".to_owned(), list(exts));
    ann
}

fn many(choose: Option<Choose>) -> Rule {
    Rule { choose, ..rule("many", "{exts}", "{tenant}.test", "ann-{exts}") }
}

/// Checks the rule and the account, the accounts to choose from, or the text of the error.
#[track_caller]
fn check_choice(rule: &Rule, caller: &Principal, wished: Option<&str>, expected: &str) {
    let found = match pbx(std::slice::from_ref(rule), caller, &requested(wished, None, None), noon()).outcome {
        Ok(grant) => grant.role().to_string(),
        Err(GrantError::Choose { among, .. }) => {
            let shown = among.iter().map(|requested| {
                format!("{}@{}", requested.account.as_deref().unwrap(), requested.domain.as_deref().unwrap())
            });
            format!("choose {}", shown.collect::<Vec<_>>().join(" "))
        }
        Err(refusal) => refusal.to_string(),
    };
    assert_eq!(found, expected, "{wished:?}");
}

#[test]
fn a_list_is_rendered_only_by_a_rule_that_says_how_to_choose() {
    check_choice(&many(None), &ann_of(&["40"]), None, "no rule applies");
    check_choice(&many(Some(Choose::First)), &ann_of(&["40"]), None, "40@acme.test");
    check_choice(&many(Some(Choose::Ask)), &ann_of(&["40"]), None, "40@acme.test");
}

#[test]
fn of_several_accounts_the_first_is_taken_or_the_caller_asked() {
    let ann = ann_of(&["40", "41", "40"]);
    check_choice(&many(Some(Choose::First)), &ann, None, "40@acme.test");
    check_choice(&many(Some(Choose::Ask)), &ann, None, "choose 40@acme.test 41@acme.test");
    for choose in [Choose::First, Choose::Ask] {
        check_choice(&many(Some(choose)), &ann, Some("41"), "41@acme.test");
        check_choice(&many(Some(choose)), &ann, Some("42"), "rule \"many\" grants something else than was asked for");
    }
    let token =
        voximplant(&[many(Some(Choose::Ask))], &ann, &requested(None, None, Some("ann-41")), noon()).outcome.unwrap();
    assert_eq!(token.user().as_str(), "ann-41");
    let several = voximplant(&[many(Some(Choose::Ask))], &ann, &Requested::default(), noon()).outcome.unwrap_err();
    let among = ["ann-40", "ann-41"].map(|user| requested(None, None, Some(user))).to_vec();
    assert_eq!(several, GrantError::Choose { rule: "many".to_owned(), among });
}

#[test]
fn one_bad_item_spoils_the_list() {
    for bad in ["", "admin", "4 0", "40\0"] {
        for exts in [[bad, "41"], ["41", bad]] {
            let refused =
                pbx(&[many(Some(Choose::First))], &ann_of(&exts), &requested(Some("41"), None, None), noon()).outcome;
            assert!(matches!(refused, Err(GrantError::Invalid { .. })), "{exts:?}");
        }
    }
}

#[test]
fn what_nobody_could_choose_from_is_refused() {
    let first = many(Some(Choose::First));
    let too_many: Vec<_> = (0..=MAX_CHOICES).map(|number| number.to_string()).collect();
    let too_many: Vec<_> = too_many.iter().map(String::as_str).collect();
    check_choice(&first, &ann_of(&too_many), None, "rule \"many\": more than 64 accounts");
    check_choice(&first, &ann_of(&too_many[1..]), None, "1@acme.test");
    check_choice(&first, &ann_of(&[]), None, "no rule applies");
    let mut two = ann_of(&["40", "41"]);
    two.claims.insert("tenant".to_owned(), list(&["acme", "other"]));
    check_choice(&first, &two, None, "rule \"many\": two of the claims are lists");
}

/// A rule with a table of mail addresses.
fn listed(rows: &[(&str, &str)], choose: Option<Choose>) -> Rule {
    let mut table = LookupTable::new(vec!["ext".to_owned()]);
    for (key, ext) in rows {
        table.add((*key).to_owned(), vec![(*ext).to_owned()]);
    }
    let lookup = Lookup { table: Arc::new(table), key: "{mail|lower}".parse().unwrap() };
    Rule { table: Some(lookup), choose, ..rule("listed", "{row.ext}", "acme.test", "") }
}

#[test]
fn a_table_says_what_the_claims_do_not() {
    let rows = [("ann@a.test", "40"), ("bob@a.test", "admin"), ("cid@a.test", ""), ("dee@a.test", "4 0")];
    let mail = |mail: &str| principal("app", &[("mail", mail), ("row.ext", "99")]);
    let rule = listed(&rows, None);
    check_choice(&rule, &mail("Ann@a.test"), None, "40@acme.test");
    check_choice(&rule, &mail("eve@a.test"), None, "no rule applies");
    check_choice(&rule, &principal("app", &[]), None, "no rule applies");
    check_choice(&rule, &mail("bob@a.test"), None, "rule \"listed\": the account is the administrator's");
    check_choice(&rule, &mail("dee@a.test"), None, "rule \"listed\": not of the form the PBX knows");
    let empty = "rule \"listed\": the account is empty, which the PBX reads as the tenant administrator";
    check_choice(&rule, &mail("cid@a.test"), None, empty);
    let decision = pbx(std::slice::from_ref(&rule), &mail("eve@a.test"), &Requested::default(), noon()).skipped[0].why;
    assert_eq!(decision, SkipReason::NoRow);
}

#[test]
fn several_rows_are_several_accounts() {
    let rows = [("ann@a.test", "40"), ("ann@a.test", "41")];
    let ann = principal("app", &[("mail", "ann@a.test")]);
    check_choice(&listed(&rows, None), &ann, None, "rule \"listed\": several accounts, and no `choose`");
    check_choice(&listed(&rows, None), &ann, Some("41"), "rule \"listed\": several accounts, and no `choose`");
    check_choice(&listed(&rows, Some(Choose::First)), &ann, None, "40@acme.test");
    check_choice(&listed(&rows, Some(Choose::Ask)), &ann, None, "choose 40@acme.test 41@acme.test");
    check_choice(&listed(&rows, Some(Choose::Ask)), &ann, Some("41"), "41@acme.test");
}

#[test]
fn a_list_may_be_looked_up() {
    let rows = [("ann@a.test", "40"), ("ann@b.test", "41")];
    let mut ann = principal("app", &[]);
    ann.claims.insert("mail".to_owned(), list(&["none@a.test", "ann@b.test", "Ann@a.test"]));
    check_choice(&listed(&rows, Some(Choose::Ask)), &ann, None, "choose 41@acme.test 40@acme.test");
    check_choice(&listed(&rows, None), &ann, None, "no rule applies");
}

#[test]
fn a_rule_applies_when_its_conditions_hold() {
    let staff = |wanted: &str| When {
        conditions: vec![super::super::condition::Condition {
            claim: "tenant".to_owned(),
            wanted: vec![wanted.parse().unwrap()],
        }],
        hours: Vec::new(),
    };
    let rules = [Rule { when: staff("other"), ..rule("first", "1", "a.test", "x") }, usual()];
    let decision = pbx(&rules, &ann(), &Requested::default(), noon());
    assert_eq!(skipped(&decision), ["first: the claim \"tenant\" does not say \"other\""]);
    assert_eq!(decision.outcome.unwrap().rule(), "usual");
    let rules = [Rule { when: staff("Acme"), ..rule("first", "1", "a.test", "abc") }, usual()];
    check(&rules, &ann(), Ok("first: 1@a.test"), Ok("first: abc"));
}

#[test]
fn tells_the_claims_that_decide() {
    let rule = Rule { when: When::default(), ..listed(&[("a", "1")], None) };
    assert_eq!(rule.pbx_claims().into_iter().collect::<Vec<_>>(), ["mail"]);
    let beside = Rule { voximplant: Some("{vox}{row.ext}".parse().unwrap()), ..rule };
    assert_eq!(beside.voximplant_claims().into_iter().collect::<Vec<_>>(), ["mail", "vox"]);
    // Without a table, a claim may have the name of a column.
    let bare = self::rule("bare", "{row.ext}", "acme.test", "");
    assert_eq!(bare.pbx_claims().into_iter().collect::<Vec<_>>(), ["row.ext"]);
    assert_eq!(usual().pbx_claims().into_iter().collect::<Vec<_>>(), ["ext", "tenant"]);
    assert_eq!(usual().voximplant_claims().into_iter().collect::<Vec<_>>(), ["vox"]);
}

/// Returns the skipped rules as `name: reason` lines.
fn skipped<G>(decision: &Decision<'_, G>) -> Vec<String> {
    decision.skipped.iter().map(|skipped| format!("{}: {}", skipped.rule, skipped.why)).collect()
}

#[test]
fn tells_why_rules_do_not_apply() {
    let rules = [
        only(&["jwt"], rule("machines", "1", "a.test", "machine")),
        Rule { pbx: None, ..rule("phones", "", "", "{phone}") },
        rule("managers", "{desk}", "a.test", "{mail|before:@}"),
        usual(),
        rule("last", "1", "a.test", "x"),
    ];
    let ann = principal("app", &[("ext", "40"), ("tenant", "acme"), ("vox", "ann"), ("mail", "ann")]);
    let decision = pbx(&rules, &ann, &Requested::default(), noon());
    assert_eq!(
        skipped(&decision),
        [
            "machines: it is not for this auth method",
            "phones: it grants nothing of the kind that is asked for",
            "managers: there is no claim \"desk\"",
        ]
    );
    assert_eq!(decision.outcome.unwrap().rule(), "usual");
    let decision = voximplant(&rules, &ann, &Requested::default(), noon());
    assert_eq!(
        skipped(&decision),
        [
            "machines: it is not for this auth method",
            "phones: there is no claim \"phone\"",
            "managers: the claim \"mail\" has no \"@\" in it",
        ]
    );
    assert_eq!(decision.outcome.unwrap().rule(), "usual");
    let decision = pbx(&rules[..3], &ann, &Requested::default(), noon());
    assert_eq!((decision.skipped.len(), decision.outcome.unwrap_err()), (3, GrantError::NoRule));
}

/// Whatever a claim holds, no grant is for the tenant administrator (an empty name) or `admin`.
#[test]
fn nobody_becomes_an_administrator() {
    let hostile = [
        "",
        " ",
        "\0",
        "\t",
        "\r\n",
        "\u{a0}",
        "\u{200b}",
        "\u{feff}",
        "\u{3000}",
        "admin",
        "ADMIN",
        "Admin",
        "aDmIn",
        " admin",
        "admin ",
        "admin\0",
        "\0admin",
        "admin\n",
        "\tadmin",
        "\u{feff}admin",
        "ad\u{ad}min",
        "admin\u{200b}",
        "admin\u{301}",
        "\u{430}dmin",
        "adm\u{131}n",
        "ADM\u{130}N",
        "\u{ff41}\u{ff44}\u{ff4d}\u{ff49}\u{ff4e}",
        "\u{1d41a}dmin",
        "\u{202e}nimda",
        "admin\"",
        "\",\"admin\":true,\"x\":\"",
        "@acme",
        "admin@acme",
        "ADMIN@acme",
        " admin@acme",
        "\0@acme",
        "@",
        "a@admin",
        "a@",
        "a@\0",
        "{ext}",
        "%61dmin",
        "admin%00",
        "&#97;dmin",
    ];
    let templates = [
        "{ext}",
        "{ext|lower}",
        "{ext|before:@}",
        "{ext|before:@|lower}",
        "{ext|after:@}",
        "{ext|after:@|lower}",
        "{ext|before:\0}",
        "{ext|after:\0}",
        "{ext|before: }",
        "{ext|after: }",
        "",
        "admin",
        "AdMiN",
        " ",
    ];
    for template in templates {
        let rules = [rule("hostile", template, "acme.test", "")];
        for value in hostile {
            let granted = pbx(&rules, &principal("app", &[("ext", value)]), &Requested::default(), noon()).outcome;
            if let Ok(grant) = granted {
                let user = grant.role().user().unwrap();
                let bare: String = user.chars().filter(char::is_ascii_alphanumeric).collect();
                assert!(!bare.is_empty() && !bare.eq_ignore_ascii_case("admin"), "{template:?} of {value:?}: {user:?}");
            }
        }
    }
}

#[test]
fn nobody_becomes_an_administrator_by_parts() {
    let parts = principal("app", &[("a", "ad"), ("b", "MIN"), ("none", "")]);
    for (template, what) in [
        ("{a}{b}", account::AccountError::Admin),
        ("{none}admin{none}", account::AccountError::Admin),
        ("{none}{none}", account::AccountError::Empty),
        ("{none}", account::AccountError::Empty),
    ] {
        let refusal = pbx(&[rule("parts", template, "acme.test", "")], &parts, &Requested::default(), noon())
            .outcome
            .unwrap_err();
        assert_eq!(
            refusal,
            GrantError::Invalid { rule: "parts".to_owned(), what: RuleError::Account(what) },
            "{template}"
        );
    }
}
