//! Pictures in rows.

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::escape;

/// A picture and what is written under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The bytes of a PNG.
    pub png: Vec<u8>,
    /// Plain text.
    pub caption: String,
}

/// Pictures with their captions, enlarged pixel by pixel.
pub fn gallery<'a>(pictures: impl IntoIterator<Item = &'a Picture>) -> String {
    let mut out = String::from("<div class=\"gallery\">\n");
    for Picture { png, caption } in pictures {
        let (data, caption) = (BASE64_STANDARD.encode(png), escape(caption));
        out += &format!(
            "<figure><img alt=\"\" src=\"data:image/png;base64,{data}\"/>\
             <figcaption>{caption}</figcaption></figure>\n"
        );
    }
    out + "</div>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_cannot_become_markup() {
        let caption = "<img src=x onerror=alert(1)> & \"it's\"".to_owned();
        let text = gallery(&[Picture { png: vec![1, 2, 3], caption }]);
        assert!(text.contains("&lt;img src=x onerror=alert(1)&gt; &amp; &quot;it&#39;s&quot;"));
        assert_eq!(text.matches("<img").count(), 1);
    }
}
