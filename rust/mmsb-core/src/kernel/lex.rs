//! Text to tokens, as Python splits it.
//!
//! Invariant: the position of a token is a byte offset on a character boundary of the text.

use super::Fault;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Token<'t> {
    Integer(i128),
    Float(f64),
    Name(&'t str),
    /// An operator or a bracket.
    Mark(&'static str),
    End,
}

/// Longest first, so that `**` is not two `*`.
const MARKS: [&str; 27] = [
    "**", "//", "<<", ">>", "<=", ">=", "==", "!=", "+", "-", "*", "/", "%", "@", "&", "|", "^",
    "~", "<", ">", "(", ")", ",", ".", "=", "[", "]",
];

/// The tokens with their positions; the last is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token<'_>)>, Fault> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (token, length) = if starts_number(rest) {
            number(rest, at)?
        } else if first == '_' || first.is_alphabetic() {
            let length =
                rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            (Token::Name(&rest[..length]), length)
        } else if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
            (Token::Mark(mark), mark.len())
        } else {
            return Err(Fault::new(at, format!("{first:?} is no part of an expression")));
        };
        found.push((at, token));
        at += length;
    }
    found.push((text.len(), Token::End));
    Ok(found)
}

fn starts_number(rest: &str) -> bool {
    let mut bytes = rest.bytes();
    match bytes.next() {
        Some(b'.') => bytes.next().is_some_and(|b| b.is_ascii_digit()),
        Some(first) => first.is_ascii_digit(),
        None => false,
    }
}

/// The number at the beginning of `rest` and its length.
fn number(rest: &str, at: usize) -> Result<(Token<'_>, usize), Fault> {
    let length = number_length(rest);
    let text = &rest[..length];
    let wrong = |what: &str| Fault::new(at, format!("{text:?} is no number: {what}"));
    if misplaced_underscore(text) {
        return Err(wrong("an underscore stands between two digits"));
    }
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    let radix = match digits.get(..2) {
        Some("0x" | "0X") => Some(16),
        Some("0o" | "0O") => Some(8),
        Some("0b" | "0B") => Some(2),
        _ => None,
    };
    if let Some(radix) = radix {
        let value = i128::from_str_radix(&digits[2..], radix).map_err(|_| {
            wrong("digits of the base, at most 127 bits, are right after 0x, 0o, 0b")
        })?;
        return Ok((Token::Integer(value), length));
    }
    if digits.ends_with(['j', 'J']) {
        return Err(wrong("there are no complex numbers here"));
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        if digits.len() > 1 && digits.starts_with('0') && digits.bytes().any(|b| b != b'0') {
            return Err(wrong("an integer does not begin with 0"));
        }
        let value = digits.parse().map_err(|_| wrong("an integer has at most 127 bits"))?;
        return Ok((Token::Integer(value), length));
    }
    let value = digits.parse().map_err(|_| wrong("1, 1.5, .5, 1e-3 and 0xff are numbers"))?;
    Ok((Token::Float(value), length))
}

/// How far a number goes: letters belong to it (so that `2x` is one wrong number), and the sign of a
/// decimal exponent.
fn number_length(rest: &str) -> usize {
    let based = rest.len() > 1
        && rest.starts_with('0')
        && matches!(rest.as_bytes()[1], b'x' | b'X' | b'o' | b'O' | b'b' | b'B');
    let mut last = ' ';
    for (at, c) in rest.char_indices() {
        let exponent_sign = !based && matches!(c, '+' | '-') && matches!(last, 'e' | 'E');
        let fraction = !based && c == '.';
        if !(c == '_' || c.is_alphanumeric() || fraction || exponent_sign) {
            return at;
        }
        last = c;
    }
    rest.len()
}

fn misplaced_underscore(text: &str) -> bool {
    let bytes = text.as_bytes();
    let based = bytes.len() > 1 && matches!(bytes[1], b'x' | b'X' | b'o' | b'O' | b'b' | b'B');
    let digit = |b: Option<&u8>| {
        b.is_some_and(|b| if based { b.is_ascii_alphanumeric() } else { b.is_ascii_digit() })
    };
    let before = |at: usize| at.checked_sub(1).and_then(|at| bytes.get(at));
    bytes
        .iter()
        .enumerate()
        .any(|(at, b)| *b == b'_' && !(digit(before(at)) && digit(bytes.get(at + 1))))
}
