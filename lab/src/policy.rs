//! `supernet policy lint`: what is odd about policies, for people and for pipelines.

use crate::{
    cli::{Format, LintArgs},
    input,
    output::{self, Listing, Style},
};
use std::error::Error;
use supernet_control::analysis::lint::{Finding, Lint, Severity};

/// Exit status of policies with warnings.
const WARNINGS: u8 = 5;

pub(crate) fn lint(args: &LintArgs) -> Result<u8, Box<dyn Error>> {
    let (network, warnings) = input::network(&args.files)?;
    let lint = network.lint();
    if args.output == Format::Table {
        input::warn(&warnings);
    }
    output::print(&lint, args.output, table)?;
    Ok(if lint.warnings() == 0 { 0 } else { WARNINGS })
}

fn table(lint: &Lint, style: Style) -> String {
    let mut table = Listing::new("Findings", &["", "WHERE", "POLICY", "RULE", "WHAT", "WHAT TO DO"], style);
    for Finding { severity, at, policy, rule, what, advice, .. } in &lint.findings {
        let severity = match severity {
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        let rule = output::or_dash(rule.as_ref());
        table.row([severity.to_owned(), at.clone(), policy.clone(), rule, what.clone(), advice.clone()]);
    }
    let (warnings, all) = (lint.warnings(), lint.findings.len());
    let mark = if warnings == 0 { style.green("✓") } else { style.red("✗") };
    let counts = format!("{}, {}", count(warnings, "warning"), count(all - warnings, "note"));
    format!("{}{mark} {}: {counts}\n", table.render(), plural(lint.policies, "policy", "policies"))
}

fn count(n: usize, what: &str) -> String {
    plural(n, what, &format!("{what}s"))
}

fn plural(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
