//! What is counted of TLS.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// The families of TLS; clones count into the same.
#[derive(Clone, Debug, Default)]
pub struct TlsMetrics {
    handshakes: Family<OutcomeLabels, Counter>,
    in_flight: Gauge,
    reloads: Family<OutcomeLabels, Counter>,
    expiry: Gauge,
}

impl TlsMetrics {
    /// All families at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for outcome in ["ok", "failed"] {
            let _ = metrics
                .reloads
                .get_or_create_owned(&OutcomeLabels { outcome });
        }
        let _ = metrics
            .handshakes
            .get_or_create_owned(&OutcomeLabels { outcome: "ok" });
        registry.register(
            "tls_handshakes",
            "TLS handshakes ended, by outcome",
            metrics.handshakes.clone(),
        );
        registry.register(
            "tls_handshakes_in_flight",
            "TLS handshakes begun and not ended",
            metrics.in_flight.clone(),
        );
        registry.register(
            "tls_reloads",
            "Times that certificate and key were read again, by outcome",
            metrics.reloads.clone(),
        );
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            "End of the validity of the certificate in use, in Unix time; 0 without TLS",
            Unit::Seconds,
            metrics.expiry.clone(),
        );
        metrics
    }

    /// Lets outcomes be seen before they happen.
    pub fn may_shake(&self, outcomes: &[&'static str]) {
        for outcome in outcomes {
            let _ = self
                .handshakes
                .get_or_create_owned(&OutcomeLabels { outcome });
        }
    }

    /// Counts a handshake that ended.
    pub fn handshake(&self, outcome: &'static str) {
        self.handshakes
            .get_or_create_owned(&OutcomeLabels { outcome })
            .inc();
    }

    /// A handshake is under way until the returned value is dropped.
    pub fn begins_handshake(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts an attempt to read certificate and key again.
    pub fn reloaded(&self, ok: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        self.reloads
            .get_or_create_owned(&OutcomeLabels { outcome })
            .inc();
    }

    /// Until when the certificate in use is valid, in seconds since 1970.
    pub fn expires(&self, moment: i64) {
        self.expiry.set(moment);
    }
}

/// A handshake that is under way.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
