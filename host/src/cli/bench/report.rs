//! The figures: what each is called, what its ceiling is, how often it was taken; as a table or as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Failure, growth::Grown, output, plot};
use crate::config::{Settings, units};

/// What was measured, in the order it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Figure {
    RoundTrips,
    BrokerCeiling,
    BrokerCeilingCpu,
    EngineCeiling,
    EngineCpu,
    EnqueueSingle,
    EnqueueBulk,
    EnqueueHostCpu,
    EnqueueServerCpu,
    WaitingMemory,
    Drain(usize),
    DrainDefault,
    HostCpu,
    ServerCpu,
    FinishedMemory,
    Resident,
    EndToEnd,
    Idle50,
    Idle95,
    Idle99,
    IdleCpu,
    IdleCommands,
    IdleResident,
    Late50,
    Late99,
    ColdStart,
    WarmStart,
    Growth(Grown, usize),
}

impl Figure {
    #[expect(clippy::match_same_arms, reason = "the same words stand under several headings, in the order of the report")]
    fn name(self) -> String {
        match self {
            Self::RoundTrips => "ceiling: one SET after the other",
            Self::BrokerCeiling => "ceiling: claim and finish, nothing run",
            Self::BrokerCeilingCpu => "  CPU of the server, a task",
            Self::EngineCeiling => "ceiling: isolated calls, no broker",
            Self::EngineCpu => "  CPU of this process, a call",
            Self::EnqueueSingle => "enqueue, one by one",
            Self::EnqueueBulk => "enqueue, in bulk",
            Self::EnqueueHostCpu => "  CPU of this process, a task",
            Self::EnqueueServerCpu => "  CPU of the server, a task",
            Self::WaitingMemory => "  memory of a waiting task",
            Self::Drain(slots) => return format!("drain, {slots} {}", if slots == 1 { "slot" } else { "slots" }),
            Self::DrainDefault => "drain, default slots",
            Self::HostCpu => "  CPU of this process, a task",
            Self::ServerCpu => "  CPU of the server, a task",
            Self::FinishedMemory => "  memory of a finished task",
            Self::Resident => "  memory of this process",
            Self::EndToEnd => "end to end, producer and worker at once",
            Self::Idle50 => "idle: enqueue to result, p50",
            Self::Idle95 => "idle: enqueue to result, p95",
            Self::Idle99 => "idle: enqueue to result, p99",
            Self::IdleCpu => "idle: CPU of a worker",
            Self::IdleCommands => "idle: commands to the server",
            Self::IdleResident => "idle: memory of this process",
            Self::Late50 => "delayed: started late by, p50",
            Self::Late99 => "delayed: started late by, p99",
            Self::ColdStart => "start to first result, nothing compiled",
            Self::WarmStart => "start to first result, compiled before",
            Self::Growth(grown, size) => return format!("{}: {size}", grown.title()),
        }
        .to_owned()
    }

    fn unit(self) -> &'static str {
        match self {
            Self::RoundTrips | Self::IdleCommands => "1/s",
            Self::BrokerCeiling
            | Self::EngineCeiling
            | Self::EnqueueSingle
            | Self::EnqueueBulk
            | Self::Drain(_)
            | Self::DrainDefault
            | Self::EndToEnd => "tasks/s",
            Self::BrokerCeilingCpu | Self::EngineCpu | Self::EnqueueHostCpu | Self::EnqueueServerCpu | Self::HostCpu | Self::ServerCpu => {
                "µs"
            }
            Self::WaitingMemory | Self::FinishedMemory => "B",
            Self::Resident | Self::IdleResident => "MiB",
            Self::Growth(grown, _) => grown.unit(),
            Self::IdleCpu => "% of a core",
            Self::Idle50 | Self::Idle95 | Self::Idle99 | Self::Late50 | Self::Late99 | Self::ColdStart | Self::WarmStart => "ms",
        }
    }

    /// What it can at most be, or at least for what takes time.
    fn ceiling(self) -> Option<Self> {
        match self {
            Self::EnqueueSingle => Some(Self::RoundTrips),
            Self::Drain(_) | Self::DrainDefault | Self::EndToEnd => Some(Self::BrokerCeiling),
            Self::HostCpu => Some(Self::EngineCpu),
            Self::ServerCpu => Some(Self::BrokerCeilingCpu),
            _ => None,
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: &'static str,
    broker: String,
    cores: usize,
    slots: usize,
    #[serde(skip)]
    taken: BTreeMap<Figure, Vec<f64>>,
    figures: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    unit: &'static str,
    min: f64,
    median: f64,
    max: f64,
    /// The median as a share of what it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_ceiling: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling: Option<String>,
}

impl Report {
    pub(super) fn new(settings: &Settings, broker: String) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            broker,
            cores: settings.threads,
            slots: settings.concurrency,
            taken: BTreeMap::new(),
            figures: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, figure: Figure, value: f64) {
        self.taken.entry(figure).or_default().push(value);
    }

    /// Makes the rows, each with its share of its ceiling.
    pub(super) fn relate(&mut self) {
        let medians: BTreeMap<Figure, f64> =
            self.taken.iter_mut().map(|(figure, values)| (*figure, super::quantile(values, 0.5))).collect();
        let row = |(figure, values): (&Figure, &Vec<f64>)| {
            let ceiling = figure.ceiling().and_then(|ceiling| Some((ceiling, medians.get(&ceiling)?)));
            Row {
                name: figure.name().trim().to_owned(),
                unit: figure.unit(),
                min: values.first().copied().unwrap_or(f64::NAN),
                median: medians[figure],
                max: values.last().copied().unwrap_or(f64::NAN),
                of_ceiling: ceiling.map(|(_, most)| medians[figure] / most),
                ceiling: ceiling.map(|(ceiling, _)| ceiling.name().trim().to_owned()),
            }
        };
        self.figures = self.taken.iter().map(row).collect();
    }

    /// The growth figures, drawn.
    pub(super) fn plot(&self) -> String {
        let panels: Vec<plot::Panel> = Grown::ALL
            .into_iter()
            .map(|of| {
                let bars = self.taken.keys().zip(&self.figures).filter_map(|(figure, row)| match figure {
                    Figure::Growth(grown, size) if *grown == of => Some((*size, row.median)),
                    _ => None,
                });
                (of, bars.collect())
            })
            .collect();
        plot::svg(&panels, &self.about())
    }

    fn about(&self) -> String {
        format!("taskhost {}, {}, {} threads for guests, {} slots by default", self.version, self.broker, self.cores, self.slots)
    }

    pub(super) fn print(&self) -> Result<(), Failure> {
        let mut rows = output::Rows::new(&["FIGURE", "MIN", "MEDIAN", "MAX", "UNIT", "OF ITS CEILING"]);
        for (figure, row) in self.taken.keys().zip(&self.figures) {
            let share = row.of_ceiling.map_or_else(String::new, |share| format!("{share:.2}"));
            let cells = [figure.name(), shown(row.min), shown(row.median), shown(row.max), row.unit.to_owned(), share];
            rows.add(cells.into_iter().map(output::cell).collect());
        }
        rows.print("nothing was measured")?;
        output::note(&self.about());
        if let Some(bytes) = super::usage::resident() {
            tracing::debug!(resident = units::show_size(bytes), "measured");
        }
        Ok(())
    }
}

/// Three digits are what a measurement is worth.
pub(super) fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_show_their_order_of_size() {
        assert_eq!(["70123", "12.3", "0.52"].map(str::to_owned), [shown(70_123.4), shown(12.34), shown(0.523)]);
    }

    #[test]
    fn a_row_says_what_it_is_a_share_of() {
        let settings = Settings::load(None, &[]).unwrap();
        let mut report = Report::new(&settings, "SQLite".into());
        for (ceiling, drained) in [(100.0, 50.0), (120.0, 60.0), (110.0, 55.0)] {
            report.add(Figure::BrokerCeiling, ceiling);
            report.add(Figure::DrainDefault, drained);
        }
        report.relate();
        let drain = &report.figures[1];
        assert_eq!((drain.min, drain.median, drain.max), (50.0, 55.0, 60.0));
        assert_eq!((drain.of_ceiling, drain.ceiling.as_deref()), (Some(0.5), Some("ceiling: claim and finish, nothing run")));
    }
}
