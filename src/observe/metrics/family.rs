//! A metric with all its series, for every form in which metrics leave the gate.

use std::fmt::Error;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::counters::BUCKETS;

/// The names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// One series of a metric: its labels and its value.
pub type Series<T> = (Labels, T);

/// A metric with all its series.
#[derive(Debug)]
pub struct MetricFamily {
    /// The name, without its unit and without the suffix of its type.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// The unit of its values; nothing: they are plain counts.
    pub unit: Option<MetricUnit>,
    /// Its series.
    pub points: MetricPoints,
}

/// The unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricUnit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// The series of a metric, by its type.
#[derive(Debug)]
pub enum MetricPoints {
    /// Sums that only grow.
    Counter(Vec<Series<u64>>),
    /// Values of this moment.
    Gauge(Vec<Series<i64>>),
    /// Durations, by how long they are.
    Histogram(Vec<Series<HistogramSums>>),
    /// Facts about the program, as labels.
    Info(Labels),
}

/// The sums of a histogram over all workers.
#[derive(Debug)]
pub struct HistogramSums {
    /// How many durations each bucket has.
    pub buckets: Vec<u64>,
    /// The sum of all durations.
    pub microseconds: u64,
}

impl MetricUnit {
    /// Returns the word at the end of names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }

    const fn registered(self) -> Unit {
        match self {
            Self::Seconds => Unit::Seconds,
            Self::Bytes => Unit::Bytes,
        }
    }
}

impl HistogramSums {
    /// Returns the upper bounds of the buckets in seconds; the last bucket has none.
    pub fn bounds() -> impl Iterator<Item = f64> {
        BUCKETS.iter().map(|microseconds| *microseconds as f64 / 1e6)
    }

    /// Returns the sum of all durations in seconds.
    #[must_use]
    pub const fn seconds(&self) -> f64 {
        self.microseconds as f64 / 1e6
    }

    /// Returns how many durations there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl MetricFamily {
    /// Returns the name that its series have: with the unit and the suffix of its type.
    #[must_use]
    pub fn series_name(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let suffix = match self.points {
            MetricPoints::Counter(_) => "_total",
            MetricPoints::Info(_) => "_info",
            MetricPoints::Gauge(_) | MetricPoints::Histogram(_) => "",
        };
        format!("{}{unit}{suffix}", self.name)
    }

    /// Returns whether it has no series.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        match &self.points {
            MetricPoints::Counter(rows) => rows.is_empty(),
            MetricPoints::Gauge(rows) => rows.is_empty(),
            MetricPoints::Histogram(rows) => rows.is_empty(),
            MetricPoints::Info(_) => false,
        }
    }

    /// Writes the metric as OpenMetrics text.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let kind = match self.points {
            MetricPoints::Counter(_) => MetricType::Counter,
            MetricPoints::Gauge(_) => MetricType::Gauge,
            MetricPoints::Histogram(_) => MetricType::Histogram,
            MetricPoints::Info(_) => MetricType::Info,
        };
        let unit = self.unit.map(MetricUnit::registered);
        let mut encoder = encoder.encode_descriptor(self.name, self.help, unit.as_ref(), kind)?;
        match &self.points {
            MetricPoints::Counter(rows) => {
                write(encoder, rows, |encoder, value| encoder.encode_counter::<NoLabelSet, _, u64>(value, None))
            }
            MetricPoints::Gauge(rows) => write(encoder, rows, |encoder, value| encoder.encode_gauge(value)),
            MetricPoints::Histogram(rows) => write(encoder, rows, |encoder, sums| {
                let bounds = HistogramSums::bounds().chain([f64::INFINITY]);
                let buckets: Vec<_> = bounds.zip(sums.buckets.iter().copied()).collect();
                encoder.encode_histogram::<NoLabelSet>(sums.seconds(), sums.count(), &buckets, None)
            }),
            MetricPoints::Info(labels) => encoder.encode_info(labels),
        }
    }
}

fn write<T>(
    mut encoder: MetricEncoder<'_>,
    rows: &[Series<T>],
    encode: impl Fn(&mut MetricEncoder<'_>, &T) -> Result<(), Error>,
) -> Result<(), Error> {
    for (labels, value) in rows {
        match labels.is_empty() {
            true => encode(&mut encoder, value)?,
            false => encode(&mut encoder.encode_family(labels)?, value)?,
        }
    }
    Ok(())
}
