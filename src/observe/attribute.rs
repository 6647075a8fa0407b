//! A fact about a span or a log record, for a collector of OpenTelemetry.

/// The name of a fact, and its value.
pub type Attribute = (&'static str, AttributeValue);

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeValue {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// A number with a fraction.
    Fraction(f64),
    /// Yes or no.
    Flag(bool),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for AttributeValue {
    fn from(count: u64) -> Self {
        Self::Number(i64::try_from(count).unwrap_or(i64::MAX))
    }
}

/// Returns how many bytes of memory the attributes take, about.
pub(super) fn size(attributes: &[Attribute]) -> usize {
    let texts = attributes.iter().map(|(_, value)| match value {
        AttributeValue::Text(text) => text.len(),
        AttributeValue::Number(_) | AttributeValue::Fraction(_) | AttributeValue::Flag(_) => 0,
    });
    size_of_val(attributes) + texts.sum::<usize>()
}
