//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::subject::Kind;

/// All samples, in the order in which their rows were first seen.
#[derive(Debug, Default)]
pub(super) struct Report {
    rows: Vec<Row>,
    tls: BTreeMap<Kind, String>,
    remarks: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    what: String,
    unit: &'static str,
    tsnet: Vec<f64>,
    serve: Vec<f64>,
    postern: Vec<f64>,
}

impl Report {
    /// Adds a sample.
    pub(super) fn add(&mut self, what: &str, unit: &'static str, kind: Kind, value: f64) {
        let known = self
            .rows
            .iter()
            .position(|row| row.what == what && row.unit == unit);
        let at = known.unwrap_or_else(|| {
            self.rows.push(Row {
                what: what.to_owned(),
                unit,
                tsnet: Vec::new(),
                serve: Vec::new(),
                postern: Vec::new(),
            });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        match kind {
            Kind::Tsnet => row.tsnet.push(value),
            Kind::Serve => row.serve.push(value),
            Kind::Postern => row.postern.push(value),
        }
    }

    /// Adds what a reader of the figures should know.
    pub(super) fn remark(&mut self, remark: String) {
        self.remarks.push(remark);
    }

    /// Notes what was negotiated with `kind`.
    ///
    /// # Errors
    /// It differs from what another one negotiated, so that figures can't be compared.
    pub(super) fn negotiated(&mut self, kind: Kind, tls: String) -> Result<()> {
        if let Some((other, theirs)) = self.tls.iter().find(|(_, theirs)| **theirs != tls) {
            ensure!(
                *theirs == tls,
                "{kind} negotiates {tls}, but {other} {theirs}: figures can't be compared"
            );
        }
        self.tls.insert(kind, tls);
        Ok(())
    }

    pub(super) fn json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct All<'a> {
            tls: Option<&'a String>,
            rows: &'a [Row],
            remarks: &'a [String],
        }
        Ok(serde_json::to_string_pretty(&All {
            tls: self.tls.values().next(),
            rows: &self.rows,
            remarks: &self.remarks,
        })?)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tls) = self.tls.values().next() {
            writeln!(f, "TLS on all sides: {tls}\n")?;
        }
        writeln!(
            f,
            "| {:<44} | {:<13} | {:>8} | {:>15} | {:>8} | {:>6} |",
            "row",
            "unit",
            Kind::Tsnet,
            Kind::Serve,
            Kind::Postern,
            "ratio"
        )?;
        writeln!(
            f,
            "|{:-<46}|{:-<15}|{:->10}|{:->17}|{:->10}|{:->8}|",
            "", "", "", "", "", ""
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "| {:<44} | {:<13} | {:>8} | {:>15} | {:>8} | {:>6} |",
                row.what,
                row.unit,
                number(median(&row.tsnet)),
                number(median(&row.serve)),
                number(median(&row.postern)),
                number(row.ratio())
            )?;
        }
        for remark in &self.remarks {
            writeln!(f, "{remark}")?;
        }
        Ok(())
    }
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

impl Row {
    /// Of ours to the better of theirs, the higher rate or the lower cost: the median of those of the rounds, since what
    /// disturbs the machine disturbs a round's sides alike.
    fn ratio(&self) -> Option<f64> {
        let better = match self.unit {
            unit if unit.starts_with("cores") => return None,
            unit if unit.ends_with("/s") => f64::max,
            _ => f64::min,
        };
        let ratio = |(round, ours): (usize, &f64)| {
            let theirs = [&self.tsnet, &self.serve]
                .into_iter()
                .filter_map(|side| side.get(round));
            let best = theirs.copied().reduce(better)?;
            (best > 0.0).then(|| ours / best)
        };
        let ratios: Vec<_> = self.postern.iter().enumerate().filter_map(ratio).collect();
        median(&ratios)
    }
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(unit: &'static str, tsnet: &[f64], serve: &[f64], postern: &[f64]) -> Option<f64> {
        let row = Row {
            what: String::new(),
            unit,
            tsnet: tsnet.to_vec(),
            serve: serve.to_vec(),
            postern: postern.to_vec(),
        };
        row.ratio()
    }

    #[test]
    fn a_rate_is_compared_with_the_higher_and_a_cost_with_the_lower() {
        assert_eq!(ratio("req/s", &[100.0], &[200.0], &[400.0]), Some(2.0));
        assert_eq!(ratio("µs/req", &[100.0], &[200.0], &[25.0]), Some(0.25));
        assert_eq!(ratio("MiB", &[100.0], &[], &[25.0]), Some(0.25));
        assert_eq!(ratio("MiB", &[], &[], &[25.0]), None);
        assert_eq!(ratio("cores, client", &[1.0], &[1.0], &[1.0]), None);
    }

    #[test]
    fn a_ratio_is_of_what_was_measured_in_the_same_round() {
        let slow_machine_in_the_second = ratio(
            "µs/req",
            &[100.0, 200.0, 100.0],
            &[300.0, 600.0, 300.0],
            &[50.0, 100.0, 40.0],
        );
        assert_eq!(slow_machine_in_the_second, Some(0.5));
    }

    #[test]
    fn sides_that_negotiate_differently_are_not_compared() {
        let mut report = Report::default();
        report.negotiated(Kind::Tsnet, "1.3 X25519".to_owned()).unwrap();
        report.negotiated(Kind::Serve, "1.3 X25519".to_owned()).unwrap();
        let error = report
            .negotiated(Kind::Postern, "1.3 P-256".to_owned())
            .unwrap_err();
        assert!(error.to_string().contains("can't be compared"), "{error}");
    }
}
