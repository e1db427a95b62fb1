//! The Q encoding of RFC 2047 exactly as Go's `mime.QEncoding.Encode("utf-8", …)` writes it
//! (`src/mime/encodedword.go`): apps decode identity headers with what they know from Go's serve.

use std::borrow::Cow;

/// 75 less `=?utf-8?q?` and `?=` (RFC 2047, section 2).
const MAX_CONTENT: usize = 63;

/// Unchanged when all characters are printable ASCII or tabs, else encoded words joined by a space.
pub fn encode(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| matches!(c, ' '..='~' | '\t')) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() * 2 + 12);
    out.push_str("=?utf-8?q?");
    let mut length = 0;
    for c in text.chars() {
        // Go counts a space and every literal as one, and three for each byte of anything else, so that
        // no character is split between words (RFC 2047, section 5.3).
        let width = if literal(c) || c == ' ' {
            1
        } else {
            3 * c.len_utf8()
        };
        if length + width > MAX_CONTENT {
            out.push_str("?= =?utf-8?q?");
            length = 0;
        }
        length += width;
        if c == ' ' {
            out.push('_');
        } else if literal(c) {
            out.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                out.push('=');
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.push_str("?=");
    Cow::Owned(out)
}

fn literal(c: char) -> bool {
    matches!(c, '!'..='~') && !matches!(c, '=' | '?' | '_')
}

const HEX: [char; 16] = [
    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Go 1.26's `mime.QEncoding.Encode`.
    #[test]
    fn equals_go() {
        let u = "\u{fc}";
        for (text, want) in [
            ("", ""),
            ("Alice Smith", "Alice Smith"),
            ("a\tb", "a\tb"),
            ("Alice = ?_", "Alice = ?_"),
            ("=?utf-8?q?x?=", "=?utf-8?q?x?="),
            ("Jürgen Müller", "=?utf-8?q?J=C3=BCrgen_M=C3=BCller?="),
            (
                "日本語 テスト",
                "=?utf-8?q?=E6=97=A5=E6=9C=AC=E8=AA=9E_=E3=83=86=E3=82=B9=E3=83=88?=",
            ),
            ("a\x7fb", "=?utf-8?q?a=7Fb?="),
            ("a\nb", "=?utf-8?q?a=0Ab?="),
            ("\u{a0}", "=?utf-8?q?=C2=A0?="),
            ("tab\tü", "=?utf-8?q?tab=09=C3=BC?="),
            ("émoji 😀 end", "=?utf-8?q?=C3=A9moji_=F0=9F=98=80_end?="),
            (
                "Ünïcödé_=?\"quoted\"",
                "=?utf-8?q?=C3=9Cn=C3=AFc=C3=B6d=C3=A9=5F=3D=3F\"quoted\"?=",
            ),
            (
                &u.repeat(12),
                "=?utf-8?q?=C3=BC=C3=BC=C3=BC=C3=BC=C3=BC=C3=BC=C3=BC=C3=BC=C3=BC=C3=BC?= =?utf-8?q?=C3=BC=C3=BC?=",
            ),
            (
                &format!("{}ü", "a".repeat(62)),
                &format!("=?utf-8?q?{}?= =?utf-8?q?=C3=BC?=", "a".repeat(62)),
            ),
            (
                &format!("{}ü", "a".repeat(64)),
                &format!("=?utf-8?q?{}?= =?utf-8?q?a=C3=BC?=", "a".repeat(63)),
            ),
            (
                &format!("{}日本", "a".repeat(60)),
                &format!("=?utf-8?q?{}?= =?utf-8?q?=E6=97=A5=E6=9C=AC?=", "a".repeat(60)),
            ),
            (
                &format!("{}ü", "_".repeat(25)),
                &format!("=?utf-8?q?{}?= =?utf-8?q?=5F=5F=5F=5F=C3=BC?=", "=5F".repeat(21)),
            ),
            (
                &"😀".repeat(9),
                &format!(
                    "=?utf-8?q?{}?= =?utf-8?q?{}?=",
                    "=F0=9F=98=80".repeat(5),
                    "=F0=9F=98=80".repeat(4)
                ),
            ),
        ] {
            assert_eq!(encode(text), want, "{text:?}");
        }
    }
}
