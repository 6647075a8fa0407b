//! Strict templates over claims, for the values of rules: `{tenant}.example.com`, `{email|before:@|lower}`. A template
//! that cannot be filled in completely does not apply.

use std::str::FromStr;

use super::principal::{self, Claim, Claims};
use super::table::TableRow;

/// The prefix of a column name in a template of a rule with a table.
pub const ROW: &str = "row.";

/// A text with placeholders for claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Claim { name: String, filters: Vec<Filter> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Lower,
    Before(String),
    After(String),
}

/// The values that a template is filled in from.
#[derive(Debug, Clone, Copy)]
pub struct Values<'v> {
    /// The claims of the caller.
    pub claims: &'v Claims,
    /// A list claim, and the item of it to use.
    pub item: Option<(&'v str, &'v str)>,
    /// The row of the rule's table. With a row, all names that begin with [`ROW`] are its columns.
    pub row: Option<TableRow<'v>>,
}

/// The reason why a template cannot be filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfilled<'t> {
    /// A claim is missing or cannot be relied on.
    #[error(transparent)]
    Absent(principal::Absent<'t>),
    /// The claim is a list, and no item of it was chosen.
    #[error("the claim {0:?} is a list")]
    List(&'t str),
    /// The claim lacks the separator of a filter.
    #[error("the claim {claim:?} has no {separator:?} in it")]
    NoSeparator {
        /// The name of the claim.
        claim: &'t str,
        /// The separator.
        separator: &'t str,
    },
}

/// The error in a text that is not a template, with its position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}, at byte {column}")]
pub struct TemplateError {
    /// The byte of the text, counted from 1.
    pub column: usize,
    /// The error.
    pub problem: TemplateProblem,
}

/// The kinds of errors in a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateProblem {
    /// `{` without its `}`.
    #[error("this {{ is never closed")]
    Unclosed,
    /// `}` without its `{`.
    #[error("this }} closes nothing")]
    Unopened,
    /// `{` inside `{…}`.
    #[error("a {{ inside {{…}}: claims do not nest")]
    Nested,
    /// `{}` or `{|lower}`.
    #[error("the claim has no name, write {{name}}")]
    NoClaim,
    /// The name of the claim has a character outside the grammar.
    #[error("{0:?} is not a claim name: a letter or _, then letters, digits and _ . : / -")]
    ClaimName(String),
    /// The filter is unknown.
    #[error("unknown filter {0:?}, the filters are lower, before:TEXT and after:TEXT")]
    UnknownFilter(String),
    /// `before:` or `after:` without a text after it.
    #[error("the filter {0:?} needs a text behind its colon, as in before:@")]
    NoSeparator(String),
}

impl Template {
    /// Fills in the values.
    ///
    /// # Errors
    /// When a claim is missing, is a list, or lacks a separator. Then the template does not apply.
    pub fn render(&self, values: &Values<'_>) -> Result<String, Unfilled<'_>> {
        self.0.iter().map(|piece| piece.render(values)).collect()
    }

    /// Returns the names of the claims that it uses.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Claim { name, .. } => Some(name.as_str()),
        })
    }

    /// Returns the text with a word in place of each claim: the part that no claim can change.
    #[must_use]
    pub fn outline(&self, word: &str) -> String {
        self.0.iter().fold(String::new(), |outline, piece| match piece {
            Piece::Literal(text) => outline + text,
            Piece::Claim { .. } => outline + word,
        })
    }

    /// Returns the text of a template without claims; `None` if it has one.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

impl<'v> Values<'v> {
    /// Takes only the claims of a caller.
    #[must_use]
    pub const fn of(claims: &'v Claims) -> Self {
        Self { claims, item: None, row: None }
    }

    fn text<'t>(&self, name: &'t str) -> Result<&'v str, Unfilled<'t>> {
        if let (Some(row), Some(column)) = (self.row, name.strip_prefix(ROW)) {
            return row.cell(column).ok_or(Unfilled::Absent(principal::Absent::Missing(name)));
        }
        match principal::find(self.claims, name).map_err(Unfilled::Absent)? {
            Claim::Text(text) => Ok(text),
            Claim::List(items) => match self.item {
                Some((list, item)) if list == name => Ok(item),
                // An empty list counts as a missing claim.
                _ if items.is_empty() => Err(Unfilled::Absent(principal::Absent::Missing(name))),
                _ => Err(Unfilled::List(name)),
            },
        }
    }
}

impl Piece {
    fn render(&self, values: &Values<'_>) -> Result<String, Unfilled<'_>> {
        match self {
            Self::Literal(text) => Ok(text.clone()),
            Self::Claim { name, filters } => filters.iter().try_fold(values.text(name)?.to_owned(), |value, filter| {
                filter.apply(&value).map_err(|separator| Unfilled::NoSeparator { claim: name, separator })
            }),
        }
    }
}

impl Filter {
    /// Applies the filter.
    ///
    /// # Errors
    /// The separator that is missing.
    fn apply(&self, value: &str) -> Result<String, &str> {
        match self {
            // ASCII only: Unicode rules would turn the Kelvin sign into a k, and so one person into another.
            Self::Lower => Ok(value.to_ascii_lowercase()),
            Self::Before(separator) => {
                value.split_once(separator).map(|(before, _)| before.to_owned()).ok_or(separator)
            }
            Self::After(separator) => value.split_once(separator).map(|(_, after)| after.to_owned()).ok_or(separator),
        }
    }
}

// === Reading ===

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            pieces.extend(literal(&rest[..at]));
            let column = text.len() - rest.len() + at + 1;
            if rest[at..].starts_with('}') {
                return Err(TemplateError { column, problem: TemplateProblem::Unopened });
            }
            let inner = &rest[at + 1..];
            let end = inner.find(['{', '}']).ok_or(TemplateError { column, problem: TemplateProblem::Unclosed })?;
            if inner[end..].starts_with('{') {
                return Err(TemplateError { column: column + 1 + end, problem: TemplateProblem::Nested });
            }
            pieces.push(claim(&inner[..end], column + 1)?);
            rest = &inner[end + 1..];
        }
        pieces.extend(literal(rest));
        Ok(Self(pieces))
    }
}

fn literal(text: &str) -> Option<Piece> {
    (!text.is_empty()).then(|| Piece::Literal(text.to_owned()))
}

/// Reads the text between braces; `column` is its position.
fn claim(inner: &str, column: usize) -> Result<Piece, TemplateError> {
    let mut parts = inner.split('|');
    let name = parts.next().unwrap_or_default();
    check_name(name).map_err(|problem| TemplateError { column, problem })?;
    let mut filters = Vec::new();
    let mut at = column + name.len() + 1;
    for part in parts {
        filters.push(filter(part).map_err(|problem| TemplateError { column: at, problem })?);
        at += part.len() + 1;
    }
    Ok(Piece::Claim { name: name.to_owned(), filters })
}

fn check_name(name: &str) -> Result<(), TemplateProblem> {
    let Some(first) = name.bytes().next() else {
        return Err(TemplateProblem::NoClaim);
    };
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:/-".contains(&byte);
    let valid = (first.is_ascii_alphabetic() || first == b'_') && name.bytes().all(inner);
    if valid { Ok(()) } else { Err(TemplateProblem::ClaimName(name.to_owned())) }
}

fn filter(text: &str) -> Result<Filter, TemplateProblem> {
    match text.split_once(':') {
        None if text == "lower" => Ok(Filter::Lower),
        Some(("before" | "after", "")) => Err(TemplateProblem::NoSeparator(text.to_owned())),
        Some(("before", separator)) => Ok(Filter::Before(separator.to_owned())),
        Some(("after", separator)) => Ok(Filter::After(separator.to_owned())),
        None | Some(_) => Err(TemplateProblem::UnknownFilter(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::table::LookupTable;

    fn claims() -> Claims {
        let rows = [
            ("ext", "40"),
            ("tenant", "Acme"),
            ("email", "Ann@Example.COM@x"),
            ("empty", ""),
            ("kelvin", "\u{212a}IM"),
            ("https://x.test/a-b.c:d", "long"),
        ];
        rows.map(|(name, value)| (name.to_owned(), value.into())).into()
    }

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(
            text.parse::<Template>().unwrap().render(&Values::of(&claims())).ok().as_deref(),
            expected,
            "{text}"
        );
    }

    #[test]
    fn fills_in_claims() {
        check("", Some(""));
        check("40", Some("40"));
        check("{ext}", Some("40"));
        check("{tenant}.example.com", Some("Acme.example.com"));
        check("a{ext}b{ext}{tenant}é", Some("a40b40Acmeé"));
        check("{https://x.test/a-b.c:d}", Some("long"));
        check("{empty}", Some(""));
    }

    #[test]
    fn filters_apply_from_left_to_right() {
        check("{tenant|lower}", Some("acme"));
        check("{email|before:@}", Some("Ann"));
        check("{email|after:@}", Some("Example.COM@x"));
        check("{email|before:@|lower}", Some("ann"));
        check("{email|lower|after:@|before:.com}", Some("example"));
        check("{email|after::}", None);
        check("{email|before:Ann}", Some(""));
    }

    #[test]
    fn does_not_apply_without_its_claim_or_separator() {
        check("{missing}", None);
        check("{ext}{missing|lower}", None);
        check("{Ext}", None);
        check("{ext|before:@}", None);
        check("{empty|after:@}", None);
    }

    #[test]
    fn an_item_stands_for_its_list_alone() {
        let list = |items: &[&str]| Claim::List(items.iter().map(|item| (*item).to_owned()).collect());
        let claims = Claims::from([
            ("exts".to_owned(), list(&["40", "41"])),
            ("tenants".to_owned(), list(&["a", "b"])),
            ("ext".to_owned(), "42".into()),
        ]);
        let values = Values { item: Some(("exts", "41")), ..Values::of(&claims) };
        let render = |text: &str| text.parse::<Template>().unwrap().render(&values).map_err(|why| why.to_string());
        assert_eq!(render("{exts}-{exts}-{ext}").as_deref(), Ok("41-41-42"));
        assert_eq!(render("{tenants}"), Err("the claim \"tenants\" is a list".to_owned()));
    }

    #[test]
    fn a_row_speaks_for_its_columns_alone() {
        let mut table = LookupTable::new(vec!["ext".to_owned()]);
        table.add("ann".to_owned(), vec!["40".to_owned()]);
        let claims = Claims::from([("row.ext".to_owned(), "41".into()), ("row.vox".to_owned(), "x".into())]);
        let render = |text: &str, row| {
            let values = Values { row, ..Values::of(&claims) };
            text.parse::<Template>().unwrap().render(&values).ok()
        };
        assert_eq!(render("{row.ext}", table.rows("ann").next()).as_deref(), Some("40"));
        assert_eq!(render("{row.vox}", table.rows("ann").next()), None);
        assert_eq!(render("{row.ext}", None).as_deref(), Some("41"));
    }

    #[test]
    fn an_address_that_is_not_verified_fills_in_nothing() {
        let claims =
            Claims::from([("email".to_owned(), "ann@acme.test".into()), ("email_verified".to_owned(), "false".into())]);
        let rendered =
            "{email|before:@}".parse::<Template>().unwrap().render(&Values::of(&claims)).map_err(|why| why.to_string());
        assert_eq!(rendered, Err("the claim \"email\" is an address that is not verified".to_owned()));
    }

    #[test]
    fn says_what_it_lacks() {
        let claims = Claims::from([
            ("email".to_owned(), "ann".into()),
            ("groups".to_owned(), Claim::List(vec!["a".to_owned()])),
        ]);
        let check = |text: &str, expected: &str| {
            assert_eq!(
                text.parse::<Template>().unwrap().render(&Values::of(&claims)).unwrap_err().to_string(),
                expected
            );
        };
        check("{ext}", "there is no claim \"ext\"");
        check("{groups}", "the claim \"groups\" is a list");
        check("{email|lower|before:@}", "the claim \"email\" has no \"@\" in it");
    }

    #[test]
    fn a_value_is_never_read_as_a_template() {
        let template: Template = "{a}".parse().unwrap();
        let claims = Claims::from([("a".to_owned(), "{b|lower}".into())]);
        assert_eq!(template.render(&Values::of(&claims)).as_deref(), Ok("{b|lower}"));
    }

    #[test]
    fn lower_makes_no_ascii_of_other_letters() {
        check("{kelvin|lower}", Some("\u{212a}im"));
    }

    #[test]
    fn tells_whether_it_uses_a_claim() {
        assert_eq!("{a}-{b|lower}{a}".parse::<Template>().unwrap().literal(), None);
        for text in ["", "acme.test"] {
            assert_eq!(text.parse::<Template>().unwrap().literal(), Some(text));
        }
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        assert_eq!(text.parse::<Template>().unwrap_err().to_string(), expected, "{text}");
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        check_error("{", "this { is never closed, at byte 1");
        check_error("é{ext", "this { is never closed, at byte 3");
        check_error("a}", "this } closes nothing, at byte 2");
        check_error("{a}}", "this } closes nothing, at byte 4");
        check_error("x{a{b}}", "a { inside {…}: claims do not nest, at byte 4");
        check_error("{{a}}", "a { inside {…}: claims do not nest, at byte 2");
        check_error("{}", "the claim has no name, write {name}, at byte 2");
        check_error("{|lower}", "the claim has no name, write {name}, at byte 2");
        check_error(
            "x{4a}",
            "\"4a\" is not a claim name: a letter or _, then letters, digits and _ . : / -, at byte 3",
        );
        check_error("{a }", "\"a \" is not a claim name: a letter or _, then letters, digits and _ . : / -, at byte 2");
        check_error("{é}", "\"é\" is not a claim name: a letter or _, then letters, digits and _ . : / -, at byte 2");
        for filter in ["upper", "", "Lower", "lower:", "before", "lower ", "first:@"] {
            let expected =
                format!("unknown filter {filter:?}, the filters are lower, before:TEXT and after:TEXT, at byte 12");
            check_error(&format!("{{abc|lower|{filter}}}"), &expected);
        }
        check_error("{a|after:}", "the filter \"after:\" needs a text behind its colon, as in before:@, at byte 4");
    }
}
