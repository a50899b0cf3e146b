//! Writes families of series. The library's own families keep their values; ours are counted elsewhere and only shown.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::buckets::{Buckets, Held};

/// A histogram as it is read once.
pub(super) struct Histogram(f64, u64, Vec<(f64, u64)>);

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_histogram::<[(&str, &str); 0]>(self.0, self.1, &self.2, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Buckets {
    pub(super) fn histogram(&self) -> Histogram {
        self.held().histogram()
    }
}

impl Held {
    pub(super) fn histogram(&self) -> Histogram {
        let (sum, count, buckets) = self.read();
        Histogram(sum, count, buckets)
    }
}

/// Writes one metric with all its series.
pub(super) fn family<'a, M: EncodeMetric, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    kind: MetricType,
    series: impl IntoIterator<Item = ([(&'static str, &'a str); N], M)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in series {
        let labels = labels.as_slice();
        value.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

pub(super) fn counter_of_seconds(value: f64) -> ConstCounter<f64> {
    ConstCounter::new(value)
}

pub(super) fn counter(value: u64) -> ConstCounter<u64> {
    ConstCounter::new(value)
}

pub(super) fn gauge(value: f64) -> ConstGauge<f64> {
    ConstGauge::new(value)
}
