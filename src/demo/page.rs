//! Hand-written pages with a few blanks: one function fills them, one escapes.

/// The stylesheet of all pages.
const STYLE: &str = include_str!("pages/style.css");

/// Fills the blanks `{{name}}` of a page with escaped values, and `{{style}}` with the stylesheet.
pub(super) fn fill(page: &str, values: &[(&str, &str)]) -> String {
    let mut filled = page.replace("{{style}}", STYLE);
    for (name, value) in values {
        filled = filled.replace(&format!("{{{{{name}}}}}"), &escape(value));
    }
    filled
}

/// Escapes text for an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // A value cannot open a blank that a later value would fill.
            '{' => escaped.push_str("&#123;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_text() {
        let page = fill("<b title=\"{{a}}\">{{b}}</b>", &[("a", "\"'<&>"), ("b", "{{a}}")]);
        assert_eq!(page, "<b title=\"&quot;&#39;&lt;&amp;&gt;\">&#123;&#123;a}}</b>");
    }
}
