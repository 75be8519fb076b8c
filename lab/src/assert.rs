//! `supernet assert`: whether statements hold, for people and for CI.

use crate::{
    cli::{AssertArgs, Format},
    input,
    output::{self, Style},
};
use std::{error::Error, fs, io, io::Read, path::Path};
use supernet::{
    Assertions,
    control::analysis::assert::{Counterexample, Outcome, Report},
};

/// Exit status when a statement does not hold.
const FAILED: u8 = 5;

/// More text than this is no file of statements.
const MOST_BYTES: u64 = 16 << 20;

pub(crate) fn run(args: &AssertArgs) -> Result<u8, Box<dyn Error>> {
    if args.rules.iter().chain(&args.files.files).filter(|path| *path == Path::new("-")).count() > 1 {
        return Err("standard input can be read once only: name a file for the other".into());
    }
    let assertions = read(args)?;
    let (mut network, warnings) = input::network(&args.files)?;
    if args.output == Format::Table {
        input::warn(&warnings);
    }
    let report = network.check(&assertions)?;
    output::print(&report, args.output, |report, style| told(report, args, style))?;
    Ok(if report.holds() { 0 } else { FAILED })
}

fn read(args: &AssertArgs) -> Result<Assertions, Box<dyn Error>> {
    let mut all: Option<Assertions> = None;
    for path in &args.rules {
        let name = path.display().to_string();
        let text = text_of(path).map_err(|e| format!("{name}: cannot be read: {e}"))?;
        let assertions = Assertions::parse(&name, &text)?;
        match &mut all {
            Some(all) => all.extend(assertions),
            None => all = Some(assertions),
        }
    }
    let all = all.filter(|all| !all.is_empty());
    all.ok_or_else(|| {
        "there is no statement to check; write one a line, such as `nothing outside shop reaches shop/db`"
            .into()
    })
}

fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let reader: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(fs::File::open(path)?) };
    reader.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("it has more than {} MiB", MOST_BYTES >> 20)));
    }
    Ok(text)
}

fn told(report: &Report, args: &AssertArgs, style: Style) -> String {
    let mut text = String::new();
    for outcome in &report.statements {
        text.push_str(&one(outcome, args, style));
    }
    let count = |n: usize| if n == 1 { "1 statement".to_owned() } else { format!("{n} statements") };
    if report.holds() {
        text + &format!("\n{} {}, and all hold.\n", style.green("✓"), count(report.statements.len()))
    } else {
        let (all, verb) = (count(report.statements.len()), if report.failed == 1 { "does" } else { "do" });
        text + &format!("\n{} {} of {all} {verb} not hold.\n", style.red("✗"), report.failed)
    }
}

fn one(outcome: &Outcome, args: &AssertArgs, style: Style) -> String {
    let Some(counterexample) = &outcome.counterexample else {
        return format!("{} {}\n", style.green("✓"), outcome.statement);
    };
    let at = format!("{}:{}", outcome.file.as_deref().unwrap_or("-"), outcome.line);
    let Counterexample { from, from_address, to, to_address, protocol, port, .. } = counterexample;
    let called = |name: &String, address: &String| {
        if name == address { name.clone() } else { format!("{name} ({address})") }
    };
    let port = port.map(|port| format!(" {port}")).unwrap_or_default();
    let service = counterexample.service.as_ref().map(|s| format!(", behind {s}")).unwrap_or_default();
    let fate = if counterexample.delivered { "is delivered" } else { "is dropped" };
    let mut text = format!(
        "{} {}  {}\n    {} > {}{service}: {protocol}{port} {fate}\n",
        style.red("✗"),
        outcome.statement,
        style.dim(&at),
        called(from, from_address),
        called(to, to_address),
    );
    if counterexample.rules.is_empty() {
        text.push_str(&format!("    {}\n", counterexample.verdict));
    } else {
        text.push_str(&format!("    decided by {}\n", counterexample.rules.join(", and ")));
    }
    text.push_str(&format!("    {}\n", style.dim(&command(args, counterexample))));
    text
}

/// The command that shows the packet's way.
fn command(args: &AssertArgs, counterexample: &Counterexample) -> String {
    let files =
        args.files.files.iter().flat_map(|file| ["-f".to_owned(), quoted(&file.display().to_string())]);
    let words = ["supernet".to_owned(), "trace".to_owned()].into_iter().chain(files);
    words.chain(counterexample.trace.iter().map(|word| quoted(word))).collect::<Vec<_>>().join(" ")
}

/// As a shell has to be told it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Files;

    const MANIFESTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, image: c, ports: [{containerPort: 5432}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
";

    /// The status and what is told, with the folder's name cut out.
    fn asserted(rules: &str) -> Result<(u8, String), String> {
        let folder = tempfile::tempdir().unwrap();
        let [manifests, file] = ["shop.yaml", "rules.txt"].map(|name| folder.path().join(name));
        fs::write(&manifests, MANIFESTS).unwrap();
        fs::write(&file, rules).unwrap();
        let cut = |text: String| text.replace(&format!("{}/", folder.path().display()), "");
        let args =
            AssertArgs { files: Files { files: vec![manifests] }, rules: vec![file], output: Format::Json };
        let status = run(&args).map_err(|e| cut(e.to_string()))?;
        let (mut network, _) = input::network(&args.files).unwrap();
        let report = network.check(&read(&args).unwrap()).unwrap();
        Ok((status, cut(told(&report, &args, Style::PLAIN))))
    }

    #[test]
    fn what_does_not_hold_is_shown_with_a_packet_a_rule_and_a_command() {
        let (status, text) =
            asserted("shop/web reaches shop/db\nshop/web reaches shop/db on 5432 only # not so\n").unwrap();
        let expected = "\
✓ shop/web reaches shop/db
✗ shop/web reaches shop/db on 5432 only  rules.txt:2
    shop/web (10.244.0.3) > shop/db (10.244.0.2): TCP 443 is delivered
    decided by posture egress, and shop/db ingress[0]
    supernet trace -f shop.yaml --from shop/web --to shop/db --proto tcp --port 443

✗ 1 of 2 statements does not hold.
";
        assert_eq!((status, text.as_str()), (FAILED, expected));
        assert_eq!(asserted("nothing outside shop reaches shop/db").unwrap().0, 0);
    }

    #[test]
    fn what_cannot_be_checked_is_no_pass() {
        let said = asserted("shop/wed reaches shop/db").unwrap_err();
        assert_eq!(said, "rules.txt:1:1: there is no pod or workload shop/wed; did you mean shop/web?");
        assert!(asserted("# nothing yet\n").unwrap_err().contains("no statement to check"));
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("a/b.yaml"), "a/b.yaml");
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
        assert_eq!(quoted(""), "''");
    }
}
