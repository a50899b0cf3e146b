//! Patterns of names, as settings write them.

/// Which names are meant: each pattern is a name in which `*` stands for any text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns(Vec<String>);

impl Patterns {
    pub fn any() -> Self {
        Self(vec!["*".to_owned()])
    }

    pub fn is_any(&self) -> bool {
        self.0.iter().any(|pattern| pattern == "*")
    }

    pub fn fits(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| fits(pattern, name))
    }

    /// Those that settings name; any name if they name none.
    pub fn given(patterns: Option<Vec<String>>) -> Result<Self, String> {
        let Some(patterns) = patterns else { return Ok(Self::any()) };
        let is_pattern =
            |text: &str| (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/-*".contains(&b));
        match patterns.iter().find(|pattern| !is_pattern(pattern)) {
            Some(odd) => Err(format!("a pattern is a name in which `*` stands for any text, such as `mail.*`: `{}`", odd.escape_debug())),
            None => Ok(Self(patterns)),
        }
    }
}

/// Whether a name is of this pattern. The first part stands at the beginning, the last one at the end, each other one after the one before.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, is_meant) in [
            ("mail", "mail", true),
            ("mail", "mails", false),
            ("*", "", true),
            ("mail.*", "mail.send", true),
            ("mail.*", "mail", false),
            ("*.send", "mail.send", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("a*ba*ba", "aba", false),
        ] {
            assert_eq!(fits(pattern, name), is_meant, "{pattern} {name}");
        }
    }
}
