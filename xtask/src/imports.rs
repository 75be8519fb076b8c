//! The rule that imports run one way, checked on the source text.
//!
//! ```text
//!   dataplane:  sync id time pages <- buf <- wire <- vector <- table rewrite verdict <- flow handover <- snapshot <- staged <- state <- capture flowlog <- stage <- pipeline <- worker
//!               port uses only buf, id, sync and verdict; counters and trace stand beside the order
//!   packages:   dataplane <- drivers control <- supernet <- lab; testkit in tests only
//! ```
//!
//! Nor may the dataplane name a clock or a source of randomness.
//!
//! What is under `#[cfg(test)]`, in comments and in strings does not count. A path into the crate's root
//! (`crate::Thing`) is refused inside the dataplane, since it would hide which module it means.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

/// Modules of the dataplane, lowest first. A module may import its own row and the rows before it.
const ORDER: [&[&str]; 13] = [
    &["sync", "id", "time", "pages"],
    &["buf"],
    &["wire"],
    &["vector"],
    &["table", "rewrite", "verdict"],
    &["flow", "handover"],
    &["snapshot"],
    &["staged"],
    &["state"],
    &["capture", "flowlog"],
    &["stage"],
    &["pipeline"],
    &["worker"],
];

/// Modules beside the order: what they may import, and who may import them. Empty: everything, everyone.
const BESIDE: [(&str, &[&str], &[&str]); 3] = [
    ("port", &["buf", "id", "sync", "verdict"], &["pipeline", "worker"]),
    ("counters", &[], &[]),
    ("trace", &[], &[]),
];

/// Names of clocks and of sources of randomness. Time and seeds are passed in.
const OUTSIDE: [&str; 7] =
    ["SystemTime", "UNIX_EPOCH", "RandomState", "thread_rng", "getrandom", "OsRng", "_rdtsc"];

/// What the drivers may use of the dataplane.
const FOR_DRIVERS: [&str; 4] = ["buf", "id", "port", "wire"];

/// Packages, by folder, and the packages of this workspace that they may depend on.
const PACKAGES: [(&str, &[&str]); 7] = [
    ("dataplane", &[]),
    ("drivers", &["supernet-dataplane"]),
    ("control", &["supernet-dataplane"]),
    (".", &["supernet-dataplane", "supernet-drivers", "supernet-control"]),
    ("lab", &["supernet", "supernet-dataplane", "supernet-drivers", "supernet-control"]),
    ("testkit", &["supernet-dataplane", "supernet-control"]),
    ("xtask", &[]),
];

/// An import that runs the wrong way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    file: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Checks the repository at `root`. An `Err` says which file could not be read.
pub(crate) fn check(root: &Path) -> Result<Vec<Violation>, String> {
    let mut found = Vec::new();
    for (folder, allowed) in PACKAGES {
        let file = Path::new(folder).join("Cargo.toml");
        check_manifest(&read(&root.join(&file))?, &file, allowed, &mut found);
    }
    for file in sources(root, "dataplane/src")? {
        check_dataplane(&read(&root.join(&file))?, &file, &mut found);
    }
    for file in sources(root, "drivers/src")? {
        for path in paths(&read(&root.join(&file))?, "supernet_dataplane") {
            if !FOR_DRIVERS.contains(&&*path.first) {
                let what = format!("drivers must not use dataplane::{}", path.first);
                found.push(Violation { file: file.clone(), line: path.line, what });
            }
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Every Rust file below a folder, relative to the root, sorted.
fn sources(root: &Path, folder: &str) -> Result<BTreeSet<PathBuf>, String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(root.join(&folder)).map_err(|e| format!("{}: {e}", folder.display()))?;
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            // The files of `#[cfg(test)] mod tests;` are tests too.
            if path.file_stem().is_some_and(|s| s == "tests") {
                continue;
            }
            if root.join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

fn check_manifest(text: &str, file: &Path, allowed: &[&str], found: &mut Vec<Violation>) {
    let mut section = "";
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        let mut name = "";
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
            // `[dependencies.name]`
            name = section.split_once("dependencies.").map_or("", |(_, name)| name);
        } else if section.ends_with("dependencies") {
            name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        }
        let counts = !section.contains("dev-dependencies") && !section.starts_with("workspace");
        let ours = name == "supernet" || name.starts_with("supernet-");
        if counts && ours && !allowed.contains(&name) {
            let what = if name == "supernet-testkit" {
                "only tests may use supernet-testkit: move it to [dev-dependencies]".to_owned()
            } else {
                format!("this package must not depend on {name}")
            };
            found.push(Violation { file: file.to_owned(), line: n + 1, what });
        }
    }
}

fn check_dataplane(text: &str, file: &Path, found: &mut Vec<Violation>) {
    let module = module_path(file);
    // The crate's root names every module.
    let Some(own) = module.first() else { return };
    let mut edges = paths(text, "crate");
    edges.extend(super_paths(text, &module));
    for edge in edges {
        if let Some(what) = refusal(own, &edge.first) {
            found.push(Violation { file: file.to_owned(), line: edge.line, what });
        }
    }
    for token in without_tests(tokens(text)).iter().filter(|token| OUTSIDE.contains(&&*token.text)) {
        let what = format!("the dataplane has no clock and draws no random number: {}", token.text);
        found.push(Violation { file: file.to_owned(), line: token.line, what });
    }
}

/// Why module `from` must not import module `to`, if it must not.
fn refusal(from: &str, to: &str) -> Option<String> {
    let row = |module: &str| ORDER.iter().position(|row| row.contains(&module));
    let beside = |module: &str| BESIDE.iter().find(|(name, ..)| *name == module);
    if from == to {
        return None;
    }
    if row(to).is_none() && beside(to).is_none() {
        return Some(format!(
            "`crate::{to}` is no module of the import order: name the module it is in, or give a new module its \
             place in xtask/src/imports.rs"
        ));
    }
    let allowed = match (row(from), row(to), beside(from), beside(to)) {
        (Some(from), Some(to), ..) => to <= from,
        (_, _, Some((_, may, _)), _) => may.is_empty() || may.contains(&to),
        (_, _, _, Some((_, _, by))) => by.is_empty() || by.contains(&from),
        _ => {
            return Some(format!(
                "module {from} has no place in the import order: give it one in xtask/src/imports.rs"
            ));
        }
    };
    (!allowed).then(|| format!("{from} must not import {to}"))
}

/// `dataplane/src/stage/dlb.rs` is module `stage`, `dlb`; the crate's root is empty.
fn module_path(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.with_extension("").iter().skip(2).map(|p| p.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|p| p == "mod" || (p == "lib" && parts.len() == 1)) {
        parts.pop();
    }
    parts
}

/// A path's first part behind its root, and where it stands.
#[derive(Debug, PartialEq, Eq)]
struct Import {
    first: String,
    line: usize,
}

/// All paths that start with `root::`, groups in braces taken apart.
fn paths(text: &str, root: &str) -> Vec<Import> {
    let tokens = without_tests(tokens(text));
    let mut found = Vec::new();
    for i in 0..tokens.len() {
        let whole = i == 0 || tokens[i - 1].text != "::";
        if tokens[i].text == root && whole && is(&tokens, i + 1, "::") {
            heads(&tokens, i + 2, &mut found);
        }
    }
    found
}

/// Paths by way of `super` that lead to the crate's root, from a file that holds `module`.
fn super_paths(text: &str, module: &[String]) -> Vec<Import> {
    let tokens = without_tests(tokens(text));
    let mut found = Vec::new();
    // Depths of braces at which modules written in the file end.
    let (mut inner, mut depth) = (Vec::new(), 0_usize);
    let mut i = 0;
    while i < tokens.len() {
        match &*tokens[i].text {
            "mod" if is(&tokens, i + 2, "{") => inner.push(depth),
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                if inner.last() == Some(&depth) {
                    inner.pop();
                }
            }
            "super" => {
                let mut up = 1;
                while is(&tokens, i + 1, "::") && is(&tokens, i + 2, "super") {
                    (up, i) = (up + 1, i + 2);
                }
                if is(&tokens, i + 1, "::") && up == module.len() + inner.len() {
                    heads(&tokens, i + 2, &mut found);
                }
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// The first names at `at`: one, or one of each branch of a group.
fn heads(tokens: &[Token], at: usize, found: &mut Vec<Import>) {
    let Some(token) = tokens.get(at) else { return };
    if token.text != "{" {
        if token.text != "self" {
            found.push(Import { first: token.text.clone(), line: token.line });
        }
        return;
    }
    let mut depth = 1;
    for i in at + 1..tokens.len() {
        let starts = depth == 1 && matches!(&*tokens[i - 1].text, "{" | ",");
        match &*tokens[i].text {
            "{" => depth += 1,
            "}" => depth -= 1,
            name if starts && name != "self" => {
                found.push(Import { first: name.to_owned(), line: tokens[i].line });
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

fn is(tokens: &[Token], at: usize, text: &str) -> bool {
    tokens.get(at).is_some_and(|t| t.text == text)
}

/// Drops every item that is marked `#[cfg(test)]`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::with_capacity(tokens.len());
    let mut i = 0;
    while i < tokens.len() {
        if !(0..MARK.len()).all(|n| is(&tokens, i + n, MARK[n])) {
            kept.push(i);
            i += 1;
            continue;
        }
        i += MARK.len();
        // The item ends with its block, or with a semicolon before one opens.
        let mut depth = 0;
        while let Some(token) = tokens.get(i) {
            i += 1;
            match &*token.text {
                "{" | "(" | "[" => depth += 1,
                "}" if depth == 1 => break,
                "}" | ")" | "]" => depth -= 1,
                ";" if depth == 0 => break,
                _ => {}
            }
        }
    }
    let mut kept = kept.into_iter().peekable();
    tokens.into_iter().enumerate().filter(|(i, _)| kept.next_if_eq(i).is_some()).map(|(_, t)| t).collect()
}

/// Names, `::` and single signs; comments, strings and characters left out.
fn tokens(text: &str) -> Vec<Token> {
    let b = text.as_bytes();
    let mut found = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < b.len() {
        let start = i;
        match b[i] {
            b'/' if b.get(i + 1) == Some(&b'/') => i = find(b, i, b"\n"),
            b'/' if b.get(i + 1) == Some(&b'*') => i = block_comment_end(b, i),
            b'"' => i = string_end(b, i),
            b'\'' => i = char_end(b, i),
            b'r' if raw_string_end(b, i).is_some() => i = raw_string_end(b, i).unwrap_or(b.len()),
            c if c == b'_' || c.is_ascii_alphanumeric() || c >= 0x80 => {
                while i < b.len() && (b[i] == b'_' || b[i].is_ascii_alphanumeric() || b[i] >= 0x80) {
                    i += 1;
                }
                // `b"..."` and `br"..."` are left to the next round.
                found.push(Token { text: text[start..i].to_owned(), line });
            }
            b':' if b.get(i + 1) == Some(&b':') => {
                i += 2;
                found.push(Token { text: "::".to_owned(), line });
            }
            c => {
                i += 1;
                if !c.is_ascii_whitespace() {
                    found.push(Token { text: char::from(c).to_string(), line });
                }
            }
        }
        line += b[start..i.min(b.len())].iter().filter(|&&c| c == b'\n').count();
    }
    found
}

/// Where `what` begins at or after `from`, or the end.
fn find(b: &[u8], from: usize, what: &[u8]) -> usize {
    b[from..].windows(what.len()).position(|w| w == what).map_or(b.len(), |n| from + n)
}

fn block_comment_end(b: &[u8], mut i: usize) -> usize {
    let mut depth = 0;
    while i < b.len() {
        match &b[i..b.len().min(i + 2)] {
            b"/*" => (depth, i) = (depth + 1, i + 2),
            b"*/" => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn string_end(b: &[u8], mut i: usize) -> usize {
    i += 1;
    while i < b.len() && b[i] != b'"' {
        i += if b[i] == b'\\' { 2 } else { 1 };
    }
    (i + 1).min(b.len())
}

/// The end of a character, or just behind the quote of a lifetime.
fn char_end(b: &[u8], i: usize) -> usize {
    match b.get(i + 1) {
        Some(b'\\') => (find(b, i + 3, b"'") + 1).min(b.len()),
        Some(_) => {
            // One character of UTF-8, then the closing quote.
            let len = b[i + 1..].iter().skip(1).take_while(|&&c| c & 0xc0 == 0x80).count() + 1;
            if b.get(i + 1 + len) == Some(&b'\'') { i + len + 2 } else { i + 1 }
        }
        None => b.len(),
    }
}

/// The end of `r"..."` or `r#"..."#`, if one begins here.
fn raw_string_end(b: &[u8], i: usize) -> Option<usize> {
    let hashes = b[i + 1..].iter().take_while(|&&c| c == b'#').count();
    if b.get(i + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &vec![b'#'; hashes]].concat();
    Some((find(b, i + 2 + hashes, &close) + close.len()).min(b.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataplane(file: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check_dataplane(text, &Path::new("dataplane/src").join(file), &mut found);
        found.iter().map(|v| format!("{}: {}", v.line, v.what)).collect()
    }

    #[test]
    fn imports_upwards_are_found_however_they_are_written() {
        let text = "use crate::{buf::Frame, stage::{self, dlb}};\nfn f() { crate::worker::run() }\n";
        assert_eq!(
            dataplane("table/lpm.rs", text),
            ["1: table must not import stage", "2: table must not import worker"]
        );
        assert_eq!(dataplane("flow.rs", "use super::stage::Walk;"), ["1: flow must not import stage"]);
        assert_eq!(dataplane("flow/key.rs", "use super::super::{\n id, worker::W};").len(), 1);
        assert_eq!(dataplane("flow.rs", "mod a { use super::x; use super::super::worker; }").len(), 1);
    }

    #[test]
    fn imports_downwards_beside_and_within_are_fine() {
        for (file, text) in [
            ("worker.rs", "use crate::{pipeline, port::Port, buf::{Frame, Pool}, id::*};"),
            ("table/mod.rs", "use crate::{rewrite::Rewrite, verdict::Verdict, trace::Note};"),
            ("stage/dlb.rs", "use super::{worker, Walk}; // stage::worker"),
            ("port/memory.rs", "use super::{Port, Waker}; use crate::buf::Frame;"),
            ("lib.rs", "pub use crate::worker::Worker;"),
            ("flow.rs", "use other::crate_::x; fn f<'a>(x: &'a str) -> char { '\\'' }"),
        ] {
            assert_eq!(dataplane(file, text), [""; 0], "{file}");
        }
    }

    #[test]
    fn tests_comments_and_strings_do_not_count() {
        let text = r##"
            // use crate::worker;
            /* use crate::worker; /* nested */ crate::worker */
            const A: &str = "crate::worker \" crate::worker";
            const B: &str = r#"crate::worker " crate::worker"#;
            #[cfg(test)]
            use crate::worker::W;
            #[cfg(test)]
            mod tests { use crate::worker; fn f() { let _ = [1, 2]; } }
            use crate::stage;
        "##;
        assert_eq!(dataplane("flow.rs", text), ["10: flow must not import stage"]);
    }

    #[test]
    fn ports_know_little_and_new_modules_need_a_place() {
        assert_eq!(dataplane("port/mod.rs", "use crate::table;"), ["1: port must not import table"]);
        assert_eq!(dataplane("flow.rs", "use crate::port;"), ["1: flow must not import port"]);
        assert!(dataplane("novel.rs", "use crate::buf;")[0].contains("module novel has no place"));
        assert!(dataplane("flow.rs", "use crate::Worker;")[0].contains("`crate::Worker` is no module"));
    }

    #[test]
    fn the_testkit_is_for_tests_and_control_is_above_the_dataplane() {
        let check = |text: &str, allowed: &[&str]| {
            let mut found = Vec::new();
            check_manifest(text, Path::new("Cargo.toml"), allowed, &mut found);
            found.into_iter().map(|v| (v.line, v.what)).collect::<Vec<_>>()
        };
        let text = "[dependencies]\nsupernet-testkit.workspace = true\n[dev-dependencies]\nsupernet-testkit = \"1\"\n";
        assert_eq!(check(text, &[])[0].0, 2);
        assert_eq!(check(text, &[]).len(), 1);
        let text = "[target.'cfg(unix)'.dependencies.supernet-control]\npath = \"x\"\n";
        assert_eq!(check(text, &[]), [(1, "this package must not depend on supernet-control".to_owned())]);
        assert_eq!(check("[workspace.dependencies]\nsupernet-testkit = { path = \"t\" }\n", &[]), []);
        assert_eq!(check("[dependencies]\nsupernet = { path = \".\" }\n", &["supernet"]), []);
    }
}
