//! The report: each figure with the number of its measurements, as rows of a table, as JSON, or drawn.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    figure::Figure,
    grown::Grown,
    plot,
    stats::{quantile, shown},
};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    version: &'static str,
    broker: String,
    cores: usize,
    slots: usize,
    #[serde(skip)]
    taken: BTreeMap<Figure, Vec<f64>>,
    figures: Vec<Row>,
}

#[derive(Debug, Serialize)]
pub struct Row {
    name: String,
    unit: &'static str,
    min: f64,
    median: f64,
    max: f64,
    /// The median as a share of its ceiling.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_ceiling: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling: Option<String>,
}

impl Report {
    pub(crate) fn new(broker: String, cores: usize, slots: usize) -> Self {
        Self { version: env!("CARGO_PKG_VERSION"), broker, cores, slots, taken: BTreeMap::new(), figures: Vec::new() }
    }

    pub(crate) fn add(&mut self, figure: Figure, value: f64) {
        self.taken.entry(figure).or_default().push(value);
    }

    /// Makes the rows, each with its share of its ceiling.
    pub(crate) fn relate(&mut self) {
        let medians: BTreeMap<Figure, f64> = self.taken.iter_mut().map(|(figure, values)| (*figure, quantile(values, 0.5))).collect();
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
    pub fn plot(&self) -> String {
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

    /// Version, broker and machine in one line.
    pub fn about(&self) -> String {
        format!("taskhost {}, {}, {} threads for guests, {} slots by default", self.version, self.broker, self.cores, self.slots)
    }

    /// The rows of a table: figure, least, median, most, unit, share of its ceiling.
    pub fn table(&self) -> Vec<[String; 6]> {
        let cells = |(figure, row): (&Figure, &Row)| {
            let share = row.of_ceiling.map_or_else(String::new, |share| format!("{share:.2}"));
            [figure.name(), shown(row.min), shown(row.median), shown(row.max), row.unit.to_owned(), share]
        };
        self.taken.keys().zip(&self.figures).map(cells).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_it_is_a_share_of() {
        let mut report = Report::new("SQLite".into(), 2, 256);
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
