//! Pages of results: one file each, no scripts, nothing from elsewhere, light and dark, printable.
//!
//! | module | holds |
//! |---|---|
//! | [`chart`] | lines over epochs, marks in a plane, as SVG |
//! | `gallery` | [`gallery`]: pictures with captions |
//! | `style` | colors and sizes of all pages |
//!
//! A page is XML, too: each element is closed, each attribute quoted.
//!
//! Deliberately absent: CLIP, files, and what a page says.

pub mod chart;
mod gallery;
mod style;

pub use self::gallery::{Picture, gallery};

/// A whole page; `title` is plain text, `body` is markup.
pub fn document(title: &str, body: &str) -> String {
    let (title, style) = (escape(title), style::STYLE);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width\"/><title>{title}</title>\
         <style>{style}</style></head><body>\n{body}</body></html>\n"
    )
}

/// Text of strangers, made harmless in text and attributes; marks that turn the direction of
/// writing are spelt out.
///
/// ```
/// assert_eq!(page::escape("<b title='\u{202e}'>"), "&lt;b title=&#39;\\u{202e}&#39;&gt;");
/// ```
pub fn escape(text: &str) -> String {
    terminal::escape(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
