//! The contract's notions of whitespace and of characters that may not appear in names.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory as _};

/// Whether Python's `str.strip` would remove it: Unicode `White_Space` and U+001C to U+001F.
pub(crate) fn is_whitespace(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// Whether its general category starts with C: control, format, private use, surrogate, unassigned.
///
/// The existing service knows Unicode 15.0; characters assigned since then are no longer
/// "unassigned" here, so that this system accepts some names which that one refuses.
pub(crate) fn is_control(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Other
}
