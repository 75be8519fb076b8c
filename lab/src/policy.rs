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

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, at: &str, rule: Option<&str>, what: &str) -> Finding {
        Finding {
            severity,
            at: at.to_owned(),
            policy: "shop/web".to_owned(),
            rule: rule.map(str::to_owned),
            kind: "selectsNoPod",
            what: what.to_owned(),
            advice: "look at it".to_owned(),
        }
    }

    #[test]
    fn findings_are_a_table_and_a_count() {
        let findings = vec![
            finding(Severity::Warning, "a.yaml:12:1", None, "selects no pod"),
            finding(Severity::Note, "b.yaml:3:1", Some("ingress[0]"), "is staged"),
        ];
        let expected = "\
Findings
           WHERE        POLICY    RULE        WHAT            WHAT TO DO
  warning  a.yaml:12:1  shop/web  -           selects no pod  look at it
  note     b.yaml:3:1   shop/web  ingress[0]  is staged       look at it

✗ 4 policies: 1 warning, 1 note
";
        assert_eq!(table(&Lint { policies: 4, findings }, Style::PLAIN), expected);
        let none = Lint { policies: 1, findings: Vec::new() };
        assert_eq!(table(&none, Style::PLAIN), "✓ 1 policy: 0 warnings, 0 notes\n");
    }
}
