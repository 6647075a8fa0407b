//! Text inside HTML.

/// Escapes a text for an element or a quoted attribute (HTML standard, §13.3).
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_becomes_text() {
        assert_eq!(escape("<a href='b'>\"c\" & d</a>"), "&lt;a href=&#39;b&#39;&gt;&quot;c&quot; &amp; d&lt;/a&gt;");
        assert_eq!(escape("Zoë ✓"), "Zoë ✓");
    }
}
