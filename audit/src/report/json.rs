//! One JSON document, `roclip/audit/1`.

use crate::verdict::Audit;

/// The document, indented; numbers that are not finite become null.
pub fn render(audit: &Audit) -> String {
    serde_json::to_string_pretty(audit).expect("an audit is numbers and strings")
}
