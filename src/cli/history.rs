//! `headwater history`: a label file in, the same rows with the features of their instants out.
//!
//! Invariants: the result appears whole or not at all; names are checked before the data directory is opened.
//! Neighbours: `offline::history` joins, `label_file` reads and writes.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::label_file::{FileFormat, JoinedWriter, LabelReader};
use super::{Common, Outcome};
use crate::offline::history::parse_features;
use crate::offline::{History, HistoryError, HistoryRequest, Mode, Offline};
use crate::plan::Plan;

/// What `headwater history` takes.
#[derive(Args)]
pub(crate) struct HistoryArgs {
    /// The label file, CSV or Parquet by its extension: entity columns, a time column, and whatever else.
    #[arg(long, value_parser = known_format)]
    labels: PathBuf,
    /// The features, separated by commas: view:feature, view:*, or the name of a service.
    #[arg(long, value_delimiter = ',', required = true)]
    features: Vec<String>,
    /// Where the result goes, CSV or Parquet by its extension.
    #[arg(long, value_parser = known_format)]
    out: PathBuf,
    /// What counts: what was known at a label's instant, or what is known now.
    #[arg(long, value_enum, default_value = "served")]
    mode: ModeArg,
    /// The column with each label's instant; default as_of, or event_timestamp.
    #[arg(long)]
    time_column: Option<String>,
    /// Name the columns view__feature.
    #[arg(long)]
    full_names: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModeArg {
    /// What was known at the label's instant.
    Served,
    /// What is known now, late events included.
    Corrected,
}

fn known_format(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match FileFormat::of(&path) {
        Some(_) => Ok(path),
        None => Err("the file's name must end in .csv or .parquet".into()),
    }
}

pub(super) fn run(args: &HistoryArgs) -> Outcome {
    let (_, plan) = args.common.plan()?;
    let request = args.request(&plan)?;
    // A missing label file is found before the data directory is touched.
    // (Not opened: a pipe could be read once only.)
    std::fs::metadata(&args.labels).with_context(|| args.labels.display().to_string())?;
    let reader = args.common.reader(&plan)?;
    Ok(run_history(&reader.offline, &request, args)?)
}

impl HistoryArgs {
    /// The features by their places in the plan.
    ///
    /// # Errors
    /// A view, feature or service that does not exist.
    fn request(&self, plan: &Plan) -> anyhow::Result<HistoryRequest> {
        let features = parse_features(plan, &self.features)?;
        let mode = match self.mode {
            ModeArg::Served => Mode::Served,
            ModeArg::Corrected => Mode::Corrected,
        };
        Ok(HistoryRequest { features, mode, full_names: self.full_names })
    }
}

/// Reads the labels, joins them chunk by chunk, and writes the result.
fn run_history(offline: &Arc<Offline>, request: &HistoryRequest, args: &HistoryArgs) -> anyhow::Result<()> {
    let history = History::new(offline, request)?;
    let format =
        |path: &Path| FileFormat::of(path).with_context(|| format!("{}: neither CSV nor Parquet", path.display()));
    let mut labels = LabelReader::open(&args.labels, format(&args.labels)?)?;
    let time_column = args.time_column.as_deref();
    let shown = || args.labels.display().to_string();
    let joined = history.joined_schema(labels.schema(), time_column).with_context(shown)?;
    let place = Place::new(&args.out);
    let file = File::create(place.path()).with_context(|| place.path().display().to_string())?;
    let mut out = JoinedWriter::new(file, format(&args.out)?, &labels, &joined)?;
    let mut progress = Progress::new();
    while let Some(chunk) = labels.next().with_context(shown)? {
        let features = history.join(&chunk.batch, time_column, progress.rows).map_err(|e| match e {
            // What the log lacks is not the labels' fault.
            HistoryError::Offline(e) => anyhow::Error::from(e),
            e => anyhow::Error::from(e).context(shown()),
        })?;
        out.write(&chunk, &features)?;
        progress.advance(features.num_rows());
    }
    out.finish()?;
    progress.finish();
    place.keep()
}

/// Where the result is written: beside its place, until it is whole.
struct Place {
    target: PathBuf,
    unfinished: Option<PathBuf>,
}

impl Place {
    fn new(target: &Path) -> Place {
        // A pipe or a device cannot be replaced; it is written to.
        let special = std::fs::metadata(target).is_ok_and(|m| !m.is_file());
        let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let beside = target.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        Place { target: target.to_path_buf(), unfinished: (!special).then_some(beside) }
    }

    fn path(&self) -> &Path {
        self.unfinished.as_deref().unwrap_or(&self.target)
    }

    fn keep(mut self) -> anyhow::Result<()> {
        match self.unfinished.take() {
            Some(unfinished) => {
                std::fs::rename(&unfinished, &self.target).with_context(|| self.target.display().to_string())
            }
            None => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            // It may not have been made; there is nobody to tell.
            let _ = std::fs::remove_file(unfinished);
        }
    }
}

/// How far it has come, on a terminal.
struct Progress {
    rows: usize,
    shown: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { rows: 0, shown: std::io::stderr().is_terminal() }
    }

    fn advance(&mut self, rows: usize) {
        self.rows += rows;
        if self.shown {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r{} labels joined", self.rows).and_then(|()| err.flush());
        }
    }

    fn finish(&self) {
        if self.shown && self.rows > 0 {
            let _ = writeln!(std::io::stderr().lock());
        }
    }
}
