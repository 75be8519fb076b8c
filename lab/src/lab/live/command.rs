//! `supernet lab apply|delete|status|rules`: what people ask of a running lab, and what they get to read.

use super::{
    change::{ChangeKind, Changes},
    client::{self, ClientError},
    rules::Rules,
    status::{self, Status},
    target, watch,
    wire::{Answer, Apply, Ask, Delete, File},
};
use crate::{
    cli::{ApplyArgs, DEFAULT_LAB, DeleteArgs, Format, RulesArgs, StatusArgs},
    input,
    lab::{state, supervise::Signals},
    output::{self, Listing, OutputError, Style},
};
use serde::Serialize;
use std::{
    error::Error,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};
use supernet::control::manifests;

/// `lab apply`. The exit status to end with.
pub(crate) fn apply(args: &ApplyArgs) -> Result<u8, Box<dyn Error>> {
    if let Some(folder) = &args.watch {
        return Ok(watch::run(&args.name, folder, |files| request(args, files), args.output)?);
    }
    let ask = request(args, texts(&args.files)?);
    print(&changes(&args.name, &ask)?, args.output)?;
    Ok(0)
}

fn request(args: &ApplyArgs, files: Vec<File>) -> Ask {
    let no_serve = args.no_serve.clone();
    Ask::Apply(Apply { files, prune: args.prune, no_serve, dry_run: args.dry_run })
}

/// `lab delete`. The exit status to end with.
pub(crate) fn delete(args: &DeleteArgs) -> Result<u8, Box<dyn Error>> {
    let objects = match &args.kind {
        Some(kind) => target::parse(kind, &args.names)?,
        None => Vec::new(),
    };
    let ask = Ask::Delete(Delete {
        files: texts(&args.files)?,
        objects,
        ignore_not_found: args.ignore_not_found,
        dry_run: args.dry_run,
    });
    print(&changes(&args.name, &ask)?, args.output)?;
    Ok(0)
}

/// `lab status`. The exit status to end with.
pub(crate) fn status(args: &StatusArgs) -> Result<u8, Box<dyn Error>> {
    let lab = match (&args.name, &state::running()[..]) {
        (Some(name), _) => name.clone(),
        (None, [one]) => one.clone(),
        (None, []) => {
            return Err(state::absent(DEFAULT_LAB).into());
        }
        (None, several) => {
            output::print(&Labs::of(several), args.output, Labs::tables)?;
            return Ok(0);
        }
    };
    let ask = || match client::ask(&lab, &Ask::Status)? {
        Answer::Status(status) => Ok(status),
        _ => Err(ClientError::Unexpected { lab: lab.clone() }),
    };
    if !args.watch {
        output::print(&*ask()?, args.output, Status::tables)?;
        return Ok(0);
    }
    let signals = Signals::catch()?;
    loop {
        let status = ask()?;
        match args.output {
            Format::Table if io::stdout().is_terminal() => {
                // To the top, and what is left of the last one cleared line by line: nothing flickers.
                let text = status.tables(Style::detect()).replace('\n', "\x1b[K\n");
                if !say(&format!("\x1b[H{text}\x1b[J"))? {
                    return Ok(0);
                }
            }
            Format::Json => {
                if !say(&(serde_json::to_string(&status)? + "\n"))? {
                    return Ok(0);
                }
            }
            format => output::print(&*status, format, Status::tables)?,
        }
        if signals.come_within(Duration::from_secs(1)) {
            return Ok(0);
        }
    }
}

/// `lab rules`. The exit status to end with.
pub(crate) fn rules(args: &RulesArgs) -> Result<u8, Box<dyn Error>> {
    let lab = || args.name.clone();
    let Answer::Rules(mut rules) = client::ask(&args.name, &Ask::Rules)? else {
        return Err(ClientError::Unexpected { lab: lab() }.into());
    };
    if let Some(target) = &args.target {
        let mut known: Vec<String> = rules.rules.iter().map(|rule| rule.policy.clone()).collect();
        known.dedup();
        if !rules.keep(target) {
            return Err(NoPolicy { lab: lab(), target: target.clone(), known }.into());
        }
    }
    output::print(&rules, args.output, Rules::tables)?;
    Ok(0)
}

/// No policy is called so, nor any policy's namespace.
#[derive(Debug, thiserror::Error)]
#[error("lab {lab} has no policy {target}, and none in a namespace {target}; there is: {}", output::list(known.clone().into_iter(), 10))]
struct NoPolicy {
    lab: String,
    target: String,
    known: Vec<String>,
}

/// Has a lab changed, or asks what a change would do.
pub(super) fn changes(lab: &str, ask: &Ask) -> Result<Changes, ClientError> {
    match client::ask(lab, ask)? {
        Answer::Changes(changes) => Ok(changes),
        _ => Err(ClientError::Unexpected { lab: lab.to_owned() }),
    }
}

/// The texts of files and folders.
pub(super) fn texts(paths: &[PathBuf]) -> Result<Vec<File>, manifests::Errors> {
    Ok(manifests::texts(paths)?.into_iter().map(File::from).collect())
}

/// Prints to standard output; `false` when nobody reads it any more.
pub(super) fn say(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

fn print(changes: &Changes, format: Format) -> Result<(), OutputError> {
    if format == Format::Table {
        input::warn(&changes.warnings);
    }
    output::print(changes, format, Changes::tables)
}

/// Several labs.
#[derive(Debug, Serialize)]
struct Labs {
    labs: Vec<Lab>,
}

/// A lab among others. Nothing is known of one that does not answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Lab {
    lab: String,
    pid: Option<u32>,
    uptime_seconds: Option<u64>,
    hosts: Option<usize>,
    sessions: Option<u64>,
    error: Option<String>,
}

impl Labs {
    fn of(names: &[String]) -> Self {
        let labs = names.iter().map(|name| {
            let (status, error) = match client::ask(name, &Ask::Status) {
                Ok(Answer::Status(status)) => (Some(status), None),
                Ok(_) => (None, Some(ClientError::Unexpected { lab: name.clone() }.to_string())),
                Err(e) => (None, Some(e.to_string())),
            };
            let status = status.as_ref();
            Lab {
                lab: name.clone(),
                pid: status.map(|s| s.pid),
                uptime_seconds: status.map(|s| s.uptime_seconds),
                hosts: status.map(|s| s.hosts.len()),
                sessions: status.map(|s| s.sessions.count),
                error,
            }
        });
        Self { labs: labs.collect() }
    }

    fn tables(&self, style: Style) -> String {
        let mut table = Listing::new("Labs", &["LAB", ">PROCESS", "UP FOR", ">HOSTS", ">SESSIONS"], style);
        let mut errors = String::new();
        for lab in &self.labs {
            table.row([
                lab.lab.clone(),
                output::or_dash(lab.pid),
                output::or_dash(lab.uptime_seconds.map(status::duration)),
                output::or_dash(lab.hosts),
                output::or_dash(lab.sessions),
            ]);
            if let Some(error) = &lab.error {
                errors.push_str(&format!("{error}\n"));
            }
        }
        table.render() + &errors + "One of them in full: supernet lab status --name LAB\n"
    }
}

/// The objects of a change, one a line, for a log.
pub(super) fn lines(changes: &Changes) -> String {
    let line = |o: &super::change::ObjectChange| {
        let sign = match o.change {
            ChangeKind::Added => '+',
            ChangeKind::Changed => '~',
            ChangeKind::Removed => '-',
        };
        let namespace = o.namespace.as_ref().map_or_else(String::new, |n| format!("{n}/"));
        let addresses: String = o.addresses.iter().map(|a| format!(" {a}")).collect();
        format!("  {sign} {} {namespace}{}{addresses}\n", o.kind, o.name)
    };
    changes.objects.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command, LabCommand};
    use clap::{Parser, error::ErrorKind};

    fn parse(args: &str) -> Result<LabCommand, ErrorKind> {
        match Cli::try_parse_from(["supernet", "lab"].into_iter().chain(args.split(' '))) {
            Ok(Cli { command: Command::Lab(command) }) => Ok(command),
            Ok(other) => panic!("{other:?}"),
            Err(e) => Err(e.kind()),
        }
    }

    #[test]
    fn files_or_a_folder_to_follow_or_names() {
        for good in [
            "apply -f a -f b --prune",
            "apply --watch d --prune",
            "delete -f a",
            "delete pod a/b c --dry-run",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        let missing = ["apply", "apply --prune", "delete", "delete pod"];
        assert!(missing.iter().all(|args| parse(args).unwrap_err() == ErrorKind::MissingRequiredArgument));
        let conflicts = ["apply -f a --watch d", "apply --watch d --dry-run", "delete -f a pod b"];
        assert!(conflicts.iter().all(|args| parse(args).unwrap_err() == ErrorKind::ArgumentConflict));
        assert!(matches!(parse("status --watch"), Ok(LabCommand::Status(args)) if args.name.is_none()));
    }
}
