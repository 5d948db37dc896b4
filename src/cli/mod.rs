//! The command line: one file per command, exit codes as promised.
//!
//! 0 done; 1 the work failed; 2 the command line or the definitions are wrong; 3 a check did not hold. Results go to
//! standard output, everything else to standard error.
//!
//! Invariants: definitions are loaded and names checked before the data directory is opened.
//! Neighbours: `main` calls this; each command wires `engine`, `online`, `offline` or `verify`.

mod cell;
mod check;
mod demo;
mod explain;
mod get;
mod history;
mod label_csv;
mod label_file;
mod progress;
mod quarantine;
mod replay;
mod run;
mod say;
mod shop;
mod signals;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};

use crate::definition::{self, Definitions};
use crate::diagnostic::{Diagnostic, note, spoken};
use crate::engine::EngineError;
use crate::offline::OfflineError;
use crate::plan::{self, Plan};
use crate::reader::Reader;
use crate::state::StateError;
use say::say;

/// Feature views in SQL over Kafka events: fresh online, exact offline, proved the same.
#[derive(Parser)]
#[command(name = "headwater", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Everything at once with no Kafka at hand: an in-process broker, a made-up shop, the shipped dataflows.
    #[command(after_help = "Example:\n  headwater demo --rate 2000")]
    Demo(demo::DemoArgs),
    /// Parse and type-check the definitions, and read headwater.toml.
    #[command(after_help = "Example:\n  headwater check --dir shop --set DATA=data")]
    Check(Common),
    /// Show a view's plan.
    #[command(after_help = "Example:\n  headwater explain user_activity")]
    Explain(explain::ExplainArgs),
    /// Consume the sources and serve, until SIGTERM or SIGINT.
    #[command(after_help = "Example:\n  headwater run --brokers localhost:9092 --workers 2")]
    Run(run::RunArgs),
    /// Read the sources to their end as fast as possible, commit, and exit.
    #[command(after_help = "Example:\n  headwater replay --clock event --data-dir /tmp/hw")]
    Replay(replay::ReplayArgs),
    /// The features of entities, now or at a stamp.
    #[command(after_help = "Example:\n  headwater get user_activity 42 43 --features views_1h,spend_7d")]
    Get(get::GetArgs),
    /// The features of labels at their instants: a training set.
    #[command(
        after_help = "Example:\n  headwater history --labels labels.csv --features user_activity:*,item_popularity:ctr_24h --out train.parquet"
    )]
    History(history::HistoryArgs),
    /// Recompute from the event log with a second engine and compare bit by bit.
    #[command(after_help = "Example:\n  headwater verify --all")]
    Verify(verify::VerifyArgs),
    /// Refused records, with reason, source and offset.
    #[command(after_help = "Example:\n  headwater quarantine list")]
    Quarantine(quarantine::QuarantineArgs),
}

/// What every command takes.
#[derive(Args, Clone)]
pub(crate) struct Common {
    /// The deployment directory, with dataflows/ and schemas/.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Where state and log are; default DIR/.headwater.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Replaces ${NAME} in the definitions.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if name.is_empty() {
        return Err("write NAME=VALUE".into());
    }
    Ok((name.to_string(), value.to_string()))
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Exit 1.
    Work(anyhow::Error),
    /// Exit 2, each problem with its place.
    Definitions(Vec<Diagnostic>),
    /// Exit 2.
    Usage(anyhow::Error),
    /// Exit 3; what differs has been printed.
    Check,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        let error = error.into();
        // A directory made by other definitions is a matter of definitions.
        match state_error(&error) {
            Some(StateError::OtherDefinitions(_)) => Failure::Usage(error),
            Some(_) | None => Failure::Work(error),
        }
    }
}

impl Common {
    /// Opens the data directory to read, as of the present if nobody writes it, else as of what its writer wrote down.
    ///
    /// # Errors
    /// No data, none committed, other definitions, damage.
    fn reader(&self, plan: &Arc<Plan>) -> Result<Reader, Failure> {
        let reader = Reader::open(&self.data_dir(), plan)?;
        if reader.store.board().published().epoch == 0 {
            return Err(StateError::NothingCommitted(self.data_dir()).into());
        }
        Ok(reader)
    }
}

/// What the store said, whichever part of a command it was said to.
fn state_error(error: &anyhow::Error) -> Option<&StateError> {
    if let Some(error) = error.downcast_ref::<StateError>() {
        return Some(error);
    }
    match (error.downcast_ref::<EngineError>(), error.downcast_ref::<OfflineError>()) {
        (Some(EngineError::State(error) | EngineError::Offline(OfflineError::State(error))), _)
        | (_, Some(OfflineError::State(error))) => Some(error),
        (Some(_) | None, Some(_) | None) => None,
    }
}

pub(crate) type Outcome = Result<(), Failure>;

/// What the operating system says of a full disk, through whichever library.
const DISK_FULL: &str = "No space left on device";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Get(args) => get::run(&args),
        Command::History(args) => history::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Quarantine(args) => quarantine::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Work(e)) => {
            let said = spoken(e.as_ref());
            note(format_args!("error: {said}"));
            if said.contains(DISK_FULL) {
                note("  = free some space and start again; everything committed so far is kept");
            }
            ExitCode::from(1)
        }
        Err(Failure::Usage(e)) => {
            note(format_args!("error: {}", spoken(e.as_ref())));
            ExitCode::from(2)
        }
        Err(Failure::Definitions(problems)) => {
            for problem in &problems {
                note(format_args!("{problem}\n"));
            }
            let plural = if problems.len() == 1 { "" } else { "s" };
            note(format_args!("{} problem{plural} in the definitions", problems.len()));
            ExitCode::from(2)
        }
        Err(Failure::Check) => ExitCode::from(3),
    }
}

impl Common {
    /// The checked definitions and their plan.
    pub(crate) fn plan(&self) -> Result<(Definitions, Arc<Plan>), Failure> {
        let set: BTreeMap<String, String> = self.set.iter().cloned().collect();
        let definitions = definition::load(&self.dir, &set).map_err(|e| {
            // One look at everything: what can be planned already is.
            let mut problems = e.problems;
            problems.extend(plan::plan(&e.sound).err().into_iter().flatten());
            problems.sort_by(|a, b| a.span.cmp(&b.span));
            problems.dedup();
            Failure::Definitions(problems)
        })?;
        let plan = plan::plan(&definitions).map_err(Failure::Definitions)?;
        Ok((definitions, Arc::new(plan)))
    }

    /// Where state and log are.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| self.dir.join(".headwater"))
    }
}
