//! Values as `ClassAd` expressions.

/// A string literal. Control characters, which no line of an ad can carry, become spaces.
#[must_use]
pub fn string(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => literal.extend(['\\', c]),
            c if c.is_control() => literal.push(' '),
            c => literal.push(c),
        }
    }
    literal.push('"');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_the_literal_or_its_line() {
        for (text, literal) in [
            ("", r#""""#),
            ("plain é", r#""plain é""#),
            (r#"a"b\c"#, r#""a\"b\\c""#),
            (r"end\", r#""end\\""#),
            ("a\nb\r\tc\0d", r#""a b  c d""#),
        ] {
            assert_eq!(string(text), literal, "{text:?}");
        }
    }
}
