//! Fills the blanks of the page templates with escaped values.

use crate::model::html;

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

/// Escapes a value, also `{`: a value must not contain a blank that a later value would fill.
fn escape(value: &str) -> String {
    html::escape(value).replace('{', "&#123;")
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
