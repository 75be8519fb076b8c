//! What Kubernetes lets names, labels and ports look like, as `Result<(), what is wrong>`.

pub(super) use crate::closest::closest;

/// A DNS label (RFC 1123): names of namespaces, Service ports and the like.
pub(super) fn dns_label(s: &str) -> Result<(), &'static str> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if s.is_empty() || s.len() > 63 {
        Err("use 1 to 63 characters")
    } else if !s.starts_with(ok) || !s.ends_with(ok) || !s.chars().all(|c| ok(c) || c == '-') {
        Err("use lower-case letters, digits and -, with a letter or digit at both ends")
    } else {
        Ok(())
    }
}

/// The name of a network interface of Linux.
pub(super) fn interface(s: &str) -> Result<(), &'static str> {
    let is_bad = |c: char| c.is_whitespace() || c.is_control() || "/:%".contains(c);
    if s.is_empty() || s.len() > 15 || s.contains(is_bad) || s == "." || s == ".." {
        Err("use 1 to 15 bytes without `/`, `:`, `%` or white space")
    } else {
        Ok(())
    }
}

/// A DNS subdomain: names of most objects.
pub(super) fn dns_subdomain(s: &str) -> Result<(), &'static str> {
    if s.is_empty() || s.len() > 253 {
        return Err("use 1 to 253 characters");
    }
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |l: &str| l.starts_with(ok) && l.ends_with(ok) && l.chars().all(|c| ok(c) || c == '-');
    if s.split('.').all(label) {
        Ok(())
    } else {
        Err("use lower-case letters, digits, - and ., with a letter or digit at both ends")
    }
}

/// A domain that names are looked up in: as [`dns_subdomain`], and `_` may stand where letters may.
pub(super) fn search_domain(s: &str) -> Result<(), &'static str> {
    dns_subdomain(&s.replace('_', "x"))
}

/// A word for a line of words.
pub(super) fn word(s: &str) -> Result<(), &'static str> {
    let plain = (1..=255).contains(&s.len()) && s.chars().all(|c| c.is_ascii_graphic());
    if plain { Ok(()) } else { Err("use 1 to 255 printable ASCII characters without spaces") }
}

/// The name of a port (an IANA service name), which must not be mistaken for a number.
pub(super) fn port_name(s: &str) -> Result<(), &'static str> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if s.is_empty() || s.len() > 15 {
        Err("use 1 to 15 characters")
    } else if !s.chars().all(ok) || s.starts_with('-') || s.ends_with('-') || s.contains("--") {
        Err("use lower-case letters, digits and single - between them")
    } else if s.chars().all(|c| c.is_ascii_digit()) {
        Err("a port's number is written without quotes")
    } else if !s.contains(|c: char| c.is_ascii_lowercase()) {
        Err("use at least one letter")
    } else {
        Ok(())
    }
}

/// The key of a label, with or without a prefix.
pub(super) fn label_key(s: &str) -> Result<(), &'static str> {
    let name = match s.split_once('/') {
        Some((prefix, name)) => {
            dns_subdomain(prefix).map_err(|_| "the part before / must be a DNS name")?;
            name
        }
        None => s,
    };
    if name.is_empty() || name.len() > 63 {
        return Err("use 1 to 63 characters for the name");
    }
    qualified(name)
}

/// The value of a label.
pub(super) fn label_value(s: &str) -> Result<(), &'static str> {
    if s.len() > 63 {
        return Err("use at most 63 characters");
    }
    if s.is_empty() { Ok(()) } else { qualified(s) }
}

fn qualified(s: &str) -> Result<(), &'static str> {
    let ends = |c: char| c.is_ascii_alphanumeric();
    if s.starts_with(ends) && s.ends_with(ends) && s.chars().all(|c| ends(c) || "-_.".contains(c)) {
        Ok(())
    } else {
        Err("use letters, digits, -, _ and ., with a letter or digit at both ends")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for ok in ["a", "web-0", "0a"] {
            assert!(dns_label(ok).is_ok(), "{ok}");
        }
        for bad in ["", "Web", "-a", "a-", "a.b", "a_b", &"a".repeat(64)] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
        assert!(dns_subdomain("a.b-c.d").is_ok());
        for bad in ["a..b", ".a", "a.", "a.-b"] {
            assert!(dns_subdomain(bad).is_err(), "{bad}");
        }
        for ok in ["http", "p-8", "1a"] {
            assert!(port_name(ok).is_ok(), "{ok}");
        }
        for bad in ["", "80", "8-0", "a--b", "HTTP", "-a", "abcdefghijklmnop"] {
            assert!(port_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels() {
        for ok in ["app", "app.kubernetes.io/name", "A_b.c"] {
            assert!(label_key(ok).is_ok(), "{ok}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "_a", "A!/b", &"a".repeat(64)] {
            assert!(label_key(bad).is_err(), "{bad}");
        }
        for ok in ["", "v1.0", "A_b"] {
            assert!(label_value(ok).is_ok(), "{ok}");
        }
        for bad in ["-a", "a b", "a/b", &"a".repeat(64)] {
            assert!(label_value(bad).is_err(), "{bad}");
        }
    }
}
